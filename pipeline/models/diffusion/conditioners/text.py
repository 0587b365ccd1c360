"""The prompt."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch

from promptmill.pipeline.models.catalog.diffusers_source import samples_tokens
from promptmill.pipeline.models.catalog.families import MIXES_PROMPTS, ONE_TEXT
from promptmill.pipeline.models.diffusion.conditioners.reference import references_of
from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.guidance import stacked
from promptmill.pipeline.models.diffusion.references import References
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.pipeline.models.diffusion.weighted import EMBEDDINGS
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample


class TextConditioner:
    """The prompt: embeddings where `prompt_encoder` knows how the pipeline takes them, else the text itself."""

    def __init__(self, base: str, device: torch.device, references: References) -> None:
        self._device, self._references = device, references
        self._mixes, self._is_text = base in MIXES_PROMPTS, base in ONE_TEXT
        self._alone = self._is_text or samples_tokens(base)

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        """Of a pipeline that is not known to keep prompts of a batch apart, samples of one prompt share it."""
        if self._alone:
            return sample.sample_id
        return None if self._mixes else (sample.prompt, sample.negative_prompt)

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        prompts = [sample.prompt for sample in batch.samples]
        if self._is_text:
            return {"prompt": batch.texts.worded(prompts[0])}
        if not batch.texts.gives_tensors:
            return {"prompt": [batch.texts.worded(prompt) for prompt in prompts]}
        found = stacked(
            [batch.texts.filled(batch.texts.prompt(prompt), batch.parts) for prompt in prompts], "", self._device
        )
        return self._with_words_of_images(found, batch)

    def _with_words_of_images(self, found: dict[str, Any], batch: Batch) -> dict[str, Any]:
        looks = self._references.in_use
        if looks is None or not looks.makes_words:
            return found
        scale = batch.generation.looking(batch.samples[0].steering)
        words = self._references.words(references_of(batch), scale)
        if words is None:
            return found
        own = found[EMBEDDINGS]
        return {**found, EMBEDDINGS: torch.cat([own, words.to(own.dtype)], dim=1)}


def make(parts: Parts) -> TextConditioner:
    return TextConditioner(type(parts.pipe).__name__, parts.device, parts.references)
