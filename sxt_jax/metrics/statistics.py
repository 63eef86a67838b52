"""Statistics over a set of volumes: paired tests and learning curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

from sxt_jax.core.errors import InputError

_ROUNDING = 1e-12  # relative


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Outcome of a paired comparison of a with b.

    Attributes:
      n: number of pairs used.
      mean_difference: mean of a − b.
      sd_difference: its standard deviation over the pairs (n − 1).
      statistic: t, or Wilcoxon's W.
      df: degrees of freedom (NaN for Wilcoxon).
      p: two-sided probability of such a difference if there is none.
      ci_low, ci_high: confidence interval of the mean difference (NaN for Wilcoxon).
    """

    n: int
    mean_difference: float
    sd_difference: float
    statistic: float
    df: float
    p: float
    ci_low: float
    ci_high: float


def paired_t_test(a: Any, b: Any, *, confidence: float = 0.95) -> PairedTest:
    """Two-sided paired t-test. Pairs with a value that is not finite are left out.

    Where all differences are equal, t is not defined: p is 1 if they are 0, else 0.

    Args:
      a: [n] values, such as the predicted volume of each cell.
      b: [n] values of the same cells, such as the true volume.
      confidence: of the interval of the mean difference.

    Raises:
      InputError: lengths differ, or fewer than two pairs.
    """
    difference = _differences(a, b)
    n, mean, sd = len(difference), difference.mean(), difference.std(ddof=1)
    df = n - 1
    error = sd / np.sqrt(n)
    if error > 0:
        t = mean / error
        p = 2 * stats.t.sf(abs(t), df)
    else:
        t, p = (0.0, 1.0) if mean == 0 else (np.copysign(np.inf, mean), 0.0)
    reach = stats.t.ppf((1 + confidence) / 2, df) * error
    values = (mean, sd, t, df, p, mean - reach, mean + reach)
    return PairedTest(n, *(float(v) for v in values))


def wilcoxon_test(a: Any, b: Any) -> PairedTest:
    """Wilcoxon's signed-rank test, two-sided: paired, without assuming a normal distribution.

    Exact for up to 50 pairs without ties or zeros (scipy's choice), else the normal
    approximation; differences of zero are dropped. If all are zero, p is 1.

    Args:
      a: [n] values.
      b: [n] values of the same cells.

    Raises:
      InputError: lengths differ, or fewer than two pairs.
    """
    difference = _differences(a, b)
    if np.any(difference):
        result = stats.wilcoxon(difference)
        statistic, p = float(result.statistic), float(result.pvalue)
    else:
        statistic, p = 0.0, 1.0
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    return PairedTest(len(difference), mean, sd, statistic, np.nan, p, np.nan, np.nan)


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """Dice after training on x tomograms: 1 − b exp(−a x) (Erozan et al. 2024).

    Attributes:
      a: rate, per tomogram.
      b: distance from 1 without any training data.
      rms_error: root mean square of the fit's residuals.
    """

    a: float
    b: float
    rms_error: float

    def __call__(self, x: Any) -> np.ndarray:
        """Dice expected for x tomograms."""
        return 1 - self.b * np.exp(-self.a * np.asarray(x, dtype=np.float64))

    def solve(self, target: float) -> float:
        """How many tomograms reach a target Dice (0 where none are needed).

        Raises:
          InputError: the target is not below 1, or the curve does not rise to it.
        """
        if not 0 <= target < 1 or (self.a <= 0 and target > 1 - self.b):
            raise InputError('target Dice', f'{target}', 'a value in [0, 1) that the curve reaches')
        return float(max(0.0, np.log(self.b / (1 - target)) / self.a)) if self.b > 0 else 0.0


def fit_learning_curve(x: Sequence[float] | Any, scores: Any) -> LearningCurve:
    """Least-squares fit of 1 − b exp(−a x) to scores.

    Args:
      x: [n] numbers of training tomograms, n ≥ 2.
      scores: [n] Dice in [0, 1).

    Raises:
      InputError: lengths differ, fewer than two points, or a score is outside [0, 1).
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(np.unique(x)) < 2:
        raise InputError('learning curve', f'{x.shape} and {y.shape}', 'two or more points')
    if not ((y >= 0) & (y < 1)).all():
        raise InputError('learning curve', f'scores {y.min()} … {y.max()}', 'Dice in [0, 1)')
    slope, intercept = np.polyfit(x, np.log(1 - y), 1)  # exact without noise: a good start
    (a, b), _ = optimize.curve_fit(
        lambda x, a, b: 1 - b * np.exp(-a * x), x, y, p0=(-slope, np.exp(intercept))
    )
    residual = y - (1 - b * np.exp(-a * x))
    return LearningCurve(float(a), float(b), float(np.sqrt(np.mean(residual**2))))


def _differences(a: Any, b: Any) -> np.ndarray:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(
            'paired test', f'shapes {a.shape} and {b.shape}', 'two lists of one length'
        )
    difference = a - b
    # Rounding is no difference: a test would find 1e-16 in every pair highly significant.
    difference[np.abs(difference) <= _ROUNDING * np.maximum(np.abs(a), np.abs(b))] = 0
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        raise InputError('paired test', f'{len(difference)} complete pairs', 'two or more')
    return difference
