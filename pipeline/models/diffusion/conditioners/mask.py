"""Inpainting."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from PIL import Image

from promptmill.pipeline.models.catalog.tasks import blends
from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.images import Blend
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample


class MaskConditioner:
    """What of the image is drawn anew: as an argument, or where diffusers insists on other models, after each step."""

    def __init__(self, base: Any) -> None:
        self._blends = blends(type(base).__name__)
        self._base = base

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        if "mask" not in batch.samples[0].inputs:
            return {}
        if not self._blends:
            return {"mask_image": [Image.fromarray(sample.inputs["mask"].pixels) for sample in batch.samples]}
        return {"callback_on_step_end": Blend(self._base, batch.samples)}


def make(parts: Parts) -> MaskConditioner:
    return MaskConditioner(parts.pipe)
