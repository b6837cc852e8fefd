"""Questions about the next days, answered from day forecasts: the tasks of a recipe.

A task kind is a pair of functions: what a forecast says, and what came true.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lumos.config import Recipe


@dataclass(frozen=True)
class DayForecasts:
    """Forecasts of N users for F days, in raw units.

    Attributes:
        p: float32 P(column is 1 on the day), the recipe's binary order, (N, F, num_binary).
        given: float32 E[y | the user is active], continuous order, (N, F, num_continuous).
        mean: float32 P(active) x ``given``, the unconditional expectation, same shape.
        heads: What the network says itself of each task that has a head: a chance, or an amount
            in raw units; float32 of shape (N,) by task name.
    """

    p: np.ndarray
    given: np.ndarray
    mean: np.ndarray
    heads: Mapping[str, np.ndarray] = field(default_factory=dict)


def task_scores(recipe: Recipe, forecasts: DayForecasts) -> dict[str, np.ndarray]:
    """What the forecasts say about each task.

    ``any`` takes the days as independent given the forecast: 1 - prod(1 - p). ``sum`` adds
    the unconditional expectations.

    Returns:
        By task name, float64 of shape (N,).
    """
    scores = {}
    for task in recipe.tasks:
        days = slice(task.window_days)
        if task.kind == "any":
            p = forecasts.p[:, days, recipe.binary.index(task.column)].astype(np.float64)
            scores[task.name] = -np.expm1(np.log1p(-np.minimum(p, 1 - 1e-12)).sum(axis=1))
        else:
            mean = forecasts.mean[:, days, recipe.continuous.index(task.column)]
            scores[task.name] = mean.astype(np.float64).sum(axis=1)
    return scores


def task_outcomes(recipe: Recipe, targets: np.ndarray) -> dict[str, np.ndarray]:
    """What came true: the same questions asked of the days themselves.

    Args:
        recipe: Names the tasks and the order of the activity columns.
        targets: Raw activity of the days after the origin, shape (N, F, d_u).

    Returns:
        By task name, float64 of shape (N,); 0 or 1 for ``any``.
    """
    names = [column.name for column in recipe.activity]
    outcomes = {}
    for task in recipe.tasks:
        column = targets[:, : task.window_days, names.index(task.column)].astype(np.float64)
        answer = (column > 0).any(axis=1) if task.kind == "any" else column.sum(axis=1)
        outcomes[task.name] = np.asarray(answer, np.float64)
    return outcomes


def auc(outcome: np.ndarray, forecast: np.ndarray) -> float | None:
    """Chance that a positive is ranked above a negative; ``None`` where one kind is absent."""
    is_positive = outcome > 0
    num_positive = int(is_positive.sum())
    num_negative = len(outcome) - num_positive
    if not num_positive or not num_negative:
        return None
    _, inverse, counts = np.unique(forecast, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    above = rank[is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / num_positive / num_negative)


def log_loss(outcome: np.ndarray, forecast: np.ndarray) -> float:
    """Mean negative log likelihood of 0/1 outcomes, in nats."""
    p = np.clip(forecast.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(outcome * np.log(p) + (1 - outcome) * np.log1p(-p)))


def wape(outcome: np.ndarray, forecast: np.ndarray) -> float | None:
    """Sum of absolute errors over the sum of absolute outcomes; ``None`` where that is zero."""
    total = float(np.abs(outcome).sum(dtype=np.float64))
    if not total:
        return None
    return float(np.abs(outcome - forecast).sum(dtype=np.float64)) / total
