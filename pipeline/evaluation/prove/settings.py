"""What a proof is asked for, and its arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from promptmill.schemas.proof import Control

Augmentation = Literal["none", "standard", "colour", "strong"]
Filter = Literal["all", "agreed"]


@dataclass(frozen=True)
class ProofSettings:
    """`shots` None is four fifths of the smallest class of the real images; `size` None is theirs, at most 32.
    `trained` is the folder of what was trained, which proofs share as far as they have it in common; None is `out`."""

    real: str
    synthetic: str
    test: str
    out: str
    validation: str | None = None
    learner: str = "cnn"
    shots: int | None = None
    draws: int = 5
    initialisations: int = 2
    steps: int = 1000
    batch: int = 48
    size: int | None = None
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    filters: tuple[Filter, ...] = ("all", "agreed")
    seed: int = 0
    flip: bool = False
    control: Control | None = None
    workers: int = 1
    trained: str | None = None


@dataclass(frozen=True)
class Arm:
    """`rows` is what the real side holds: `real`, real `repeated` to as many rows as with synthetic ones, or as many
    `more` real images. `share` of each batch is synthetic."""

    name: str
    augmentation: Augmentation
    share: float = 0.0
    rows: Literal["real", "repeated", "more"] = "real"
    steps: int = 1
    chosen_by: Filter = "all"

    @property
    def real_only(self) -> bool:
        return self.share == 0 and self.rows != "more"


FIRST: Final = (
    Arm("real", "none"),
    Arm("real, standard augmentation", "standard"),
    Arm("real, standard augmentation and colour jitter", "colour"),
    Arm("real, RandAugment and Mixup/CutMix", "strong"),
)
"""They say which augmentation the others have; the simplest first."""


def further(augmentation: Augmentation, best: Augmentation, shares: tuple[float, ...], with_more: bool) -> list[Arm]:
    """`best` is that of the best of `FIRST`, `augmentation` what arms with more images have."""
    arms = [
        Arm("the best of these, twice the steps", best, steps=2),
        Arm("real, repeated to the same rows", augmentation, rows="repeated"),
        *(Arm(f"real + synthetic, share {share:g}", augmentation, share) for share in shares),
        Arm("synthetic alone", augmentation, 1.0),
    ]
    return [*arms, Arm("as many more real images (ceiling)", augmentation, rows="more")] if with_more else arms


def filtered(arm: Arm, chosen_by: Filter) -> Arm:
    return Arm(f"{arm.name}, {chosen_by}", arm.augmentation, arm.share, arm.rows, arm.steps, chosen_by)
