"""What the forecaster must beat: a plain recency baseline, and LightGBM on hand-made features.

Both are fitted on training users at training origins, whose labels end before the first
evaluation origin, and both see the calendar that the forecaster sees. They are fitted anew by
every evaluation: a baseline kept from last month would be an easier one.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lumos.config import Recipe, Task
from lumos.serve.accuracy import Floats
from lumos.serve.features import Examples
from lumos.serve.logistic import fit_logistic, log_odds, sigmoid
from lumos.tasks import ask, task_columns

if TYPE_CHECKING:
    import lightgbm

_WINDOW = 56  # days of history that the recency baseline looks at
_RIDGE = 0.01  # only guards against a singular matrix
_ROUNDS = 120
# One thread a model and two models at a time: two OpenMP threads that share their cores with
# anything else wait for each other (measured: 2 s alone became 42 s on a busy machine).
_MODELS_AT_ONCE = 2
_PARAMETERS: Mapping[str, float | int | bool | str] = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "max_bin": 63,
    "feature_fraction": 0.7,
    "num_threads": 1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Recency:
    """A logistic fit on frequency and recency for chances; for amounts, days like the recent mean.

    An amount's formula is asked of days that are all the recent daily mean; a median is a share
    of that.
    """

    recipe: Recipe
    weights: Mapping[str, Floats]

    @classmethod
    def fit(cls, recipe: Recipe, train: Examples) -> "Recency":
        """Three numbers a binary task (two more for each further column), one a median."""
        weights = {}
        for task in recipe.tasks:
            known = train.known(task)
            outcome = known.outcomes[task.name]
            if task.is_binary:
                inputs = _plain(recipe, task, known)
                weights[task.name] = fit_logistic(
                    inputs, outcome, prior_K=np.zeros(inputs.shape[1]), strength=_RIDGE
                )
            elif task.is_median:
                weights[task.name] = _best_share(outcome, _as_recently(recipe, task, known))
            else:
                weights[task.name] = np.ones(1)
        return cls(recipe, weights)

    def forecast(self, examples: Examples) -> dict[str, Floats]:
        """By task name, shape (N,)."""
        forecasts = {}
        for task in self.recipe.tasks:
            weights = self.weights[task.name]
            if task.is_binary:
                forecasts[task.name] = sigmoid(_plain(self.recipe, task, examples) @ weights)
            else:
                forecasts[task.name] = _as_recently(self.recipe, task, examples) * weights
        return forecasts


@dataclass(frozen=True)
class LightGbm:
    """Gradient-boosted trees on :class:`~lumos.serve.features.Examples`, one model a task."""

    recipe: Recipe
    models: "Mapping[str, lightgbm.Booster | float]"

    @classmethod
    def fit(cls, recipe: Recipe, train: Examples) -> "LightGbm":
        """Log loss for chances; Tweedie for means (squared error where an outcome is negative).

        Medians by absolute error. Tweedie fits the mean of a quantity that is often exactly zero.
        A task whose outcome never varied is answered by that constant.
        """
        with ThreadPoolExecutor(_MODELS_AT_ONCE) as pool:
            models = pool.map(lambda task: _boost(task, train), recipe.tasks)
            return cls(recipe, dict(zip((t.name for t in recipe.tasks), models, strict=True)))

    def forecast(self, examples: Examples) -> dict[str, Floats]:
        """By task name, shape (N,)."""
        forecasts = {}
        for task in self.recipe.tasks:
            model = self.models[task.name]
            if isinstance(model, float):
                forecasts[task.name] = np.full(len(examples.user), model)
            else:
                predicted = model.predict(examples.matrix(task), num_threads=1)
                forecasts[task.name] = np.asarray(predicted, np.float64)
        return forecasts


def _boost(task: Task, train: Examples) -> "lightgbm.Booster | float":
    # Not before it is needed: it costs seconds, and the recency baseline does without.
    import lightgbm

    train = train.known(task)
    outcome = train.outcomes[task.name]
    if outcome.min() == outcome.max():
        return float(outcome[0])
    objective = "binary" if task.is_binary else "tweedie" if outcome.min() >= 0 else "regression"
    if task.is_median:
        objective = "regression_l1"
    names = list(train.values)
    rows = lightgbm.Dataset(
        train.matrix(task),
        outcome,
        categorical_feature=[names.index(name) for name in train.categorical],
        params=dict(_PARAMETERS),
    )
    # Small worlds need small leaves: the usual 50 examples would leave a single leaf.
    smallest = int(np.clip(len(outcome) // 100, 5, 50))
    parameters = {**_PARAMETERS, "objective": objective, "min_data_in_leaf": smallest}
    return lightgbm.train(parameters, rows, num_boost_round=_ROUNDS)


def _plain(recipe: Recipe, task: Task, examples: Examples) -> Floats:
    """A constant; of each column asked for, how often (or how much) and how recently.

    Returns:
        Shape (N, 1 + 2 x columns): log odds of a binary column's frequency, log of an amount's
        daily mean, log recency.
    """
    inputs = [np.ones(len(examples.user))]
    days = np.minimum(examples.values["tenure"], _WINDOW)
    for name in task_columns(task):
        daily = examples.values[f"{name}_{_WINDOW}"]
        if name in recipe.binary:
            inputs.append(log_odds((daily * days + 0.5) / (days + 1)))
        else:
            inputs.append(np.log1p(np.maximum(daily, 0)))
        inputs.append(np.log1p(examples.values[f"{name}_recency"]))
    return np.column_stack(inputs)


def _as_recently(recipe: Recipe, task: Task, examples: Examples) -> Floats:
    """The task's answer if every day were the daily mean of the recent ones; shape (N,)."""
    shape = (len(examples.user), task.window_days)
    columns = {
        name: np.broadcast_to(examples.values[f"{name}_{_WINDOW}"][:, None], shape)
        for name in task_columns(task)
    }
    return ask(recipe, task, columns)


def _best_share(outcome_N: Floats, forecast_N: Floats) -> Floats:
    """The factor that makes the absolute error smallest: a weighted median of ratios."""
    is_some = forecast_N > 0
    if not is_some.any():
        return np.ones(1)
    ratio, weight = outcome_N[is_some] / forecast_N[is_some], forecast_N[is_some]
    order = np.argsort(ratio)
    total = np.cumsum(weight[order])
    return ratio[order][[np.searchsorted(total, total[-1] / 2)]]
