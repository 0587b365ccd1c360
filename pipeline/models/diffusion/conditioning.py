"""What conditions an image, one class a kind: each gives arguments of the pipeline's call, and says who may share it.

A new kind is one more class, in a file of its own, and a line in the list that the generator keeps of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from promptmill.pipeline.models.diffusion.guidance import Guidance, stacked
from promptmill.pipeline.models.diffusion.prompt_encoder import PromptEncoder
from promptmill.schemas.errors import WorkerError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample


@dataclass(frozen=True)
class Batch:
    """Samples that go through the pipeline together, and how."""

    samples: list[Sample]
    generation: Generation
    on_step: Callable[[], None]
    texts: PromptEncoder


class Conditioner(Protocol):
    def group(self, sample: Sample, generation: Generation) -> Hashable:
        """Samples with other answers go through the pipeline apart: what they ask for is one value a call."""

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        """For the pipeline's call."""


class TextConditioner:
    """The prompt: embeddings where `prompt_encoder` knows how the pipeline takes them, else the text itself."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        prompts = [sample.prompt for sample in batch.samples]
        if not batch.texts.gives_tensors:
            return {"prompt": [batch.texts.worded(prompt) for prompt in prompts]}
        return stacked([batch.texts.prompt(prompt) for prompt in prompts], "", self._device)


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


def groups(
    conditioners: Sequence[Conditioner], samples: Sequence[Sample], generation: Generation
) -> list[list[Sample]]:
    """Samples that may share a batch without changing what any of them shows."""
    found: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        found.setdefault(tuple(each.group(sample, generation) for each in conditioners), []).append(sample)
    return list(found.values())


def call_arguments(pipe: Any, conditioners: Sequence[Conditioner], batch: Batch) -> dict[str, Any]:
    """All that conditions the batch. Raises WorkerError for what the pipeline's call does not take."""
    arguments: dict[str, Any] = {}
    for conditioner in conditioners:
        arguments |= conditioner.arguments(batch)
    if unknown := arguments.keys() - inspect.signature(pipe.__call__).parameters.keys():
        names = ", ".join(sorted(unknown))
        raise WorkerError(f"{type(pipe).__name__} does not take {names}, and nothing that is asked for is dropped")
    return arguments
