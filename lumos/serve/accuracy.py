"""How good a forecast was: one set of measures for the forecaster, the champion and the baselines.

Binary tasks are judged by AUC, log loss, Brier score and calibration error; amounts by WAPE, MAE,
rank correlation, and bias or, where the forecast is a median, how far it is from one. MAPE is left
out: it is undefined at zero, and zero is the commonest outcome. Everything is plain numpy, so that
a task that only needs a number starts fast.

Shape suffixes: N forecasts.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lumos.config import Task

Floats = NDArray[np.float64]
Measures = dict[str, float | None]

# A forecast of exactly 0 or 1 that turns out wrong must not make a mean infinite.
_SMALLEST_PROBABILITY = 1e-6
_NUM_BINS = 10
# An amount is at a median that is so close, as a share of the mean outcome: a forecast of a
# hundredth where half the users do nothing at all is no error.
_CLOSE = 0.02


def ranks(values_N: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def auc(outcome_N: Floats, forecast_N: Floats) -> float | None:
    """Chance that a positive is ranked above a negative; ``None`` where one kind is absent."""
    num_positive = int(outcome_N.sum())
    num_negative = len(outcome_N) - num_positive
    if not num_positive or not num_negative:
        return None
    above = ranks(forecast_N)[outcome_N > 0].sum() - num_positive * (num_positive + 1) / 2
    return float(above / num_positive / num_negative)


def log_loss(outcome_N: Floats, forecast_N: Floats) -> float:
    """Mean negative log likelihood, in nats."""
    p = np.clip(forecast_N, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return float(-np.mean(outcome_N * np.log(p) + (1 - outcome_N) * np.log(1 - p)))


def bins(forecast_N: Floats, num_bins: int) -> NDArray[np.int64]:
    """Bin numbers by quantile of the forecast; equal forecasts always share a bin."""
    edges = np.quantile(forecast_N, np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.searchsorted(edges, forecast_N, side="left")


def calibration_error(outcome_N: Floats, forecast_N: Floats, num_bins: int = _NUM_BINS) -> float:
    """ECE: mean distance between forecast and outcome over bins of (nearly) equal size."""
    number = bins(forecast_N, num_bins)
    gap = np.bincount(number, forecast_N, num_bins) - np.bincount(number, outcome_N, num_bins)
    return float(np.abs(gap).sum() / len(outcome_N))


def beside_median(
    outcome_N: Floats, forecast_N: Floats
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which outcomes lie below, and which above their forecast; those close to it do neither."""
    close = _CLOSE * float(np.abs(outcome_N).mean())
    return outcome_N < forecast_N - close, outcome_N > forecast_N + close


def median_error(outcome_N: Floats, forecast_N: Floats, num_bins: int = _NUM_BINS) -> float:
    """How much more than half of the outcomes lie on one side, a mean over bins of like forecasts.

    Zero is many users' median and their outcome: where they tie, neither side has more than half.
    """
    number = bins(forecast_N, num_bins)
    size = np.bincount(number, minlength=num_bins)
    sides = beside_median(outcome_N, forecast_N)
    most = np.max([np.bincount(number, side, num_bins) for side in sides], axis=0)
    return float(np.maximum(most - size / 2, 0).sum() / len(outcome_N))


def spearman(outcome_N: Floats, forecast_N: Floats) -> float | None:
    """Rank correlation; ``None`` where either side never varies."""
    a, b = ranks(outcome_N), ranks(forecast_N)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def relative_loss(task: Task, outcome_N: Floats, forecast_N: Floats) -> float | None:
    """Loss over that of one forecast for all: 0 is perfect, 1 knows nothing of anyone.

    Log loss for binary tasks, squared error for means, absolute error for medians. All are
    proper for what is asked, so that no bias can be rewarded, and the ratio has no unit, so that
    tasks can be averaged. ``None`` where all outcomes are equal.
    """
    if float(outcome_N.min()) == float(outcome_N.max()):
        return None
    if task.is_median:
        distance = np.abs(outcome_N - np.median(outcome_N))
        return float(np.mean(np.abs(forecast_N - outcome_N)) / np.mean(distance))
    constant = np.full_like(outcome_N, outcome_N.mean())
    if task.is_binary:
        return log_loss(outcome_N, forecast_N) / log_loss(outcome_N, constant)
    return float(np.mean((forecast_N - outcome_N) ** 2) / np.mean((constant - outcome_N) ** 2))


def measure(task: Task, outcome_N: Floats, forecast_N: Floats) -> Measures:
    """Every measure of one task; ``bias`` is the ratio of forecasts to outcomes.

    A median is below the mean where most do little: it has a ``median_error`` instead.
    """
    outcome, forecast = np.asarray(outcome_N, np.float64), np.asarray(forecast_N, np.float64)
    if task.is_binary:
        return {
            "auc": auc(outcome, forecast),
            "log_loss": log_loss(outcome, forecast),
            "brier": float(np.mean((forecast - outcome) ** 2)),
            "ece": calibration_error(outcome, forecast),
        }
    size, distance = float(np.abs(outcome).sum()), np.abs(forecast - outcome)
    bias = float(forecast.sum() / outcome.sum()) if outcome.sum() else None
    return {
        "wape": float(distance.sum()) / size if size else None,
        "mae": float(distance.mean()),
        **({"median_error": median_error(outcome, forecast)} if task.is_median else {"bias": bias}),
        "spearman": spearman(outcome, forecast),
    }


def primary_loss(losses: Iterable[float | None]) -> float | None:
    """What the gate compares: the mean relative loss of the tasks that could be judged at all."""
    judged = [loss for loss in losses if loss is not None]
    return float(np.mean(judged)) if judged else None
