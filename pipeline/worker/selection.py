"""Which of the images of one prompt and variant are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from promptmill.schemas.scores import BELOW_MIN, NO_SCORE, NOT_SELECTED, UNSAFE_FLAGS, Condition, Select


def rejection_reasons(
    scores: Sequence[float | None],
    flags: Sequence[Sequence[str]],
    indices: Sequence[int],
    select: Select | None,
    quota: int | None = None,
    lower_is_better: bool = False,
    ranked: bool = True,
    unmet: Sequence[str | None] = (),
) -> list[str | None]:
    """None for each image that is kept, else the reason; ties go to the lowest sample index.

    `scores` are those of `select.by`. An image that a safety checker blanked is never kept. `quota` lowers
    `select.keep` where images of the group were kept earlier. Without a score (`ranked`) the first are kept. `unmet`
    says which condition of `select.where` an image does not meet.
    """
    reasons: list[str | None] = [next((flag for flag in image if flag in UNSAFE_FLAGS), None) for image in flags]
    if select is None:
        return reasons
    sign = 1 if lower_is_better else -1
    candidates: list[tuple[float, int, int]] = []
    for position, score in enumerate(scores):
        if reasons[position] is None and unmet:
            reasons[position] = unmet[position]
        if reasons[position] is not None:
            continue
        if not ranked:
            candidates.append((0.0, indices[position], position))
        elif score is None or math.isnan(score):
            reasons[position] = NO_SCORE
        elif select.min is not None and score < select.min:
            reasons[position] = BELOW_MIN
        else:
            candidates.append((sign * score, indices[position], position))
    keep = len(candidates) if select.keep is None else select.keep
    for _, _, position in sorted(candidates)[max(0, keep if quota is None else min(keep, quota)) :]:
        reasons[position] = NOT_SELECTED
    return reasons


def unmet_condition(conditions: Sequence[Condition], score: Callable[[str], float | None]) -> str | None:
    """The reason that the first condition gives which an image does not meet; `score` has its scores by name."""
    reasons = (condition.unmet(score(condition.score)) for condition in conditions)
    return next((reason for reason in reasons if reason is not None), None)
