"""Intervals for shares: prompts that hold or do not, and variants that differ on some of them. Exact, or nearly so."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
_TABLE_TO = 200
_STEPS = 2_000
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))


def share_intervals(successes: Floats, trials: Floats) -> tuple[Floats, Floats]:
    """Bounds of a binomial share: Blaker's exact interval up to 200 trials, above that Clopper–Pearson with mid-p.

    Blaker 2000, Confidence curves and improved exact confidence intervals for discrete distributions. It never holds
    the share less often than it says and is the shortest of its kind; with α = 7 % for up to 8 prompts and 5 % from
    40 it covers at least 93 % for every share, and 95 % on average from 10 prompts. Of 2 prompts nothing can stay
    below 97 %: one of three outcomes has to be left out, and each has up to half of the probability.
    """
    low, high = np.full(len(trials), np.nan), np.full(len(trials), np.nan)
    for n in np.unique(trials[np.isfinite(trials) & (trials > 0)]):
        here = trials == n
        if n <= _TABLE_TO:
            table = _blaker(int(n))
            rows = successes[here].astype(np.int64)
            low[here], high[here] = table[rows, 0], table[rows, 1]
        else:
            low[here], high[here] = mid_p_intervals(successes[here], np.full(int(here.sum()), n))
    return low, high


def _alpha(n: int) -> float:
    """7 % up to 8 trials, 5.2 % of 200: the coverage of a share that is met in steps lies above what is asked for."""
    return float(np.interp(n, [8, 40, 200], [0.07, 0.058, 0.052]))


@lru_cache(maxsize=256)
def _blaker(n: int) -> Floats:
    """float64 [n + 1, 2]: bounds for each number of successes."""
    grid = np.linspace(0.0, 1.0, _STEPS + 1)
    counts = np.arange(n + 1)[:, None]
    mass = stats.binom.pmf(counts, n, grid[None])
    below = np.cumsum(mass, axis=0)
    tail = np.minimum(below, 1 - below + mass)
    table = np.zeros((n + 1, 2))
    for k in range(n + 1):
        likely = (mass * (tail <= tail[k] * (1 + 1e-9))).sum(axis=0) > _alpha(n)
        inside = np.flatnonzero(likely)
        table[k] = grid[max(0, inside[0] - 1)], grid[min(_STEPS, inside[-1] + 1)]
    table[0, 0], table[n, 1] = 0.0, 1.0
    return table


def mid_p_intervals(successes: Floats, trials: Floats) -> tuple[Floats, Floats]:
    """Clopper–Pearson with mid-p; successes may be no whole number, as a sum of shares is."""
    k, n = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    tail = (1 - LEVEL) / 2
    low, high = (
        _root(lambda p: _mid_p(p, k, n) < tail, np.zeros_like(n)),
        _root(lambda p: _mid_p(p, k, n) < 1 - tail, np.zeros_like(n)),
    )
    return np.where(k < 1e-9, 0.0, low), np.where(k > n - 1e-9, 1.0, high)


def _mid_p(p: Floats, k: Floats, n: Floats) -> Floats:
    """The chance of more than k successes of n, and half of that of k."""
    with np.errstate(invalid="ignore"):
        at_least = np.where(k > 1e-9, special.betainc(np.maximum(k, 1e-9), n - k + 1, p), 1.0)
        more = np.where(k < n - 1e-9, special.betainc(k + 1, np.maximum(n - k, 1e-9), p), 0.0)
    half: Floats = (at_least + more) / 2
    return half


def paired_intervals(more: Floats, less: Floats, pairs: Floats) -> tuple[Floats, Floats, Floats]:
    """Bounds of the difference of two paired shares, and the two-sided p of none: Tango's score interval.

    Tango 1998, Equivalence test and confidence interval for the difference in proportions for the paired-sample design.
    `more` pairs hold in the second alone, `less` in the first alone. At 95 % it covers as little as 86 % of 3 pairs,
    so few pairs have the level that covers 93 % for every pair of shares (`_LEVELS`). Of 2 and 3 no level does, since
    one pair that ties weighs nothing: there the interval is widened to that of a share in which a tie is a half.
    """
    z = stats.norm.ppf((1 + _paired_levels(pairs)) / 2)
    low, high = _tango(more, less, pairs, z)
    distance = np.abs(more - less) / np.sqrt(np.maximum(more + less, 1e-12))
    p = 2 * stats.norm.sf(distance * _Z / z)
    few = pairs < min(_LEVELS)
    halves = (more - less + pairs) / 2
    least, greatest = (2 * bound - 1 for bound in mid_p_intervals(halves, pairs))
    evidence = _mid_p(np.full_like(pairs, 0.5), halves, pairs)
    low, high = np.where(few, np.minimum(low, least), low), np.where(few, np.maximum(high, greatest), high)
    return low, high, np.where(few, np.maximum(p, 2 * np.minimum(evidence, 1 - evidence)), p)


_LEVELS = {4: 0.985, 5: 0.975, 6: 0.97, 7: 0.955, 8: 0.97, 9: 0.985, 10: 0.975, 11: 0.965, 20: 0.96}
"""By pairs, found over a grid of 190 pairs of shares; 95.5 % for others up to 200, 95 % above."""


def _paired_levels(pairs: Floats) -> Floats:
    found = np.where(pairs <= _TABLE_TO, 0.955, LEVEL)
    for few, level in _LEVELS.items():
        found = np.where(pairs == few, level, found)
    return found


def _tango(more: Floats, less: Floats, pairs: Floats, z: Floats) -> tuple[Floats, Floats]:
    twice = 2 * pairs

    def score(difference: Floats) -> Floats:
        linear = -more - less + (twice - more + less) * difference
        inner = np.maximum(linear**2 + 4 * twice * less * difference * (1 - difference), 0)
        fewer = (np.sqrt(inner) - linear) / (2 * twice)
        variance = pairs * (2 * fewer + difference * (1 - difference))
        distance = more - less - pairs * difference
        found: Floats = np.where(
            variance > 1e-12, distance / np.sqrt(np.maximum(variance, 1e-12)), np.sign(distance.round(9)) * 1e9
        )
        return found

    lowest = -np.ones_like(pairs)
    return _root(lambda d: score(d) > z, lowest), _root(lambda d: score(d) > -z, lowest)


def _root(is_below: Callable[[Floats], npt.NDArray[np.bool_]], below: Floats) -> Floats:
    """Where a rising condition ends, between `below` and 1, by bisection."""
    above = np.ones_like(below)
    for _ in range(40):
        middle = (below + above) / 2
        short = is_below(middle)
        below, above = np.where(short, middle, below), np.where(short, above, middle)
    found: Floats = (below + above) / 2
    return found
