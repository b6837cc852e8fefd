"""Questions about the next days, the tasks of a recipe: what is forecast, and what came true.

A task's formula (:func:`lumos.formulas.task`) is asked of the day forecasts and of the outcomes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lumos.config import Recipe
from lumos.formulas import ROUNDING, Days, Floats, ask, declared, refuse, task, task_columns
from lumos.verbs import BadInput

__all__ = [
    "DayForecasts",
    "Days",
    "ask",
    "auc",
    "log_loss",
    "task",
    "task_columns",
    "task_outcomes",
    "task_scores",
    "wape",
]


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


def task_scores(recipe: Recipe, forecasts: DayForecasts) -> dict[str, Floats]:
    """What the forecasts say about each task: the network's own head, else the day forecasts.

    Raises:
        BadInput: A task has no head in the forecasts, and days cannot answer it.
    """
    columns = {name: forecasts.p[..., n] for n, name in enumerate(recipe.binary)}
    columns |= {name: forecasts.mean[..., n] for n, name in enumerate(recipe.continuous)}
    scores = {}
    for asked in recipe.tasks:
        if asked.has_head and asked.name in forecasts.heads:
            scores[asked.name] = np.asarray(forecasts.heads[asked.name], np.float64)
        elif asked.is_median or not declared(asked).is_sum_of_products:
            msg = (
                f"task {asked.name}: only a head of its own can answer it, and these forecasts "
                "have none; train a model with it"
            )
            raise BadInput(msg)
        else:
            scores[asked.name] = ask(recipe, asked, columns)
    return scores


def task_outcomes(recipe: Recipe, targets: np.ndarray) -> dict[str, Floats]:
    """What came true: the same questions asked of the days themselves.

    Args:
        recipe: Names the tasks and the order of the activity columns.
        targets: Raw activity of the days after an origin, shape (..., F, d_u).

    Returns:
        By task name, float64 of the leading shape; 0 or 1 where the answer is a chance.

    Raises:
        BadInput: See :func:`ask`; or the outcome of a binary task is neither 0 nor 1.
    """
    *leading, num_days, width = targets.shape
    flat = targets.reshape(int(np.prod(leading)), num_days, width)
    columns = {
        c.name: flat[..., n] > 0 if c.kind == "binary" else flat[..., n]
        for n, c in enumerate(recipe.activity)
    }
    outcomes = {}
    for asked in recipe.tasks:
        answer = ask(recipe, asked, columns)
        if asked.is_binary:
            whole = np.round(answer)
            refuse(asked, recipe, columns, answer, np.abs(answer - whole) > ROUNDING, "0 or 1")
            answer = whole
        outcomes[asked.name] = answer.reshape(leading)
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
