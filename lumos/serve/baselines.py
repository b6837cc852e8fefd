"""What the forecaster must beat: a plain recency baseline, and LightGBM on hand-made features.

Both are fitted on training users at training origins, whose labels end before the first
evaluation origin, and both see the calendar that the forecaster sees. They are fitted anew by
every evaluation: a baseline kept from last month would be an easier one.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import lightgbm
import numpy as np

from lumos.config import Recipe, Task
from lumos.serve.accuracy import Floats
from lumos.serve.features import Examples
from lumos.serve.logistic import fit_logistic, log_odds, sigmoid

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
    """A logistic fit on frequency and recency for ``any``; the recent daily mean for ``sum``."""

    recipe: Recipe
    weights: Mapping[str, Floats]

    @classmethod
    def fit(cls, recipe: Recipe, train: Examples) -> "Recency":
        """Three numbers a binary task, nothing at all for a sum."""
        weights = {
            task.name: fit_logistic(
                _plain(task, train),
                train.outcomes[task.name],
                prior_K=np.zeros(3),
                strength=_RIDGE,
            )
            for task in recipe.tasks
            if task.kind == "any"
        }
        return cls(recipe, weights)

    def forecast(self, examples: Examples) -> dict[str, Floats]:
        """By task name, shape (N,)."""
        forecasts = {}
        for task in self.recipe.tasks:
            if task.kind == "any":
                forecasts[task.name] = sigmoid(_plain(task, examples) @ self.weights[task.name])
            else:
                daily = examples.values[f"{task.column}_{_WINDOW}"]
                forecasts[task.name] = daily * task.window_days
        return forecasts


@dataclass(frozen=True)
class LightGbm:
    """Gradient-boosted trees on :class:`~lumos.serve.features.Examples`, one model a task."""

    recipe: Recipe
    models: Mapping[str, lightgbm.Booster | float]

    @classmethod
    def fit(cls, recipe: Recipe, train: Examples) -> "LightGbm":
        """Log loss for ``any``; Tweedie for ``sum`` (squared error where a sum is negative).

        Tweedie fits the mean of a quantity that is often exactly zero. A task whose outcome
        never varied is answered by that constant.
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


def _boost(task: Task, train: Examples) -> lightgbm.Booster | float:
    outcome = train.outcomes[task.name]
    if outcome.min() == outcome.max():
        return float(outcome[0])
    objective = "binary" if task.kind == "any" else "tweedie"
    if outcome.min() < 0:
        objective = "regression"
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


def _plain(task: Task, examples: Examples) -> Floats:
    """Constant, log odds of the frequency, log recency: shape (N, 3)."""
    days = np.minimum(examples.values["tenure"], _WINDOW)
    active_days = examples.values[f"{task.column}_{_WINDOW}"] * days
    frequency = log_odds((active_days + 0.5) / (days + 1))
    recency = np.log1p(examples.values[f"{task.column}_recency"])
    return np.column_stack([np.ones_like(frequency), frequency, recency])
