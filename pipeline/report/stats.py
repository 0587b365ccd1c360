"""How sure a mean is, a difference of variants on the same prompts, and how far two scores agree.

The unit is the prompt: images of one prompt are no independent evidence, so their mean is one observation. A bootstrap
cannot leave the data, and covers 50 % with 2 prompts; these intervals cover 93 to 97 % from 2 prompts to 200 wherever a
statistic of that kind can (tests/report/test_coverage.py has the numbers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from promptmill.pipeline.report.shares import LEVEL, Floats, mid_p_intervals, paired_intervals, share_intervals

Integers = npt.NDArray[np.int64]

_AT: Final[Mapping[int, tuple[float, float, float]]] = {
    2: (0.967, 0.967, 0.0),
    3: (0.94, 0.967, 0.8),
    4: (0.94, 0.967, 1.0),
    5: (0.94, 0.963, 1.2),
    6: (0.94, 0.955, 1.2),
    7: (0.94, 0.95, 1.1),
    8: (0.95, 0.95, 1.0),
    9: (0.95, 0.95, 0.9),
}
_OF_MORE: Final = (LEVEL, LEVEL, 0.8)
"""By number of observations the levels of Student's t and of Hall's, and how much of the sample's skewness is taken:
found by simulation, so that normal, uniform, beta and exponential data are all covered between 93 and 97 %."""

_LEAST_IMAGES = 12


@dataclass(frozen=True)
class Estimate:
    """`low` and `high` bound the 95 % interval, None where fewer than two observations are there; `n` prompts.

    `p` is the two-sided chance of such a difference where there is none; below 5 % where the interval leaves out 0.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None = None


@dataclass(frozen=True)
class _Columns:
    """Observations of several quantities: float64 [prompts, columns] with 0 where there is none, and what is there."""

    filled: Floats
    there: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, values: Floats) -> _Columns:
        values = np.asarray(values, np.float64)
        there = np.isfinite(values)
        return cls(np.where(there, values, 0.0), there)

    @property
    def n(self) -> Floats:
        found: Floats = self.there.sum(axis=0).astype(np.float64)
        return found

    @property
    def mean(self) -> Floats:
        n = self.n
        found: Floats = np.divide(self.filled.sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0)
        return found

    def moment(self, power: int) -> Floats:
        """Mean of the distance to the mean, to this power."""
        distance = np.where(self.there, self.filled - np.nan_to_num(self.mean), 0.0)
        found: Floats = (distance**power).sum(axis=0) / np.maximum(self.n, 1)
        return found

    def count(self, value: Any) -> Floats:
        found: Floats = (self.there & np.isclose(self.filled, value, rtol=0, atol=1e-9)).sum(axis=0).astype(np.float64)
        return found

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Whether all observations of a column are one number."""
        return self.count(np.nan_to_num(self.mean)) >= self.n


def is_share(values: Floats, bounds: tuple[float, float] | None = None) -> bool:
    """Whether every observation holds or does not: 0 or 1, and both are met, or known to be all there is."""
    found = set(np.unique(values[np.isfinite(values)])) if values.size else set()
    return bool(found) and found <= {0.0, 1.0} and (len(found) == 2 or bounds == (0.0, 1.0))


def means(values: Floats, bounds: tuple[float, float] | None = None) -> list[Estimate]:
    """Mean of each column of float64 [prompts, columns] over its finite values, with its interval.

    `bounds` are the least and greatest value that the metric can have.
    """
    columns = _Columns.of(values)
    if is_share(values, bounds):
        low, high = share_intervals(columns.filled.sum(axis=0), columns.n)
    else:
        low, high, _ = _mean_intervals(columns)
        if bounds is not None:
            low, high = _bounded(columns, low, high, bounds)
    return _estimates(columns, low, high)


def differences(
    values: Floats, baselines: Sequence[int], bounds: tuple[float, float] | None = None
) -> list[list[Estimate]]:
    """For each baseline the mean of column − baseline over the prompts that have both, with its paired interval."""
    binary = is_share(values, bounds)
    return [_differences(values, values[:, [baseline]], bounds, binary) for baseline in baselines]


def _differences(values: Floats, baseline: Floats, bounds: tuple[float, float] | None, binary: bool) -> list[Estimate]:
    # 2/3 − 0 and 1 − 1/3 differ in the last bit, and prompts that agree are told from prompts that do not.
    columns = _Columns.of((values - baseline).round(12))
    width = bounds[1] - bounds[0] if bounds is not None else 1.0
    more = np.maximum(columns.filled, 0).sum(axis=0) / width
    less = np.maximum(-columns.filled, 0).sum(axis=0) / width
    if binary:
        low, high, p = paired_intervals(more, less, np.maximum(columns.n, 1))
        return _estimates(columns, low, high, p)
    low, high, p = _mean_intervals(columns)
    if bounds is not None:
        # Where nearly all prompts agree their spread says little: then as if each differed by all or nothing.
        most = np.where(columns.same, columns.n, columns.count(0.0))
        agree = _nearly_all(columns.n, most)
        wide = paired_intervals(more, less, np.maximum(columns.n, 1))
        low = np.clip(np.where(agree, np.minimum(low, wide[0] * width), low), -width, width)
        high = np.clip(np.where(agree, np.maximum(high, wide[1] * width), high), -width, width)
        p = np.where(agree, np.maximum(p, wide[2]), p)
    return _estimates(columns, low, high, p)


def _nearly_all(n: Floats, most: Floats) -> npt.NDArray[np.bool_]:
    """Whether at most four observations differ from one value that most have."""
    found: npt.NDArray[np.bool_] = (n - most <= 4) & (2 * most >= n)
    return found


def _bounded(columns: _Columns, low: Floats, high: Floats, bounds: tuple[float, float]) -> tuple[Floats, Floats]:
    """Within the metric's bounds; where nearly all prompts are at one of them, as wide as a share's interval is."""
    width = bounds[1] - bounds[0]
    n = np.maximum(columns.n, 1)
    most = np.where(columns.same, columns.n, np.maximum(columns.count(bounds[0]), columns.count(bounds[1])))
    share = (columns.filled.sum(axis=0) - columns.n * bounds[0]) / width
    least, greatest = (bounds[0] + width * bound for bound in mid_p_intervals(share, n))
    agree = _nearly_all(columns.n, most)
    low = np.where(agree, np.minimum(low, least), low)
    high = np.where(agree, np.maximum(high, greatest), high)
    return np.maximum(low, bounds[0]), np.minimum(high, bounds[1])


def _mean_intervals(columns: _Columns) -> tuple[Floats, Floats, Floats]:
    """Bounds of the mean, and the two-sided p of it being 0: at each end the wider of Student's t and Hall's.

    Hall 1992, On the removal of skewness by transformation; `_AT` says at which levels. The two together cover 95 to
    97 % of normal data and 93.5 % and more of exponential (t alone: 88 % with 5 prompts).
    """
    n = columns.n
    free = np.maximum(n - 1, 1)
    spread = np.sqrt(columns.moment(2) * n / free)
    root = np.sqrt(np.maximum(n, 1))
    of_t, of_hall, share = (np.array([_AT.get(int(k), _OF_MORE)[i] for k in n]) for i in range(3))
    usual, plain, bent = (stats.t.ppf((1 + level) / 2, free) for level in (LEVEL, of_t, of_hall))
    a, b = _skewness(columns, share)
    low, high = (
        columns.mean - spread * pick(sign * plain / root, _unbent(sign * bent / root, a, b))
        for pick, sign in ((np.maximum, 1), (np.minimum, -1))
    )
    w = np.divide(columns.mean, spread, out=np.full(len(spread), np.nan), where=spread > 0)
    p = _two_sided(root * w * usual / plain, root * _bent(w, a, b) * usual / bent, free)
    same = columns.same
    p = np.where(same, (np.nan_to_num(columns.mean) == 0).astype(np.float64), p)
    return np.where(same, columns.mean, low), np.where(same, columns.mean, high), p


def _skewness(columns: _Columns, share: Floats) -> tuple[Floats, Floats]:
    """Hall's a and b: a third of this share of the skewness, and a sixth of it by the number of observations."""
    sigma = np.sqrt(columns.moment(2))
    cube = np.divide(columns.moment(3), sigma**3, out=np.zeros_like(sigma), where=sigma > 1e-150)
    skew = share * cube
    return skew / 3, skew / 6 / np.maximum(columns.n, 1)


def _bent(w: Floats, a: Floats, b: Floats) -> Floats:
    return w + a * w**2 + a**2 * w**3 / 3 + b


def _unbent(y: Floats, a: Floats, b: Floats) -> Floats:
    safe = np.where(np.abs(a) > 1e-9, a, 1.0)
    found: Floats = np.where(np.abs(a) > 1e-9, (np.cbrt(1 + 3 * a * (y - b)) - 1) / safe, y - b)
    return found


def _two_sided(plain: Floats, bent: Floats, free: Floats) -> Floats:
    """The larger p of the two methods' t; 1 where they do not agree on the side."""
    worse = np.minimum(np.abs(plain), np.abs(bent))
    found: Floats = np.where(np.sign(plain) == np.sign(bent), 2 * stats.t.sf(worse, free), 1.0)
    return found


def _estimates(columns: _Columns, low: Floats, high: Floats, p: Floats | None = None) -> list[Estimate]:
    n = columns.n.astype(np.int64)
    chance = np.full(len(n), np.nan) if p is None else p
    return [
        Estimate(_number(m), *((_number(a), _number(b), int(k), _number(q)) if k > 1 else (None, None, int(k))))
        for m, a, b, k, q in zip(columns.mean, low, high, n, chance, strict=True)
    ]


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Each p, raised for how many comparisons are looked at together (Holm 1979); None stays and does not count."""
    order = sorted((p, i) for i, p in enumerate(chances) if p is not None)
    found: list[float | None] = [None] * len(chances)
    worst = 0.0
    for rank, (p, i) in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p))
        found[i] = worst
    return found


def rank_correlation(x: Floats, y: Floats, prompts: npt.NDArray[np.int64]) -> Estimate:
    """Spearman's rank correlation over samples; `n` counts samples.

    The interval is Fisher's transformation with the deviation of a jackknife that leaves out whole prompts, and
    Student's t; none from fewer than 3 prompts or 12 images, where it would cover as little as 34 %.
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
    total = parts.sum(axis=0)
    middle = _correlation(total[None])[0]
    without = _correlation(total - parts)
    if size < 3 or n < _LEAST_IMAGES or not np.isfinite(without).all() or not np.isfinite(middle):
        return Estimate(_number(middle), None, None, n)
    turned = np.arctanh(np.clip(without, -0.9999, 0.9999))
    deviation = np.sqrt((size - 1) * turned.var())
    half = stats.t.ppf((1 + LEVEL) / 2, size - 1) * deviation
    centre = np.arctanh(np.clip(middle, -0.9999, 0.9999))
    return Estimate(_number(middle), _number(np.tanh(centre - half)), _number(np.tanh(centre + half)), n)


def _correlation(sums: Floats) -> Floats:
    """Pearson's from sums of 1, a, b, a², b², ab in float64 [rows, 6]."""
    n, a, b, aa, bb, ab = sums.T
    n = np.where(n > 0, n, np.nan)  # one group without the only one there is
    spread = (aa - a * a / n) * (bb - b * b / n)
    good = spread > 1e-12
    quotient: Floats = np.divide(
        ab - a * b / n, np.sqrt(np.where(good, spread, 1.0)), out=np.full(len(n), np.nan), where=good
    )
    return quotient


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def variant_matrix(
    scores: Floats, prompts: npt.NDArray[np.int64], variant_of: npt.NDArray[np.int64], shape: tuple[int, int]
) -> Floats:
    """Mean score of each prompt in each variant: float64 [prompts, variants], NaN where there is none."""
    there = np.isfinite(scores)
    place = prompts[there] * shape[1] + variant_of[there]
    total = np.bincount(place, weights=scores[there], minlength=shape[0] * shape[1])
    count = np.bincount(place, minlength=shape[0] * shape[1])
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean.reshape(shape)
