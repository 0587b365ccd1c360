"""How an image is conditioned: each kind gives arguments of the pipeline's call, and says who may share it.

A new kind is one more file in `conditioners/`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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

    @property
    def parts(self) -> int:
        """How long its texts are, which is the same for all."""
        return self.texts.parts(self.samples[0].prompt, self.samples[0].negative_prompt)


class Conditioner(Protocol):
    def group(self, sample: Sample, generation: Generation) -> Hashable:
        """Samples with other answers go through the pipeline apart: what they ask for is one value a call."""

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        """For the pipeline's call."""


def groups(
    conditioners: Sequence[Conditioner], samples: Sequence[Sample], generation: Generation, texts: PromptEncoder
) -> list[list[Sample]]:
    """Samples that may share a batch without changing what any of them shows."""
    found: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        own = [each.group(sample, generation) for each in conditioners]
        length = texts.parts(sample.prompt, sample.negative_prompt)
        found.setdefault((length, *own), []).append(sample)
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
