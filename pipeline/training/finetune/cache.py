"""Latents and text embeddings, kept under a hash of all they depend on: never stale, and one edit costs one row."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load, save
from torch import Tensor

from promptmill.pipeline.storage.local import replace_file
from promptmill.pipeline.training.finetune.denoiser import Denoiser, Rows
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel

_ACTING = ("torch", "diffusers", "transformers", "pillow")


@dataclass
class Cache:
    """Files below `folder`. `made` counts what was not there: images and texts that were encoded now."""

    folder: Path
    model: ResolvedModel
    denoiser: Denoiser
    made: dict[str, int] = field(default_factory=lambda: {"latents": 0, "texts": 0})

    def latents(self, name: str, pixels: np.ndarray, sha256: str, flipped: bool) -> Tensor:
        """float32 [1, …]. Raises JobError with the image's name where they are not finite."""

        def make() -> Rows:
            return {"latents": self.denoiser.encoded(_fitted(pixels, self.denoiser.size, flipped))}

        found = self._kept("latents", {"image": sha256, "flipped": flipped}, make)["latents"]
        if not torch.isfinite(found).all():
            hint = "Take the image away, or use dtype float32: half precision overflows in some autoencoders."
            raise JobError(Problem(f"images.source {name}", "finite latents", "NaN or infinity", hint))
        return found

    def text(self, caption: str) -> Rows:
        return self._kept("texts", {"caption": caption}, lambda: self.denoiser.rows(caption))

    def _kept(self, kind: str, what: Mapping[str, Any], make: Callable[[], Rows]) -> Rows:
        key = f"{kind}/{self._key(kind, what)}.safetensors"
        with contextlib.suppress(Exception):  # torn, or not there: it is made
            return load((self.folder / key).read_bytes())
        made = {name: value.detach().cpu().contiguous() for name, value in make().items()}
        replace_file(self.folder, key, save(made))
        self.made[kind] += 1
        return made

    def _key(self, kind: str, what: Mapping[str, Any]) -> str:
        """Of the input, the weights and settings that act on it, the size, and the libraries."""
        width, height = self.denoiser.size
        everything = {
            **what,
            "kind": kind,
            "model": self.model.revision,
            "class": self.model.pipeline_class,
            "dtype": str(next(self.denoiser.module.parameters()).dtype),
            "device": next(self.denoiser.module.parameters()).device.type,
            "threads": torch.get_num_threads(),
            "size": [width, height],
            "versions": {name: version(name) for name in _ACTING},
        }
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _fitted(pixels: np.ndarray, size: tuple[int, int], flipped: bool) -> Tensor:
    """Covers the size: the shorter side fits, the rest is cut evenly. float [1, 3, height, width] in [-1, 1]."""
    picture = ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.LANCZOS)
    fitted = np.asarray(ImageOps.mirror(picture) if flipped else picture)
    return torch.from_numpy(fitted.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
