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
