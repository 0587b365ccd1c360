"""The statistics against scipy, known cases, and the share of simulated intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from promptmill.pipeline.report import stats
from promptmill.pipeline.report.analysis import triple
from promptmill.pipeline.report.stats import Estimate, differences, means, rank_correlation, variant_matrix


def covered(values: np.ndarray, truth: float) -> float:
    found = means(values)
    return float(np.mean([e.low <= truth <= e.high for e in found if e.low is not None and e.high is not None]))


def test_sums_that_cancel_have_no_sign() -> None:
    """Three images a prompt, thirds in another order: a difference of −9e-18 was shown, and could be called worse."""
    rows = np.array([[1 / 3, 2 / 3 - 1 / 3], [2 / 3, 1 - 1 / 3], [1.0, 1 / 3 + 2 / 3]])
    assert triple(Estimate(-9.3e-18, -3.7e-17, -1e-18, 12)) == [0.0, 0.0, 0.0, 12]
    assert triple(differences(rows, [0])[0][1])[0] == 0.0


def test_two_prompts_that_agree_prove_little() -> None:
    """A facet of two prompts was called sure where both differed by the same third."""
    for gap in (-1.0, -2 / 3, 1 / 3):
        values = np.array([[max(0.0, -gap), max(0.0, gap)], [min(1.0, 1 - gap), 1 - max(0.0, -gap)]])
        one = differences(values, [0], (0.0, 1.0))[0][1]
        assert one.low is not None and one.high is not None and one.low < 0 < one.high
    many = differences(np.array([[0.0, 1.0]] * 30), [0], (0.0, 1.0))[0][1]
    # Not more certain than that 1 − 0.025^(1/30) of all prompts may differ otherwise, at worst by −1.
    assert many.high == pytest.approx(1.0, abs=1e-6)
    assert many.low is not None and 0.7 < many.low <= 1 - (1 - 0.025 ** (1 / 30))


@pytest.mark.parametrize("n", [8, 12, 40, 200])
def test_interval_covers_95_percent_of_normal_data(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 0.1, (n, 2_000))
    assert 0.93 <= covered(values, 0.3) <= 0.97


def test_interval_covers_shares() -> None:
    values = np.random.default_rng(1).binomial(1, 0.7, (60, 2_000)).astype(float)
    assert 0.92 <= covered(values, 0.7) <= 0.975


def test_interval_covers_skewed_data() -> None:
    values = np.random.default_rng(2).exponential(1.0, (100, 2_000))
    assert 0.92 <= covered(values, 1.0) <= 0.97


def test_interval_ignoring_prompts_would_be_too_narrow() -> None:
    """Four images a prompt that nearly agree: counting each as evidence covers far less than 95 %."""
    rng = np.random.default_rng(3)
    by_prompt = rng.normal(0, 1, (50, 1, 1_000)) + rng.normal(0, 0.1, (50, 4, 1_000))
    assert covered(by_prompt.mean(axis=1), 0.0) > 0.93
    assert covered(by_prompt.reshape(200, 1_000), 0.0) < 0.8


def test_agrees_with_scipy_bootstrap() -> None:
    values = np.random.default_rng(4).gamma(2.0, 1.0, 300)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4_000, rng=5
    ).confidence_interval
    (ours,) = means(values[:, None])
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.02) and ours.high == pytest.approx(theirs.high, abs=0.02)


def test_interval_of_normal_data_is_at_least_students() -> None:
    values = np.random.default_rng(5).normal(0, 1, (30, 1))
    (found,) = means(values)
    t = scipy_stats.ttest_1samp(values[:, 0], 0.0).confidence_interval()
    assert found.low is not None and found.high is not None
    assert found.low <= t.low + 1e-9 and found.high >= t.high - 1e-9
    assert found.high - found.low < 1.1 * (t.high - t.low)


def test_p_is_below_5_percent_where_the_interval_leaves_out_0() -> None:
    rng = np.random.default_rng(9)
    for values in (rng.normal(0.4, 1, (9, 200)), rng.binomial(1, 0.3, (30, 200)).astype(float), rng.random((2, 200))):
        shifted = np.hstack([np.zeros((len(values), 1)), values])
        for one in differences(shifted, [0])[0][1:]:
            assert one.p is not None and one.low is not None and one.high is not None
            assert (one.p < 0.05) == (one.low > 0 or one.high < 0) or abs(one.p - 0.05) < 1e-3


def test_holm() -> None:
    assert stats.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert stats.holm([]) == [] and stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(6)
    prompt = rng.normal(0, 1, (80, 1))
    values = np.hstack([prompt, prompt + 0.1 + rng.normal(0, 0.05, (80, 1))])
    first, second = means(values)
    ((_, paired),) = differences(values, [0])
    assert first.high is not None and second.low is not None and first.high > second.low
    assert paired.low is not None and paired.low > 0.07 and paired.high is not None and paired.high < 0.13
    t = scipy_stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval()
    assert paired.low == pytest.approx(t.low, abs=0.004) and paired.high == pytest.approx(t.high, abs=0.004)


def test_missing_values_drop_out_pair_by_pair() -> None:
    values = np.array([[1.0, 2.0], [np.nan, 9.0], [3.0, 4.0], [5.0, np.nan]])
    assert [e.n for e in means(values)] == [3, 3]
    assert differences(values, [0])[0][1].n == 2
    assert differences(values, [0])[0][1].mean == 1.0


def test_nothing_and_one_prompt() -> None:
    assert means(np.zeros((0, 2)))[0] == stats.Estimate(None, None, None, 0)
    assert means(np.array([[0.5]]))[0] == stats.Estimate(0.5, None, None, 1)


def test_all_right_is_not_certain() -> None:
    """40 of 40 right: Clopper–Pearson's lower bound, not an interval of no width."""
    (found,) = means(np.ones((40, 1)), bounds=(0.0, 1.0))
    exact = scipy_stats.binomtest(40, 40).proportion_ci(0.95, "exact")
    assert found.low is not None and exact.low - 1e-3 <= found.low < 0.94 and found.high == 1.0
    (_, none) = differences(np.ones((40, 2)), [0], (0.0, 1.0))[0]
    assert none.high is not None and 0.08 < none.high < 0.1


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(7)
    x = np.round(rng.normal(0, 1, 400), 1)
    y = np.exp(x) + rng.normal(0, 1, 400)
    y[:5] = np.nan
    found = rank_correlation(x, y, np.arange(400) // 4)
    theirs = scipy_stats.spearmanr(x[5:], y[5:]).statistic
    assert found.mean == pytest.approx(theirs) and found.n == 395
    assert found.low is not None and found.high is not None and found.low < theirs < found.high
    assert rank_correlation(x, np.ones(400), np.arange(400)).mean is None


def test_rank_correlation_covers() -> None:
    rng = np.random.default_rng(8)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of a normal pair with correlation 0.6
    hits = 0
    for _ in range(100):
        x = rng.normal(0, 1, 120)
        found = rank_correlation(x, 0.6 * x + 0.8 * rng.normal(0, 1, 120), np.arange(120))
        hits += found.low is not None and found.high is not None and found.low <= truth <= found.high
    assert 88 <= hits <= 100


def test_variant_matrix_means_the_images_of_a_prompt() -> None:
    scores = np.array([1.0, 3.0, np.nan, 5.0])
    found = variant_matrix(scores, np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), (2, 2))
    np.testing.assert_array_equal(found, [[2.0, np.nan], [np.nan, 5.0]])
