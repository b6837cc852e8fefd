"""One task's forecasts made to mean what they say: fitted on what came true, monotone.

For chances two numbers (Platt: the log odds shifted and stretched), drawn towards no change; with
very many outcomes a monotone curve (centred isotonic regression: Oron & Flournoy 2017), which
keeps the order of users where it rises. For means the ratio of outcomes to
forecasts, drawn towards 1, whatever their sign. Medians are left as they are: no ratio to what came
true is theirs.
What else was tried stands in docs/decisions/0010-calibration.md.

Shape suffixes: N evaluated forecasts.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from lumos.accio.chance import hash_users, uniform
from lumos.config import Config, Task
from lumos.serve.accuracy import Floats, bins
from lumos.serve.logistic import fit_logistic, log_odds, sigmoid

_ENOUGH = 5000  # positives, and negatives, from which a curve is worth more than two numbers
_PRIOR = 20.0  # outcomes of typical size that the ratio's pull towards 1 is worth
_FIRMNESS = 4.0  # inverse variance of the belief that log odds are right as they are
_BIN_SIZE = 50
_HALVES = 10  # salt of this stream of chance, its own; accio.chance names the others


class Calibrator(Config):
    """One task's map from raw to calibrated forecasts.

    Attributes:
        task: Name of the task.
        kind: ``isotonic`` interpolates ``y`` over ``x``; ``logistic`` maps log odds ``l`` to
            ``shift + stretch * l``; ``ratio`` multiplies.
        x: Raw forecasts, ascending.
        y: Calibrated values at ``x``.
    """

    task: str
    kind: Literal["isotonic", "logistic", "ratio"]
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    shift: float = 0.0
    stretch: float = 1.0
    ratio: float = 1.0

    def __call__(self, forecast_N: Floats) -> Floats:
        """Calibrated forecasts."""
        if self.kind == "isotonic":
            return np.interp(forecast_N, self.x, self.y)
        if self.kind == "logistic":
            return sigmoid(self.shift + self.stretch * log_odds(forecast_N))
        return forecast_N * self.ratio


def fit_task(task: Task, outcome_N: Floats, forecast_N: Floats) -> Calibrator:
    """Fit one task: a curve where there is enough to see, else a number or two."""
    if task.is_median:
        return Calibrator(task=task.name, kind="ratio")
    total = float(outcome_N.sum())
    if not task.is_binary:
        return Calibrator(task=task.name, kind="ratio", ratio=_ratio(outcome_N, forecast_N))
    if min(total, len(outcome_N) - total) >= _ENOUGH:
        x, y = centred_isotonic(outcome_N, forecast_N)
        return Calibrator(task=task.name, kind="isotonic", x=tuple(x), y=tuple(y))
    shift, stretch = _platt(outcome_N, log_odds(forecast_N))
    return Calibrator(task=task.name, kind="logistic", shift=shift, stretch=stretch)


def _ratio(outcome_N: Floats, forecast_N: Floats) -> float:
    """Total outcome over total forecast, drawn towards 1 and never past it or the quotient.

    The same for amounts of the other sign. Where gains and losses cancel out, the quotient of what
    is left says nothing: it counts for the share of the amounts that is left.
    """
    total, forecast = float(outcome_N.sum()), float(forecast_N.sum())
    sizes = [(total, outcome_N), (forecast, forecast_N)]
    left = min(abs(net) / size if (size := float(np.abs(each).sum())) else 1.0
               for net, each in sizes)  # fmt: skip
    # In the task's own unit, a prior of so many outcomes of typical size.
    prior = _PRIOR * float(np.abs(outcome_N).mean()) or 1.0
    sign = np.sign(forecast) or np.sign(total)
    return float(max((left * sign * total + prior) / (left * abs(forecast) + prior), 0.0))


def _platt(outcome_N: Floats, odds_N: Floats) -> tuple[float, float]:
    inputs = np.column_stack([np.ones_like(odds_N), odds_N])
    prior = np.array([0.0, 1.0])
    shift, stretch = fit_logistic(inputs, outcome_N, prior_K=prior, strength=_FIRMNESS)
    if stretch >= 0:
        return float(shift), float(stretch)
    # Users ranked upside down are not for a calibrator to turn round: say the same of everyone.
    rate = (outcome_N.sum() + 0.5) / (len(outcome_N) + 1)
    return float(log_odds(rate)), 0.0


def centred_isotonic(outcome_N: Floats, forecast_N: Floats) -> tuple[list[float], list[float]]:
    """Mean forecast and mean outcome of each pooled block.

    Blocks start as groups of like forecasts, lest a handful of users at either end become a
    step of its own.
    """
    _, group = np.unique(bins(forecast_N, len(outcome_N) // _BIN_SIZE), return_inverse=True)
    weight = np.bincount(group).astype(np.float64)
    x, y = np.bincount(group, forecast_N) / weight, np.bincount(group, outcome_N) / weight
    blocks = isotonic_regression(y, weights=weight).blocks[:-1]
    size = np.add.reduceat(weight, blocks)
    centre = np.add.reduceat(x * weight, blocks) / size
    level = np.add.reduceat(y * weight, blocks) / size
    # Nobody's chance is 0 or 1 because fifty others' was.
    least = 0.5 / (_BIN_SIZE + 1)
    return centre.tolist(), np.clip(level, least, 1 - least).tolist()


def cross_fitted(
    task: Task, outcome_N: Floats, forecast_N: Floats, user_id: NDArray[np.object_]
) -> Floats:
    """Forecasts calibrated by users other than one's own half of all users."""
    is_first = in_first_half(user_id)
    if is_first.all() or not is_first.any():
        return forecast_N
    calibrated = np.empty_like(forecast_N)
    for half in (is_first, ~is_first):
        calibrated[half] = fit_task(task, outcome_N[~half], forecast_N[~half])(forecast_N[half])
    return calibrated


def in_first_half(user_id: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which of the two halves that calibrate each other a user is in, by hash."""
    return np.asarray(uniform(hash_users(user_id), _HALVES) < 0.5)
