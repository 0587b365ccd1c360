"""How often the intervals of the page hold the truth, from 2 prompts to 200: simulated, and for shares by enumeration.

What the numbers say, in percent (seeds below):
  continuous   93 to 97 for normal, uniform, moderately skewed and exponential data from 2 prompts
  shares       never below 93. A share is met in steps: of 2 prompts three outcomes, one of which would have to be left
               out to stay below 97, and for middling shares each has a quarter or more of the probability. So above 97
               for 78 % of all shares with 2 prompts, 42 % with 8, 14 % with 20, 10 % with 50
  paired       never below 93 for any pair of shares. The steps are coarser still, since of pairs that agree nothing is
               seen: above 97 for nearly all pairs of shares up to 10 prompts, half of them with 16, a fifth with 40,
               and 4 % with 200. Tango at 95 % would be nearer with few prompts, and cover 86 % of some with 3
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.special import gammaln

from promptmill.pipeline.report.shares import paired_intervals, share_intervals
from promptmill.pipeline.report.stats import differences, means, rank_correlation

PROMPTS = [2, 3, 4, 5, 6, 8, 12, 20, 50, 200]
NOISE = 0.004
"""Of the upper bound: a deviation and a half of a share of 6,000 trials."""

Rng = np.random.Generator


def trials(n: int) -> int:
    return 6_000 if n <= 20 else 1_500


def held(values: np.ndarray, truth: float, bounds: tuple[float, float] | None = None) -> float:
    found = means(values, bounds)
    assert all(one.low is not None for one in found)
    return float(np.mean([one.low <= truth <= one.high for one in found if one.low is not None]))


def held_paired(gaps: np.ndarray, truth: float) -> float:
    """Of differences between two settings, a column each trial."""
    found = differences(np.hstack([np.zeros((len(gaps), 1)), gaps]), [0])[0][1:]
    ends = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    return float(np.mean([low <= truth <= high for low, high in ends]))


NORMAL: list[tuple[str, Callable[[Rng, tuple[int, int]], np.ndarray], float]] = [
    ("normal", lambda rng, size: rng.normal(0.3, 0.1, size), 0.3),
    ("uniform", lambda rng, size: rng.random(size), 0.5),
    ("beta", lambda rng, size: rng.beta(2, 5, size), 2 / 7),
]


@pytest.mark.parametrize("n", PROMPTS)
@pytest.mark.parametrize(("draw", "truth"), [case[1:] for case in NORMAL], ids=[case[0] for case in NORMAL])
def test_continuous(n: int, draw: Callable[[Rng, tuple[int, int]], np.ndarray], truth: float) -> None:
    values = draw(np.random.default_rng(n), (n, trials(n)))
    assert 0.93 <= held(values, truth) <= 0.97 + NOISE


@pytest.mark.parametrize("n", sorted({*PROMPTS, 7, 9, 10}))
def test_skewed(n: int) -> None:
    """t alone covers 88 % with 5 prompts; t and Hall's at the same levels for every number 92 % up to 7."""
    values = np.random.default_rng(n).exponential(1.0, (n, trials(n)))
    assert 0.93 - NOISE <= held(values, 1.0) <= 0.97
    assert 0.93 - NOISE <= held_paired(1.0 - values, 0.0) <= 0.97


@pytest.mark.parametrize("n", PROMPTS)
def test_paired_continuous(n: int) -> None:
    """Settings that differ by a little, on prompts that differ a lot; and gaps that are skewed."""
    rng = np.random.default_rng(n)
    prompt = rng.normal(0, 1, (n, trials(n)))
    other = prompt + 0.1 + rng.normal(0, 0.2, prompt.shape)
    assert 0.93 <= held_paired(other - prompt, 0.1) <= 0.97 + NOISE
    gaps = rng.beta(2, 6, (n, trials(n))) - rng.beta(2, 3, (n, trials(n)))
    assert 0.93 <= held_paired(gaps, 0.25 - 0.4) <= 0.97 + NOISE


def share_coverage(n: int) -> np.ndarray:
    shares = np.linspace(0.001, 0.999, 999)
    counts = np.arange(n + 1.0)
    low, high = share_intervals(counts, np.full(n + 1, float(n)))
    mass = scipy_stats.binom.pmf(counts[:, None], n, shares)
    inside = (low[:, None] <= shares + 1e-9) & (shares <= high[:, None] + 1e-9)
    return (mass * inside).sum(axis=0)


@pytest.mark.parametrize("n", PROMPTS)
def test_shares(n: int) -> None:
    coverage = share_coverage(n)
    assert coverage.min() >= 0.93
    if n >= 5:
        assert 0.945 <= coverage.mean() <= 0.97


def test_what_shares_of_few_prompts_cannot() -> None:
    """The share of all p whose coverage is above 97 %, as this file's head says it."""
    above = [float(np.mean(share_coverage(n) > 0.97)) for n in (2, 8, 20, 50)]
    assert above == pytest.approx([0.78, 0.42, 0.14, 0.10], abs=0.01)


def test_a_large_share_is_as_exact() -> None:
    shares = np.linspace(0.02, 0.98, 97)
    counts = np.arange(501.0)
    low, high = share_intervals(counts, np.full(501, 500.0))
    mass = scipy_stats.binom.pmf(counts[:, None], 500, shares)
    coverage = (mass * ((low[:, None] <= shares) & (shares <= high[:, None]))).sum(axis=0)
    assert coverage.min() >= 0.93 and 0.945 <= coverage.mean() <= 0.955


@pytest.mark.parametrize("n", [*range(2, 32), 40, 50, 80])
def test_paired_shares(n: int) -> None:
    more, less = (side.ravel() for side in np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0)))
    more, less = more[more + less <= n], less[more + less <= n]
    low, high, _ = paired_intervals(more, less, np.full(len(more), float(n)))
    ways = gammaln(n + 1) - gammaln(more + 1) - gammaln(less + 1) - gammaln(n - more - less + 1)
    coverage = []
    for p in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95):
        for q in (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45):
            if p + q < 1:
                mass = np.exp(ways + more * np.log(p) + less * np.log(q) + (n - more - less) * np.log(1 - p - q))
                coverage.append(mass[(low <= p - q + 1e-9) & (p - q <= high + 1e-9)].sum())
    assert min(coverage) >= 0.93
    assert np.mean(coverage) <= (0.97 if n >= 30 else 1.0)


@pytest.mark.parametrize("n", [2, 5, 8, 20])
@pytest.mark.parametrize("mean", [0.7, 0.9, 0.97])
def test_prompts_of_four_images(n: int, mean: float) -> None:
    """Shares of a prompt's images, where prompts differ: nearly all agree in what is seen, and not in what is true."""
    rng = np.random.default_rng(n)
    of_prompt = rng.beta(mean * 7 / 3, (1 - mean) * 7 / 3, (n, 1_500))
    values = rng.binomial(4, of_prompt) / 4
    assert held(values, mean, (0.0, 1.0)) >= (0.93 if mean < 0.97 else 0.9)


@pytest.mark.parametrize("prompts", [4, 8, 40])
def test_rank_correlation(prompts: int) -> None:
    rng = np.random.default_rng(prompts)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    hits = []
    for _ in range(400):
        x = rng.normal(0, 1, prompts * 4)
        found = rank_correlation(x, 0.6 * x + 0.8 * rng.normal(0, 1, prompts * 4), np.arange(prompts * 4) // 4)
        hits.append(found.low is not None and found.high is not None and found.low <= truth <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98
