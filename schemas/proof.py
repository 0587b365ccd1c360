"""What `promptmill prove` answers and writes as `proof.json`. Fields are only added."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from promptmill.schemas.result import Result

Verdict = Literal["helps", "no difference shown", "harms"]
Control = Literal["shuffled", "copies"]


@dataclass(frozen=True)
class Protocol:
    """`shots` are real images of each class in a draw; `size` the side in pixels to which all images are brought."""

    learner: str
    deterministic: bool
    classes: list[str]
    shots: int
    draws: int
    initialisations: int
    steps: int
    batch: int
    size: int
    shares: list[float]
    seed: int
    control: Control | None


@dataclass(frozen=True)
class SetFacts:
    """`sha256` is of the pixels and classes of all images, in order."""

    source: str
    images: int
    sha256: str


@dataclass(frozen=True)
class ArmResult:
    """Shares right in percent. `images` are distinct rows to train on in a draw, `share` the synthetic part of each
    batch. `validation_by_draw` and `test_by_draw` are means over the initialisations of a draw."""

    name: str
    real_only: bool
    share: float
    augmentation: str
    steps: int
    images: int
    validation: float
    validation_by_draw: list[float]
    test: float
    test_sd: float
    test_by_draw: list[float]


@dataclass(frozen=True)
class Difference:
    """Of the chosen synthetic arm to the best real-only arm on the test set, in points, paired by draw; `low` and
    `high` are the ends of the 95 % interval (Student's t over draws)."""

    mean: float
    low: float
    high: float
    by_draw: list[float]


@dataclass(frozen=True)
class Chosen:
    """By the mean on validation."""

    augmentation: str
    real_arm: str
    synthetic_arm: str
    share: float
    filter: str


@dataclass(frozen=True)
class Cost:
    """`device_seconds` are those that the receipts of a dataset say it took, null for other images; `per_point` null
    where no point was won."""

    images: int
    device_seconds: float | None
    images_per_point: float | None
    device_seconds_per_point: float | None
    training_seconds: float


@dataclass(frozen=True)
class Proof(Result):
    """`agreement` is the share of synthetic images that learners of the best real-only arm call as they are labelled,
    known before any training on them. `draws_needed` says how many draws would have shown a difference of this size
    and spread at 95 % in four of five proofs, null where it is 0."""

    verdict: Verdict
    difference: Difference
    draws_needed: int | None
    chosen: Chosen
    arms: list[ArmResult]
    protocol: Protocol
    real: SetFacts
    synthetic: SetFacts
    validation: SetFacts
    test: SetFacts
    test_openings: int
    agreement: float
    cost: Cost
    notices: list[str] = field(default_factory=list)


PROOFS = {"prove": Proof}
"""By command."""
