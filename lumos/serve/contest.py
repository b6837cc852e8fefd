"""The contest: everyone forecasts the same users at the same origins and is measured alike.

A contestant's primary loss is that of its forecasts as they would be published: calibrated, by
users other than one's own half; so is how many amounts lie in their intervals (``coverage``).
Everything else is measured on the forecasts as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.progress import progress
from lumos.serve.accuracy import Floats, Measures, measure, primary_loss, relative_loss
from lumos.serve.baselines import LightGbm, Recency
from lumos.serve.calibrators import cross_fitted
from lumos.serve.features import Examples, History
from lumos.serve.intervals import cross_fitted_inside
from lumos.tasks import task_scores
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import forecast

_TRAINING_ORIGINS = 24
_DAYS_BETWEEN = 6  # prime to 7, so that the baselines' origins fall on every weekday
_LEAST_HISTORY = 28

Forecasts = Mapping[str, Floats]


@dataclass(frozen=True)
class Setting:
    """What everyone is asked, and what may be learned from."""

    users: Users
    is_held_out: NDArray[np.bool_]
    events: EventCalendar
    last_label: int
    origins: tuple[int, ...]


def contest(
    recipe: Recipe, setting: Setting, examples: Examples, models: Mapping[str, Checkpoint]
) -> dict[str, Forecasts]:
    """Task forecasts of the models and of both baselines, by name, all for the same examples."""
    steps = len(models) * len(setting.origins) + 2
    forecasts: dict[str, Forecasts] = {}
    with progress("evaluating", steps) as advance:
        for name, model in models.items():
            parts = []
            for origin in setting.origins:
                parts.append(_at_origin(recipe, model, setting, examples, origin))
                advance(note=name)
            forecasts[name] = {
                task.name: np.concatenate([part[task.name] for part in parts])
                for task in recipe.tasks
            }
        train = _training_examples(recipe, setting)
        for name, kind in (("lightgbm", LightGbm), ("recency", Recency)):
            forecasts[name] = kind.fit(recipe, train).forecast(examples)
            advance(note=name)
    return forecasts


def _at_origin(
    recipe: Recipe, model: Checkpoint, setting: Setting, examples: Examples, origin: int
) -> dict[str, Floats]:
    users = setting.users.take(examples.user[examples.origin == origin])
    days = forecast(
        model,
        users,
        np.full(len(users), origin, np.int32),
        setting.events,
        batch_size=recipe.scoring.batch_size,
    )
    return task_scores(recipe, days)


def _training_examples(recipe: Recipe, setting: Setting) -> Examples:
    """Users that are not held out, at origins with labels up to where the forecaster's end.

    Each task has all origins whose window had ended by then; outcomes of the others are NaN.
    """
    users = setting.users.take(~setting.is_held_out)
    last = setting.last_label - min(task.window_days for task in recipe.tasks)
    first = int(users.days.min(initial=last)) + _LEAST_HISTORY - 1
    origins = [
        origin
        for origin in range(last, last - _TRAINING_ORIGINS * _DAYS_BETWEEN, -_DAYS_BETWEEN)
        if origin >= min(first, last)
    ]
    examples = History(users, recipe).examples(origins, setting.events)
    outcomes = {
        task.name: np.where(
            examples.origin + task.window_days <= setting.last_label,
            examples.outcomes[task.name],
            np.nan,
        )
        for task in recipe.tasks
    }
    return replace(examples, outcomes=outcomes)


def published(
    recipe: Recipe, setting: Setting, examples: Examples, forecasts: Forecasts
) -> dict[str, Floats]:
    """A contestant's forecasts as they would be published, by users other than one's own half."""
    users = setting.users.user_id[examples.user]
    return {
        task.name: cross_fitted(task, examples.outcomes[task.name], forecasts[task.name], users)
        for task in recipe.tasks
    }


def measured(
    recipe: Recipe, setting: Setting, examples: Examples, forecasts: Mapping[str, Forecasts]
) -> dict[str, Measures]:
    """Every measure by segment: a contestant, over all users or over those held out."""
    held_out = setting.is_held_out[examples.user]
    users = setting.users.user_id[examples.user]
    found: dict[str, Measures] = {}
    for name, by_task in forecasts.items():
        calibrated = published(recipe, setting, examples, by_task)
        inside = {
            task.name: cross_fitted_inside(
                task,
                recipe.calibration.interval_level,
                examples.outcomes[task.name],
                calibrated[task.name],
                users,
            )
            for task in recipe.tasks
            if not task.is_binary
        }
        for suffix, rows in (("", np.ones_like(held_out)), ("|held_out", held_out)):
            if rows.any():
                found[name + suffix] = _measures(recipe, examples, by_task, calibrated, rows)
                for task, is_in in inside.items():
                    found[name + suffix][f"{task}.coverage"] = float(is_in[rows].mean())
    return found


def _measures(
    recipe: Recipe,
    examples: Examples,
    raw: Forecasts,
    calibrated: Forecasts,
    rows: NDArray[np.bool_],
) -> Measures:
    values: Measures = {"num_rows": float(rows.sum())}
    losses = {}
    for task in recipe.tasks:
        outcome = examples.outcomes[task.name][rows]
        losses[f"{task.name}.loss"] = relative_loss(task, outcome, calibrated[task.name][rows])
        for key, value in measure(task, outcome, raw[task.name][rows]).items():
            values[f"{task.name}.{key}"] = value
    return values | losses | {"primary_loss": primary_loss(losses.values())}
