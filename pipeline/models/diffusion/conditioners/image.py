"""Image to image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from PIL import Image

from promptmill.pipeline.models.catalog.tasks import task_for
from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.images import size_of
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample


class ImageConditioner:
    """The image that a sample starts from, and how far it is left behind, which is one value a call."""

    def __init__(self, base: str) -> None:
        self._base = base

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return (sample.strength, size_of(sample)) if sample.inputs else None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        inputs = batch.samples[0].inputs
        if "image" not in inputs or task_for(inputs, self._base) == "edit":
            return {}
        images = [Image.fromarray(sample.inputs["image"].pixels) for sample in batch.samples]
        return {"image": images, "strength": batch.samples[0].strength}


def make(parts: Parts) -> ImageConditioner:
    return ImageConditioner(type(parts.pipe).__name__)
