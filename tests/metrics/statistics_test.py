"""Paired tests against scipy, learning curves against curves they were made from."""

import numpy as np
import pytest
from scipy import stats

from sxt_jax.core.errors import InputError
from sxt_jax.metrics import LearningCurve, fit_learning_curve, paired_t_test, wilcoxon_test


@pytest.fixture(name='pairs')
def _pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.normal(200, 40, 10)
    return true + rng.normal(3, 5, 10), true


def test_t_test_agrees_with_scipy(pairs: tuple) -> None:
    ours, theirs = paired_t_test(*pairs), stats.ttest_rel(*pairs)
    assert ours.statistic == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.df == theirs.df == 9
    interval = theirs.confidence_interval(0.95)
    assert (ours.ci_low, ours.ci_high) == pytest.approx((interval.low, interval.high))
    assert ours.mean_difference == pytest.approx(np.mean(pairs[0] - pairs[1]))
    assert ours.sd_difference == pytest.approx(np.std(pairs[0] - pairs[1], ddof=1))
    wide = paired_t_test(*pairs, confidence=0.99)
    assert wide.ci_low < ours.ci_low < ours.ci_high < wide.ci_high


def test_t_test_by_hand() -> None:
    test = paired_t_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # differences 1, 2, 3
    assert test.statistic == pytest.approx(2 * np.sqrt(3))
    assert test.n == 3


def test_swapping_turns_the_sign(pairs: tuple) -> None:
    forth, back = paired_t_test(*pairs), paired_t_test(*pairs[::-1])
    assert back.statistic == pytest.approx(-forth.statistic)
    assert back.p == pytest.approx(forth.p)


def test_equal_differences_have_no_t() -> None:
    same = paired_t_test([1.0, 2.0], [1.0, 2.0])
    assert (same.statistic, same.p) == (0, 1)
    shifted = paired_t_test([2.0, 3.0], [1.0, 2.0])
    assert (shifted.statistic, shifted.p) == (np.inf, 0)


def test_rounding_is_no_difference() -> None:
    a = np.array([0.1, 0.2, 0.3]) * 3
    assert paired_t_test(a, a * (1 + 2e-16)).p == 1


def test_pairs_without_value_are_left_out(pairs: tuple) -> None:
    a, b = (np.append(side, extra) for side, extra in zip(pairs, (np.nan, 5.0), strict=True))
    assert paired_t_test(a, b) == paired_t_test(*pairs)


def test_wilcoxon_agrees_with_scipy(pairs: tuple) -> None:
    ours, theirs = wilcoxon_test(*pairs), stats.wilcoxon(*pairs)
    assert (ours.statistic, ours.p) == (theirs.statistic, theirs.pvalue)
    assert wilcoxon_test([1.0, 2.0], [1.0, 2.0]).p == 1
    # All eight differences positive: two of the 2^8 equally likely sign patterns are as extreme.
    assert wilcoxon_test(np.arange(2.0, 10), np.ones(8)).p == pytest.approx(2 / 256)


def test_learning_curve_is_found_again() -> None:
    made = LearningCurve(a=0.08, b=0.3, rms_error=0.0)
    x = np.array([5, 10, 20, 30, 43])
    found = fit_learning_curve(x, made(x))
    assert (found.a, found.b) == pytest.approx((0.08, 0.3))
    assert found.rms_error < 1e-8
    assert made(made.solve(0.97)) == pytest.approx(0.97)
    assert made.solve(0.5) == 0  # better without training data


def test_noisy_curve_beats_its_neighbours() -> None:
    """A least-squares fit: moving either parameter makes the residuals larger."""
    x = np.array([5.0, 10, 20, 30, 43])
    y = 1 - 0.2 * np.exp(-0.06 * x) + np.array([0.004, -0.006, 0.003, -0.002, 0.005])
    fit = fit_learning_curve(x, y)
    best = np.sum((fit(x) - y) ** 2)
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert np.sum((LearningCurve(fit.a + da, fit.b + db, 0.0)(x) - y) ** 2) > best


@pytest.mark.parametrize(
    'call',
    [
        lambda: paired_t_test([1.0], [2.0]),
        lambda: paired_t_test([1.0, 2.0], [1.0, 2.0, 3.0]),
        lambda: paired_t_test([1.0, np.nan], [1.0, 2.0]),
        lambda: wilcoxon_test([[1.0, 2.0]], [[1.0, 2.0]]),
        lambda: fit_learning_curve([5, 5], [0.5, 0.6]),
        lambda: fit_learning_curve([5, 10], [0.5, 1.0]),
        lambda: fit_learning_curve([5, 10], [0.5, 0.6, 0.7]),
        lambda: LearningCurve(0.1, 0.3, 0.0).solve(1.0),
        lambda: LearningCurve(-0.1, 0.3, 0.0).solve(0.9),
    ],
)
def test_bad_input(call) -> None:
    with pytest.raises(InputError):
        call()
