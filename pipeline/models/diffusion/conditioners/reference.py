"""Reference images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from PIL import Image

from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.references import Looks, References
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import REFERENCE
from promptmill.schemas.plan import Sample


class ReferenceConditioner:
    """The image that an IP-Adapter looks at, one a sample, and how strongly, which is one value a call.

    Words that Flux Redux makes of it stand behind those of the prompt: `text.py` puts them there.
    """

    def __init__(self, references: References) -> None:
        self._references = references

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return generation.looking(sample.steering) if self._references.in_use else None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        if self._references.in_use is None or self._references.in_use.makes_words:
            return {}
        self._references.scale(batch.generation.looking(batch.samples[0].steering))
        return {"ip_adapter_image": Looks(references_of(batch))}


def references_of(batch: Batch) -> list[Image.Image]:
    return [Image.fromarray(each.inputs[REFERENCE].pixels) for each in batch.samples]


def make(parts: Parts) -> ReferenceConditioner:
    return ReferenceConditioner(parts.references)
