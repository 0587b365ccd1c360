"""Guidance, and the negative prompt."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch

from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.guidance import Guidance
from promptmill.pipeline.models.diffusion.prompt_encoder import PromptEncoder
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample


class GuidanceConditioner:
    """The scale, and what the image is guided away from."""

    def __init__(self, guidance: Guidance, texts: PromptEncoder, device: torch.device) -> None:
        self._guidance, self._gives_tensors, self._device = guidance, texts.gives_tensors, device

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        """Given as text, an empty negative prompt and none at all can differ, so those go apart too."""
        plain = not self._gives_tensors and bool(sample.negative_prompt)
        return self._guidance.is_guided(sample, generation), plain

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        return self._guidance.arguments(batch.samples, batch.generation, batch.texts, self._device)


def make(parts: Parts) -> GuidanceConditioner:
    return GuidanceConditioner(parts.guidance, parts.texts, parts.device)
