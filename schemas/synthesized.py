"""What `promptmill synthesize` answers and writes as `synthesis.json`. Fields are only added."""

from __future__ import annotations

from dataclasses import dataclass, field

from promptmill.schemas.proof import Proof
from promptmill.schemas.result import Result


@dataclass(frozen=True)
class Candidate:
    """One way of making images, tried on the first draw. `kept` are its images after curation. `agreement` is the share
    of their labels that learners of the real images give too; `validation` the percent right there with half of each
    batch synthetic, null where curation left a class empty."""

    name: str
    made: int
    kept: int
    agreement: float | None
    validation: float | None


@dataclass(frozen=True)
class SynthesisResult(Result):
    """`decisions` are sentences: what was decided, and why. `real_validation` is that of the best real-only arm, in
    percent; `sets` the place of the chosen images, `{draw}` in it the number of a draw."""

    folder: str
    candidates: list[Candidate]
    real_validation: float
    chosen: str
    sets: str
    proof: Proof
    wordings: dict[str, str] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)


SYNTHESIZED = {"synthesize": SynthesisResult}
"""By command."""
