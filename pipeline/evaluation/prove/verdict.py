"""What paired draws say: the difference with its interval, the verdict, and how many draws would have been needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from promptmill.schemas.proof import Difference, Verdict

_MOST_DRAWS = 1_000


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Of paired values in points, by Student's t; from one pair the interval is everything."""
    by_draw = np.subtract(ours, theirs)
    mean = float(by_draw.mean())
    half = 100.0
    if len(by_draw) > 1:
        half = float(stats.t.ppf(0.975, len(by_draw) - 1) * by_draw.std(ddof=1) / np.sqrt(len(by_draw)))
    return Difference(mean, mean - half, mean + half, [float(each) for each in by_draw])


def simplest(values: Sequence[Sequence[float]]) -> int:
    """The first of several, so put the simplest first, that is within one standard error of the best, by paired draws:
    the one-standard-error rule (Breiman et al. 1984, section 3.4.3). Of one draw there is no error: the best."""
    best = values[int(np.argmax([np.mean(each) for each in values]))]
    lost = [np.subtract(best, each) for each in values]
    errors = [each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0 for each in lost]
    return next(place for place, each in enumerate(lost) if each.mean() <= errors[place])


def verdict(found: Difference) -> Verdict:
    if found.low > 0:
        return "helps"
    return "harms" if found.high < 0 else "no difference shown"


def draws_needed(found: Difference) -> int | None:
    """The least number of draws whose t test at 5 % finds a difference of this size and spread with power 0.8."""
    spread = float(np.std(found.by_draw, ddof=1)) if len(found.by_draw) > 1 else 0.0
    if found.mean == 0 or spread == 0:
        return None if found.mean == 0 else 2
    for draws in range(2, _MOST_DRAWS):
        shift = abs(found.mean) / spread * np.sqrt(draws)
        limit = stats.t.ppf(0.975, draws - 1)
        power = 1 - stats.nct.cdf(limit, draws - 1, shift)
        if np.isfinite(power) and power >= 0.8:
            return draws
    return _MOST_DRAWS
