"""What is known of each score without making it: its name, what it says, its bounds, and which end is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class ScoreFacts:
    """Of one score. `least` and `most` are None where it has no such bound."""

    name: str
    meaning: str = ""
    least: float | None = None
    most: float | None = None
    lower_is_better: bool = False

    @property
    def bounds(self) -> tuple[float, float] | None:
        return None if self.least is None or self.most is None else (self.least, self.most)


METRICS: Final = {
    "image": (
        ScoreFacts("sharpness", "variance of the Laplacian of luma", least=0),
        ScoreFacts("contrast", "standard deviation of luma", least=0),
        ScoreFacts("colourfulness", "Hasler and Süsstrunk's M(3)", least=0),
        ScoreFacts("near_black", "share of pixels that are nearly black", 0, 1, lower_is_better=True),
    ),
    "verified": (
        ScoreFacts("verified", "whether the image shows all that its caption claims", 0, 1),
        ScoreFacts("verified_share", "share of the caption's claims that hold", 0, 1),
    ),
}
"""By the word of a `metric` that needs no model. A score of the user's own is `python:` in the job file."""
METRIC_SCORES: Final = {word: tuple(facts.name for facts in scores) for word, scores in METRICS.items()}
_BY_NAME: Final = {facts.name: facts for scores in METRICS.values() for facts in scores}
LOWER_IS_BETTER: Final = frozenset(name for name, facts in _BY_NAME.items() if facts.lower_is_better)


def bounds_of(score: str) -> tuple[float, float] | None:
    facts = _BY_NAME.get(score)
    return None if facts is None else facts.bounds
