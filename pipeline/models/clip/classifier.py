"""Which class an image is of, by a folder of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from promptmill.pipeline.models.catalog.classifiers import (
    check_classifier_folder,
    classifier_folder,
    classifier_labels,
)
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.weights import list_folder
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import guarded, loading
from promptmill.pipeline.models.diffusion.pipelines import choose_device
from promptmill.pipeline.models.interface import Pixels

IMAGES = 32
"""In one pass."""


class ImageClassifier:
    """Runs in float32, as `ClipEncoder` does."""

    def __init__(self, model: ResolvedClip, device: str = "auto") -> None:
        """Raises ModelLoadError, and DeviceMemoryError when the weights do not fit."""
        self._device = choose_device(device)
        tried = f"Tried: AutoModelForImageClassification {model.location} on {self._device}"
        with loading(model.path, "scoring", lambda: tried), held(model):
            self._load(model)

    def _load(self, model: ResolvedClip) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        root = classifier_folder(model)
        check_classifier_folder(list_folder(root), "score")
        self.labels = classifier_labels(root)
        with closed():
            options = {"local_files_only": True, "trust_remote_code": False}
            loaded = AutoModelForImageClassification.from_pretrained(
                str(root), use_safetensors=True, dtype=torch.float32, **options
            )
            self._processor = AutoImageProcessor.from_pretrained(str(root), **options)
        self._model = loaded.eval().to(self._device)

    def probabilities(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 [len(images), labels], NaN where one is not finite. Raises SampleError for one image, WorkerError for
        more."""
        return guarded(lambda: self._classify(images), len(images) == 1, "scoring")

    def _classify(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), IMAGES):
                pictures = [Image.fromarray(each) for each in images[start : start + IMAGES]]
                inputs = self._processor(images=pictures, return_tensors="pt")["pixel_values"]
                parts.append(self._model(pixel_values=inputs.to(self._device)).logits.float())
        shares = torch.softmax(torch.cat(parts), dim=1)
        return np.asarray(shares.cpu().numpy(), np.float32)
