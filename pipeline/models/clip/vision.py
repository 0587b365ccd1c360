"""Embeddings of images by a folder of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from promptmill.pipeline.models.catalog.features import ResolvedVision, check_vision_folder, vision_files
from promptmill.pipeline.models.catalog.weights import BY_HASH, hash_files, list_folder
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import guarded, loading
from promptmill.pipeline.models.diffusion.pipelines import choose_device
from promptmill.pipeline.models.interface import Pixels
from promptmill.schemas.errors import JobError, Problem

IMAGES = 32
"""In one pass."""


class VisionEncoder:
    """Runs in float32, as `ClipEncoder` does."""

    def __init__(self, model: ResolvedVision, device: str = "auto") -> None:
        """Raises ModelLoadError, and DeviceMemoryError when the weights do not fit."""
        self._device = choose_device(device)
        with loading(model.path, "scoring", lambda: f"Tried: AutoModel {model.location} on {self._device}"):
            self._model, self._processor = _load(model, self._device)

    def images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 [len(images), width], of length 1. Raises SampleError for one image, WorkerError for more."""
        return guarded(lambda: self._encode(images), len(images) == 1, "scoring")

    def _encode(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), IMAGES):
                pictures = [Image.fromarray(each) for each in images[start : start + IMAGES]]
                inputs = self._processor(images=pictures, return_tensors="pt")["pixel_values"]
                parts.append(_pooled(self._model, inputs.to(self._device)).float())
        rows = torch.nn.functional.normalize(torch.cat(parts), dim=1)
        return np.asarray(rows.cpu().numpy(), np.float32)


def _pooled(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """CLIP and its kin have a space of their own; else what the model pools, else its first token or mean."""
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=inputs)
        return found if isinstance(found, torch.Tensor) else found.pooler_output
    answer = model(pixel_values=inputs)
    pooled = getattr(answer, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)  # type: ignore[no-any-return]
    hidden = answer.last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else hidden.flatten(2).mean(dim=2)  # type: ignore[no-any-return]


def _load(model: ResolvedVision, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel

    _look_again(model)
    with closed():
        options = {"local_files_only": True, "trust_remote_code": False}
        loaded = AutoModel.from_pretrained(model.location, use_safetensors=True, dtype=torch.float32, **options)
        processor = AutoImageProcessor.from_pretrained(model.location, **options)
    return loaded.eval().to(device), processor


def _look_again(model: ResolvedVision) -> None:
    """Raises JobError for a folder that is not what was looked at, or that must not be loaded."""
    folder = list_folder(Path(model.location))
    check_vision_folder(folder, "--model")
    if f"{BY_HASH}{hash_files(folder.root, vision_files(folder))[0]}" != model.revision:
        raise JobError(Problem("--model", f"the files that were there before in {folder.root}", "others"))
