"""How sure a mean is, a difference of settings on the same prompts, and how far two scores agree.

The unit is the prompt: images of one prompt are no independent evidence, so their mean is one observation, and whole
prompts are drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEVEL = 0.95
RESAMPLES = 2_000
NORMAL_FROM = 5_000
"""With so many prompts the bootstrap of a mean is a normal distribution to three digits, and this is the faster way."""

_CHUNK = 250


@dataclass(frozen=True)
class Estimate:
    """`low` and `high` bound the 95 % interval, None where fewer than two observations are there; `n` prompts."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def means(values: Floats, bounds: tuple[float, float] | None = None, seed: int = 0) -> list[Estimate]:
    """Mean of each column of float64 [prompts, columns] over its finite values, with its interval.

    Expanded percentile bootstrap: quantiles are moved outwards so that for few prompts the interval is as wide as
    Student's t (Hesterberg 2015, What Teachers Should Know about the Bootstrap, section 3.2). `bounds` are the least
    and greatest value that the metric can have: where all prompts agree, the interval then is Clopper–Pearson's.
    """
    values = np.asarray(values, np.float64)
    there = np.isfinite(values)
    counts = there.sum(axis=0)
    filled = np.where(there, values, 0.0)
    middle = np.divide(filled.sum(axis=0), counts, out=np.full(values.shape[1], np.nan), where=counts > 0)
    if len(values) >= NORMAL_FROM:
        low, high = _normal(filled, there, counts, middle)
    else:
        low, high = _bootstrap(filled, there, counts, seed)
    same = np.where(there, values, np.inf).min(0, initial=np.inf) == np.where(there, values, -np.inf).max(
        0, initial=-np.inf
    )
    slack = (bounds[1] - bounds[0]) * (1 - ((1 - LEVEL) / 2) ** (1 / np.maximum(counts, 1))) if bounds else 0.0
    low, high = np.where(same, middle - slack, low), np.where(same, middle + slack, high)
    if bounds is not None:
        low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    return [
        Estimate(_number(m), _number(a) if n > 1 else None, _number(b) if n > 1 else None, int(n))
        for m, a, b, n in zip(middle, low, high, counts, strict=True)
    ]


def differences(
    values: Floats, baselines: Sequence[int], bounds: tuple[float, float] | None = None, seed: int = 0
) -> list[list[Estimate]]:
    """For each baseline the mean of column − baseline over the prompts that have both, with its paired interval."""
    columns = values.shape[1]
    # 2/3 − 0 and 1 − 1/3 differ in the last bit, and prompts that agree are told from prompts that do not.
    stacked = np.hstack([values - values[:, [baseline]] for baseline in baselines]).round(12)
    found = means(stacked, None, seed)
    if bounds is not None:
        width = bounds[1] - bounds[0]
        found = [_clipped(one, (-width, width)) for one in found]
    return [found[start : start + columns] for start in range(0, len(found), columns)]


def _clipped(one: Estimate, bounds: tuple[float, float]) -> Estimate:
    if one.low is None or one.high is None:
        return one
    if one.low == one.high == one.mean:
        # All prompts differ by the same amount. Clopper–Pearson bounds the share that might not, at worst by a bound.
        share = 1 - ((1 - LEVEL) / 2) ** (1 / one.n)
        low, high = one.mean - share * (one.mean - bounds[0]), one.mean + share * (bounds[1] - one.mean)
        return Estimate(one.mean, low, high, one.n)
    return Estimate(one.mean, max(bounds[0], one.low), min(bounds[1], one.high), one.n)


def _bootstrap(
    filled: Floats, there: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64], seed: int
) -> tuple[Floats, Floats]:
    complete = bool(there.all())
    drawn = []
    for weights in resampling_weights(len(filled), seed):
        total = weights @ filled
        size = weights.sum(axis=1, keepdims=True) if complete else weights @ there
        drawn.append(np.divide(total, size, out=np.full(total.shape, np.nan), where=size > 0))
    resampled = np.concatenate(drawn) if drawn else np.full((1, filled.shape[1]), np.nan)
    low, high = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    for n in np.unique(counts[counts > 1]):
        columns = counts == n
        tail = expanded_tail(int(n))
        quantile = np.quantile if complete else np.nanquantile
        low[columns], high[columns] = quantile(resampled[:, columns], [tail, 1 - tail], axis=0)
    return low, high


def resampling_weights(n: int, seed: int = 0) -> Iterator[Floats]:
    """How often each of `n` observations is drawn: float64 [≤ 250, n] at a time, `RESAMPLES` rows in all."""
    rng = np.random.default_rng(seed)
    for start in range(0, RESAMPLES if n else 0, _CHUNK):
        rows = min(_CHUNK, RESAMPLES - start)
        drawn = rng.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def expanded_tail(n: int) -> float:
    """Share of resampled means to leave out at either end; under 2.5 % for few observations."""
    quantile = stats.t.ppf((1 - LEVEL) / 2, n - 1)
    return float(stats.norm.cdf(np.sqrt(n / (n - 1)) * quantile))


def _normal(
    filled: Floats, there: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64], middle: Floats
) -> tuple[Floats, Floats]:
    squares = (np.where(there, filled - middle, 0.0) ** 2).sum(axis=0)
    variance = np.divide(squares, counts - 1, out=np.full(len(counts), np.nan), where=counts > 1)
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance / np.maximum(counts, 1))
    return middle - half, middle + half


def rank_correlation(x: Floats, y: Floats, prompts: npt.NDArray[np.int64], seed: int = 0) -> Estimate:
    """Spearman's rank correlation over samples, its interval by drawing whole prompts; `n` counts samples.

    Ranks are those of the whole sample and are not drawn anew, so that a resample costs six sums.
    """
    both = np.isfinite(x) & np.isfinite(y)
    n = int(both.sum())
    if n < 3:
        return Estimate(None, None, None, n)
    a, b = stats.rankdata(x[both]), stats.rankdata(y[both])
    a, b = a - a.mean(), b - b.mean()
    _, group = np.unique(prompts[both], return_inverse=True)
    size = int(group.max()) + 1
    parts = np.stack(
        [np.bincount(group, weights=w, minlength=size) for w in (np.ones(n), a, b, a * a, b * b, a * b)], 1
    )
    middle = _correlation(parts.sum(axis=0)[None])[0]
    if size < 3:
        return Estimate(_number(middle), None, None, n)
    drawn = np.concatenate([_correlation(weights @ parts) for weights in resampling_weights(size, seed)])
    if not np.isfinite(drawn).any():
        return Estimate(_number(middle), None, None, n)
    tail = expanded_tail(size)
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Estimate(_number(middle), _number(low), _number(high), n)


def _correlation(sums: Floats) -> Floats:
    """Pearson's from sums of 1, a, b, a², b², ab in float64 [rows, 6]."""
    n, a, b, aa, bb, ab = sums.T
    spread = (aa - a * a / n) * (bb - b * b / n)
    good = spread > 1e-12
    quotient: Floats = np.divide(
        ab - a * b / n, np.sqrt(np.where(good, spread, 1.0)), out=np.full(len(n), np.nan), where=good
    )
    return quotient


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def cell_matrix(
    scores: Floats, prompts: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], shape: tuple[int, int]
) -> Floats:
    """Mean score of each prompt in each cell: float64 [prompts, cells], NaN where there is none."""
    there = np.isfinite(scores)
    place = prompts[there] * shape[1] + cells[there]
    total = np.bincount(place, weights=scores[there], minlength=shape[0] * shape[1])
    count = np.bincount(place, minlength=shape[0] * shape[1])
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean.reshape(shape)
