"""How much it may be instead: an interval for each amount, right as often as it says.

Split conformal prediction, Mondrian by bins of the calibrated forecast (Vovk et al. 2005, 4.5): the
forecaster learned from other days, so that within a bin the outcomes of matured days and the next
one are alike, and their order statistics bound it. Most amounts are nothing for most users, so the
outcome itself is ranked and not its distance from the forecast: a distance puts the lower end below
zero, where nothing is, and the upper end too low.

Where more than half of what may be missed is nothing at all, the lower end is zero, nobody is below
it, and the upper end may leave out all that may be missed. Between bins both ends are interpolated;
both only rise with the forecast.

Shape suffixes: N evaluated forecasts, M of one bin, K knots.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from lumos.config import Config, Task
from lumos.serve.accuracy import Floats, bins
from lumos.serve.calibrators import in_first_half

_BIN_SIZE = 200  # then a twentieth, what a level of .9 leaves out on a side, is ten outcomes
_MOST_BINS = 20


class Interval(Config):
    """One task's map from calibrated forecasts to the ends of its interval.

    Attributes:
        task: Name of the task.
        level: Share of outcomes meant to lie inside, ends included.
        x: Calibrated forecasts, ascending.
        low: Lower ends at ``x``, never falling.
        high: Upper ends at ``x``, never falling.
    """

    task: str
    level: float
    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, calibrated_N: Floats) -> tuple[Floats, Floats]:
        """Lower and upper ends; the forecast itself is always inside."""
        # Beyond the outer knots both ends grow with the forecast: amounts spread as they grow,
        # and so do losses.
        growth = np.ones_like(calibrated_N)
        if self.x[-1] > 0:
            growth = np.maximum(growth, calibrated_N / self.x[-1])
        if self.x[0] < 0:
            growth = np.maximum(growth, calibrated_N / self.x[0])
        # An infinite forecast has no ends, as publishing's gate will say; 0 x inf is no warning.
        with np.errstate(invalid="ignore"):
            low = np.interp(calibrated_N, self.x, self.low) * growth
            high = np.interp(calibrated_N, self.x, self.high) * growth
        return np.minimum(low, calibrated_N), np.maximum(high, calibrated_N)


def fit_interval(task: Task, level: float, outcome_N: Floats, calibrated_N: Floats) -> Interval:
    """Fit one task on what came true. Fewer than 2 / (1 - level) outcomes bound less than said.

    Args:
        task: An amount, be it a mean or a median that is forecast.
        level: Share of outcomes meant to lie inside.
        outcome_N: What came true.
        calibrated_N: What is published as the score.
    """
    most = int(np.clip(len(outcome_N) // _BIN_SIZE, 1, _MOST_BINS))
    _, group = np.unique(bins(calibrated_N, most), return_inverse=True)
    size = np.bincount(group).astype(np.float64)
    by_bin = np.split(outcome_N[np.lexsort((outcome_N, group))], np.cumsum(size[:-1]).astype(int))
    low, high = np.transpose([_ends(sorted_M, level) for sorted_M in by_bin])
    return Interval(
        task=task.name,
        level=level,
        x=tuple((np.bincount(group, calibrated_N) / size).tolist()),
        low=tuple(isotonic_regression(low, weights=size).x.tolist()),
        high=tuple(isotonic_regression(high, weights=size).x.tolist()),
    )


def _ends(sorted_M: Floats, level: float) -> tuple[float, float]:
    """Outcomes of a bin that leave out ``1 - level``: half below, or what there is, the rest above.

    By conformal ranks, to within one outcome: M outcomes split the next one's place into M + 1
    equally likely ones. Of losses it is the same, mirrored.
    """
    if sorted_M.sum() < 0:
        low, high = _ends(-sorted_M[::-1], level)
        return -high, -low
    num = len(sorted_M)
    low = sorted_M[max(int((1 - level) / 2 * (num + 1)), 1) - 1]
    num_below = np.searchsorted(sorted_M, low)
    upper = min(int(np.ceil(level * (num + 1))) + num_below, num)
    return float(low), float(sorted_M[upper - 1])


def cross_fitted_inside(
    task: Task,
    level: float,
    outcome_N: Floats,
    calibrated_N: Floats,
    user_id: NDArray[np.object_],
) -> NDArray[np.bool_]:
    """Which outcomes lie in intervals fitted on users other than one's own half of all users."""
    is_first = in_first_half(user_id)
    if is_first.all() or not is_first.any():
        return np.ones(len(outcome_N), bool)
    inside = np.empty(len(outcome_N), bool)
    for half in (is_first, ~is_first):
        interval = fit_interval(task, level, outcome_N[~half], calibrated_N[~half])
        low, high = interval(calibrated_N[half])
        inside[half] = (low <= outcome_N[half]) & (outcome_N[half] <= high)
    return inside
