"""What the report's curves are made of: calibration, gain, and who is shown. Pure arithmetic.

Shape suffixes: N forecasts, K bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumos.config import Task
from lumos.experiment.assignment import buckets_of
from lumos.serve.accuracy import bins
from lumos.serve.calibrators import fit_task

Floats = NDArray[np.float64]
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Reliability:
    """Usual forecast and outcome of each bin, with a 95% interval of the outcome; all (K,)."""

    forecast: Floats
    outcome: Floats
    half_width: Floats
    size: NDArray[np.int64]


def reliability(
    outcome_N: Floats, forecast_N: Floats, user_N: Sequence[str], *, num_bins: int = 10
) -> Reliability:
    """Sort forecasts into bins of nearly equal size and compare each with what happened.

    The interval is over users, not over forecasts: a user's outcomes at several origins are
    alike, and would make the interval too narrow if they were counted as independent.
    """
    number_N = bins(forecast_N, num_bins)
    size = np.bincount(number_N, minlength=num_bins)
    filled = size > 0
    divisor = np.maximum(size, 1)
    outcome = np.bincount(number_N, outcome_N, num_bins) / divisor
    forecast = np.bincount(number_N, forecast_N, num_bins) / divisor
    _, code_N = np.unique(np.asarray(user_N, object), return_inverse=True)
    _, first, cell_N = np.unique(
        code_N * num_bins + number_N, return_index=True, return_inverse=True
    )
    residual = np.bincount(cell_N, outcome_N - outcome[number_N])
    variance = np.bincount(number_N[first], residual**2, num_bins) / divisor**2
    half_width = _Z95 * np.sqrt(variance)
    return Reliability(forecast[filled], outcome[filled], half_width[filled], size[filled])


def median_reliability(
    outcome_N: Floats, forecast_N: Floats, user_N: Sequence[str], *, num_bins: int = 10
) -> Reliability:
    """The same with medians, for forecasts that are medians: by the mean, all would look too low.

    The half-width is half of the order statistics' interval, as of one outcome a user: a user's
    outcomes at several origins are alike.
    """
    number_N = bins(forecast_N, num_bins)
    users_N = np.asarray(user_N, object)
    shown = []
    for number in np.unique(number_N):
        inside = number_N == number
        size, num_users = int(inside.sum()), len(np.unique(users_N[inside]))
        reach = min(_Z95 / 2 / np.sqrt(num_users), 0.5)
        low, middle, high = np.quantile(outcome_N[inside], [0.5 - reach, 0.5, 0.5 + reach])
        shown.append((float(np.median(forecast_N[inside])), middle, (high - low) / 2, size))
    forecast, outcome, half_width, sizes = zip(*shown, strict=True)
    return Reliability(
        np.array(forecast), np.array(outcome), np.array(half_width), np.array(sizes, np.int64)
    )


def cross_fitted(
    task: Task, outcome_N: Floats, forecast_N: Floats, user_N: Sequence[str]
) -> Floats | None:
    """Calibrated forecasts, each by a calibrator that never saw the user's own outcomes.

    Returns:
        float64 of shape (N,), or ``None`` where one half of the users is empty.
    """
    is_first = buckets_of(user_N, "report") % 2 == 0
    if is_first.all() or not is_first.any():
        return None
    calibrated = np.empty_like(forecast_N)
    for held in (is_first, ~is_first):
        calibrated[held] = fit_task(task, outcome_N[~held], forecast_N[~held])(forecast_N[held])
    return calibrated


def gain(outcome_N: Floats, forecast_N: Floats, *, num_points: int = 101) -> tuple[Floats, Floats]:
    """Share of all outcomes found among the users with the highest forecasts.

    Returns:
        Shares of users, from 0 to 1, and the shares of the outcome they hold. Users with equal
        forecasts count as if in random order.
    """
    share = np.linspace(0, 1, num_points)
    total = float(outcome_N.sum())
    if not total:
        return share, share
    order = np.argsort(-forecast_N, kind="stable")
    # Equal forecasts share their mean outcome, so that the order of rows says nothing.
    _, inverse, counts = np.unique(forecast_N, return_inverse=True, return_counts=True)
    mean_N = (np.bincount(inverse, outcome_N) / counts)[inverse]
    found = np.concatenate([[0.0], np.cumsum(mean_N[order])]) / total
    return share, np.interp(share * len(outcome_N), np.arange(len(found)), found)


def at_quantiles(counts: Sequence[int], quantiles: Sequence[float]) -> list[int]:
    """Positions of the values at these quantiles, each position once, in the given order."""
    if not len(counts):
        return []
    order = np.argsort(np.asarray(counts), kind="stable")
    chosen = (int(order[round(q * (len(order) - 1))]) for q in quantiles)
    return list(dict.fromkeys(chosen))
