"""LightGBM as a good analyst would use it: hand-made features, settings chosen on validation.

The features are those of ``lumos evaluate``; for one day ahead also its number, its own calendar
and how often the user came on its weekday.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np

from lumos.accio.events import EventCalendar
from lumos.config import Recipe, Task
from lumos.serve.features import Examples, History
from lumos.tasks import auc, wape

LEAVES = (7, 15, 31)
MAX_ROUNDS, ROUNDS_BETWEEN = 400, 20
_PARAMETERS: Mapping[str, float | int | bool] = {
    "learning_rate": 0.03,
    "max_bin": 63,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "min_data_in_leaf": 50,
    "num_threads": 1,
    "seed": 0,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Rows:
    """What one model learns or forecasts: features of shape (N, K) and outcomes (N,)."""

    features: np.ndarray
    outcomes: np.ndarray


def rows_of(task: Task, examples: Examples) -> Rows:
    """A task's."""
    return Rows(examples.matrix(task), examples.outcomes[task.name])


def rows_of_days(
    examples: Examples, events: EventCalendar, came: np.ndarray, num_days: int
) -> Rows:
    """One row for each of the next days.

    Args:
        examples: N of them.
        events: The calendar, as known on each origin.
        came: Whether the user was active on each day, shape (N, num_days).
        num_days: How many.
    """
    base = np.column_stack(list(examples.values.values()))
    parts = []
    distinct, which = np.unique(examples.origin, return_inverse=True)
    ahead = np.stack([events.window(int(day), int(day) + 1, num_days) for day in distinct])
    for day in range(num_days):
        weekday = examples.values[f"weekday_of_day_{day % 7 + 1}"]
        number = np.full(len(base), float(day))
        parts.append(np.column_stack([base, number, weekday, ahead[which, day]]))
    return Rows(np.concatenate(parts), came.T.ravel().astype(np.float64))


def chosen(train: Rows, validation: Rows, *, is_binary: bool) -> lightgbm.Booster:
    """Leaves and rounds by what is judged: AUC, or WAPE of an absolute-error fit."""
    objective = "binary" if is_binary else "regression_l1"
    best: tuple[float, int, lightgbm.Booster] | None = None
    for leaves in LEAVES:
        settings = {**_PARAMETERS, "objective": objective, "num_leaves": leaves}
        model = lightgbm.train(
            settings, lightgbm.Dataset(train.features, train.outcomes), MAX_ROUNDS
        )
        for rounds in range(ROUNDS_BETWEEN, MAX_ROUNDS + 1, ROUNDS_BETWEEN):
            said = np.asarray(model.predict(validation.features, num_iteration=rounds))
            score = auc(validation.outcomes, said) if is_binary else wape(validation.outcomes, said)
            assert score is not None, "the validation rows show one outcome only"
            loss = -score if is_binary else score
            if best is None or loss < best[0]:
                best = (loss, rounds, model)
    assert best is not None, "no settings to choose from"
    best[2].best_iteration = best[1]
    return best[2]


def examples_at(history: History, origins: Sequence[int], events: EventCalendar) -> Examples:
    """Every user registered by each origin."""
    return history.examples(origins, events)


def outcomes_of_days(
    recipe: Recipe, examples: Examples, targets: np.ndarray, num_days: int
) -> np.ndarray:
    """Whether the user was active on each of the first days, shape (N, num_days)."""
    column = [c.name for c in recipe.activity].index(recipe.active)
    assert len(targets) == len(examples.user)
    return np.asarray(targets[:, :num_days, column] > 0)
