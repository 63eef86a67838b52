"""Paired tests against scipy, learning curves against curves they were made from."""

import numpy as np
import pytest
from scipy import stats

from sxt_jax.core.errors import InputError
from sxt_jax.metrics import LearningCurve, fit_learning_curve, paired_t_test, wilcoxon_test
from sxt_jax.metrics.statistics import solve_interval


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


TABLE_1 = {  # Erozan et al. 2024: mean and SD of Dice after training on 5, 10, 20, 30, 43 tomograms
    'smart': ((90.03, 94.22, 95.43, 96.17, 97.78), (15.61, 15.33, 11.94, 11.00, 2.13)),
    'manual': ((86.81, 87.69, 90.93, 92.61, 93.87), (30.90, 17.48, 12.72, 10.37, 7.37)),
}
SIZES = (5, 10, 20, 30, 43)


def test_the_published_learning_curve_and_what_it_tells() -> None:
    """'About 52 additional manually segmented tomograms (95 in total)' for a Dice of 98 %."""
    dice, sd = (np.array(values) / 100 for values in TABLE_1['manual'])
    weighted = fit_learning_curve(SIZES, dice, sd=sd).solve(0.98)
    assert (int(weighted), int(weighted - 43)) == (95, 52)
    assert fit_learning_curve(SIZES, dice).solve(0.98) == pytest.approx(90.6, abs=0.05)
    low, high = solve_interval(SIZES, dice, target=0.98, sd=sd)
    assert 43 < low < 95 < high
    # 'With only 20 training datasets, our ACSeg achieved a Dice coefficient above 95 %.'
    dice, sd = (np.array(values) / 100 for values in TABLE_1['smart'])
    assert fit_learning_curve(SIZES, dice).solve(0.95) == pytest.approx(19.2, abs=0.05)
    low, high = solve_interval(SIZES, dice, target=0.95)
    assert low < 20 < high < 43


def test_the_interval_holds_what_it_promises() -> None:
    """Of 400 noisy curves about 95 % have the true number inside, and 80 % of narrower ones."""
    made, x = LearningCurve(0.1, 0.3, 0.0), np.array([2.0, 5, 10, 20, 20])
    curves = made(x) + 0.01 * np.random.default_rng(0).standard_normal((400, len(x)))
    for confidence in (0.95, 0.8):
        ends = [solve_interval(x, y, target=0.9, confidence=confidence) for y in curves]
        inside = np.mean([low <= made.solve(0.9) <= high for low, high in ends])
        assert inside == pytest.approx(confidence, abs=0.045)


def test_the_interval_is_that_of_all_curves_that_fit() -> None:
    """By brute force over both parameters."""
    x, y = np.array([5.0, 10, 20, 30, 43]), np.array(TABLE_1['manual'][0]) / 100
    a, b = np.meshgrid(np.linspace(0.01, 0.04, 601), np.linspace(0.1, 0.2, 801), indexing='ij')
    squares = ((1 - b[..., None] * np.exp(-a[..., None] * x) - y) ** 2).sum(-1)
    fits = squares <= squares.min() * (1 + stats.t.ppf(0.975, 3) ** 2 / 3)
    needed = np.log(b[fits] / 0.05) / a[fits]
    expected = (needed.min(), needed.max())
    assert solve_interval(x, y, target=0.95) == pytest.approx(expected, rel=0.005)


def test_intervals_without_end_and_without_points() -> None:
    low, high = solve_interval([2, 4, 8, 16], [0.8, 0.81, 0.8, 0.82], target=0.95)
    assert low > 16
    assert high == np.inf
    assert solve_interval([2, 4, 8], [0.9, 0.9, 0.9], target=0.95) == (np.inf, np.inf)
    low, high = solve_interval([2, 4, 8], [1.0, 1.0, 1.0], target=0.95)
    assert low == 0
    assert high < 2
    assert np.isnan(solve_interval([2, 4], [0.8, 0.9], target=0.95)).all()


def test_steps_perfect_scores_and_falling_curves() -> None:
    step = fit_learning_curve([2, 4, 8], [0.8, 1.0, 1.0])
    assert 2 < step.solve(0.95) < 4
    assert fit_learning_curve([2, 4, 8], [1.0, 1.0, 1.0]).solve(0.99) == 0
    falling = fit_learning_curve([200, 300], [0.9, 0.8])
    assert falling([200, 300]) == pytest.approx([0.9, 0.8])
    assert falling.a < 0


@pytest.mark.parametrize(
    'call',
    [
        lambda: paired_t_test([1.0], [2.0]),
        lambda: paired_t_test([1.0, 2.0], [1.0, 2.0, 3.0]),
        lambda: paired_t_test([1.0, np.nan], [1.0, 2.0]),
        lambda: wilcoxon_test([[1.0, 2.0]], [[1.0, 2.0]]),
        lambda: fit_learning_curve([5, 5], [0.5, 0.6]),
        lambda: fit_learning_curve([5, 10], [50.0, 60.0]),
        lambda: fit_learning_curve([5, 10], [0.5, 0.6], sd=[0.1, 0.0]),
        lambda: fit_learning_curve([5, 10], [0.5, np.nan]),
        lambda: fit_learning_curve([5, 10], [0.5, 0.6, 0.7]),
        lambda: LearningCurve(0.1, 0.3, 0.0).solve(1.0),
        lambda: LearningCurve(-0.1, 0.3, 0.0).solve(0.9),
    ],
)
def test_bad_input(call) -> None:
    with pytest.raises(InputError):
        call()
