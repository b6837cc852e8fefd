"""How good the trained forecaster is, on users it never saw and on days it never saw.

*User split*: held-out users at training-period origins. *Time split*: all users at origins
after the training period, none of whose labels any training window has seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lumos.accio.chance import Chance, draw_origins, first_origins, hash_users, uniform
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.tasks import DayForecasts, auc, log_loss, task_outcomes, task_scores, wape
from lumos.train.checkpoint import Checkpoint
from lumos.train.distributed import World
from lumos.train.predict import forecast
from lumos.train.prepare import Prepared

SPLITS = ("user_split", "time_split")
_ORIGINS_PER_HELD_OUT_USER = 4
_VALIDATION, _SAMPLE = 1 << 32, 5  # an epoch no training reaches; a salt of its own


@dataclass(frozen=True)
class Judged:
    """Forecasts of a split beside what came true, both in raw units.

    Attributes:
        forecasts: Of N windows.
        targets: Activity of their horizon days, shape (N, F, d_u).
    """

    forecasts: DayForecasts
    targets: np.ndarray


def judge(split: str, checkpoint: Checkpoint, prepared: Prepared, world: World) -> Judged:
    """Forecast a split, every process its share of the users; all get all of it."""
    recipe = prepared.recipe
    asked = [task.name for task in recipe.tasks if task.has_head]
    parts, said = [], []
    for users, origins in _share(split, prepared, world):
        made = forecast(
            checkpoint, users, origins, prepared.events, batch_size=recipe.scoring.batch_size
        )
        targets = _targets(users, origins, recipe)
        parts.append(np.concatenate([made.p, made.given, made.mean, targets], axis=2))
        said.append(np.array([made.heads[name] for name in asked], np.float32).T)
    num_binary, num_continuous = len(recipe.binary), len(recipe.continuous)
    width = num_binary + 2 * num_continuous + len(recipe.activity)
    nothing = np.zeros((0, recipe.horizon_days, width), np.float32)
    rows = world.gather(np.concatenate([nothing, *parts]))
    ends = np.cumsum([num_binary, num_continuous, num_continuous])
    p, given, mean, targets = np.split(rows, ends, axis=2)
    heads: dict[str, np.ndarray] = {}
    if asked:
        told = world.gather(np.concatenate([np.zeros((0, len(asked)), np.float32), *said]))
        heads = dict(zip(asked, told.T, strict=True))
    return Judged(DayForecasts(p, given, mean, heads), targets)


def _targets(users: Users, origins: np.ndarray, recipe: Recipe) -> np.ndarray:
    return cut(users, origins, 1, recipe.horizon_days).targets


def _share(split: str, prepared: Prepared, world: World) -> Iterator[tuple[Users, np.ndarray]]:
    """Users of this process with one origin each; a user with several origins is repeated."""
    recipe, origins = prepared.recipe, prepared.origins
    for users in prepared.table.users():
        if split == "user_split":
            users = users.take(prepared.split.is_out(users))
        users = _sample(users, split, prepared)
        users = users.take(np.arange(world.rank, len(users), world.size))
        if split == "time_split":
            for origin in origins.evaluation:
                day = day_number(origin)
                present = users.take(users.registered <= day)
                yield present, np.full(len(present), day, np.int32)
            continue
        first = first_origins(users.registered, day_number(origins.training[0]))
        last = day_number(origins.training[1])
        for draw in range(_ORIGINS_PER_HELD_OUT_USER):
            chance = Chance(recipe.training.seed, _VALIDATION, draw)
            yield users, draw_origins(hash_users(users.user_id), first, last, chance)


def _sample(users: Users, split: str, prepared: Prepared) -> Users:
    """At most about ``training.max_validation_users`` of the split's users, the same always."""
    training = prepared.recipe.training
    total = prepared.num_held_out if split == "user_split" else prepared.table.num_users
    if total <= training.max_validation_users:
        return users
    chance = uniform(hash_users(users.user_id), _SAMPLE, training.seed)
    return users.take(chance < training.max_validation_users / total)


def figures(split: str, judged: Judged, recipe: Recipe) -> dict[str, float | None]:
    """AUC and log loss of each binary column, WAPE of each continuous one, and of the tasks.

    Columns are judged per day, tasks per window; ``None`` where a figure is undefined (no
    positive at all, a sum of zero). Names are ``split/column_measure``.
    """
    names = [column.name for column in recipe.activity]
    measured: dict[str, float | None] = {}
    for number, name in enumerate(recipe.binary):
        outcome = judged.targets[..., names.index(name)].ravel() > 0
        p = judged.forecasts.p[..., number].ravel()
        measured |= _of_binary(f"{split}/{name}", outcome, p)
    for number, name in enumerate(recipe.continuous):
        outcome = judged.targets[..., names.index(name)]
        measured[f"{split}/{name}_wape"] = wape(outcome, judged.forecasts.mean[..., number])
    scores = task_scores(recipe, judged.forecasts)
    outcomes = task_outcomes(recipe, judged.targets)
    for task in recipe.tasks:
        answer, score = outcomes[task.name], scores[task.name]
        if task.is_binary:
            measured |= _of_binary(f"{split}/{task.name}", answer, score)
        else:
            measured[f"{split}/{task.name}_wape"] = wape(answer, score)
    return measured


def _of_binary(name: str, outcome: np.ndarray, p: np.ndarray) -> dict[str, float | None]:
    if not len(outcome):
        return {f"{name}_auc": None, f"{name}_log_loss": None}
    return {f"{name}_auc": auc(outcome, p), f"{name}_log_loss": log_loss(outcome, p)}
