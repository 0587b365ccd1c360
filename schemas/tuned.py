"""What `promptmill finetune` answers. Fields are only added."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from promptmill.schemas.result import Result


@dataclass(frozen=True)
class TunedAdapter:
    """One adapter, as `model.adapters` takes it. `of` is the class or image it is of, empty for all.

    `sha256` is of the file. What follows `steps` is null where it was made before, or by a command: `loss` is the mean
    of the last fifty steps, `steps_resumed` the step at which this command went on, `encoded_images` and
    `encoded_texts` what the cache did not have.
    """

    name: str
    of: str
    path: str
    sha256: str
    trigger: str | None
    images: int
    steps: int
    parameters: int | None = None
    loss: float | None = None
    seconds: float | None = None
    steps_resumed: int | None = None
    encoded_images: int | None = None
    encoded_texts: int | None = None
    memory_estimate: dict[str, int] | None = None


@dataclass(frozen=True)
class FinetuneResult(Result):
    folder: str
    adapters: list[TunedAdapter] = field(default_factory=list)

    def for_a_job(self) -> list[dict[str, Any]]:
        """As `model.adapters` of a job file."""
        return [
            {"name": each.name, "path": each.path, **({"trigger": each.trigger} if each.trigger else {})}
            for each in self.adapters
        ]


TUNED = {"finetune": FinetuneResult}
"""By command."""
