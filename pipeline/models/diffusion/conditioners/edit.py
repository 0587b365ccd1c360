"""Instruction editing."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from typing import Any

from PIL import Image

from promptmill.pipeline.models.catalog.families import EDITS
from promptmill.pipeline.models.catalog.tasks import task_for
from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.images import size_of
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample


class EditConditioner:
    """The image that the prompt says a change to; where a list of images would be one set for all, a sample a call."""

    def __init__(self, pipe: Any) -> None:
        self._base = type(pipe).__name__
        self._call = inspect.signature(pipe.__call__).parameters

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return sample.sample_id if self._edits(sample) and EDITS[self._base] == "alone" else None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        if not self._edits(batch.samples[0]):
            return {}
        found: dict[str, Any] = {"image": [Image.fromarray(sample.inputs["image"].pixels) for sample in batch.samples]}
        if batch.generation.image_guidance_scale is not None:
            found["image_guidance_scale"] = batch.generation.image_guidance_scale
        if "max_area" in self._call:  # else Flux Kontext draws a million pixels whatever is asked for
            height, width = size_of(batch.samples[0]) or (0, 0)
            found |= {"max_area": height * width, "_auto_resize": False}
        return found

    def _edits(self, sample: Sample) -> bool:
        return task_for(sample.inputs, self._base) == "edit"


def make(parts: Parts) -> EditConditioner:
    return EditConditioner(parts.pipe)
