"""Model versions without a training: a fitted scaler, and weights drawn by a seed."""

import datetime as dt
from typing import Any

import torch
from gym_world.raw import FIRST_DAY

from lumos import ledger
from lumos.accio.contract import load_events, open_sequences
from lumos.config import Recipe
from lumos.dates import day_number, split_origins
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.recipes import load
from lumos.train import checkpoint, tracking
from lumos.train.checkpoint import Checkpoint
from lumos.train.scaler import Scaler, ScalerFit
from tests.conftest import World


def register(world: World, *, seed: int, recipe: Recipe | None = None, **info: Any) -> str:
    """Register a version as ``train`` does; it becomes the challenger. Returns its number."""
    recipe = recipe or load(world.recipe_name)
    last, last_label = _last_training_days(recipe, world.date)
    scaler = _scaler(world, recipe, last)
    model = Checkpoint(
        model=_forecaster(recipe, scaler, seed),
        scaler=scaler,
        recipe=recipe,
        info={
            "as_of": str(world.date),
            "first_training_origin": str(FIRST_DAY + dt.timedelta(days=28)),
            "last_label": str(last_label),
            **info,
        },
    )
    folder = world.home / "registered" / str(seed)
    checkpoint.save(folder / tracking.CHECKPOINT_FOLDER, model)
    run = tracking.Run.start(
        world.settings, recipe, f"seed {seed}", tags={"as_of": str(world.date)}
    )
    return run.register(folder, f"drawn by seed {seed}")


def crown(world: World, version: str, alias: str = "champion") -> None:
    """Give a version an alias, as an operator may in MLflow's own pages."""
    name = tracking.model_name(load(world.recipe_name))
    tracking.client(world.settings).set_registered_model_alias(name, alias, version)


def alias(world: World, name: str) -> str | None:
    """The version that has the alias."""
    return tracking.version_of(world.settings, load(world.recipe_name), name)


def _last_training_days(recipe: Recipe, date: dt.date) -> tuple[dt.date, dt.date]:
    """The last training origin with a whole horizon, and the last label."""
    last, evaluation = split_origins(
        date,
        horizon_days=recipe.horizon_days,
        num_origins=recipe.evaluation.num_origins,
        days_between=recipe.evaluation.days_between_origins,
    )
    return last, evaluation[0]


def _scaler(world: World, recipe: Recipe, last: dt.date) -> Scaler:
    fit = ScalerFit(recipe, day_number(last), day_number(last) + recipe.horizon_days)
    entry = ledger.require(world.settings, recipe, "sequences", world.date, remedy="")
    for users in open_sequences(world.settings, load(world.recipe_name), entry.version).users():
        fit.add(users)
    events = load_events(world.settings, recipe, None)
    return fit.scaler(events, day_number(last) - 60)


def _forecaster(recipe: Recipe, scaler: Scaler, seed: int) -> Forecaster:
    torch.manual_seed(seed)
    config = ForecasterConfig.of(recipe, num_static=scaler.num_static, num_events=scaler.num_events)
    forecaster = Forecaster(config)
    objective = Objective(forecaster, recipe.training.loss)
    objective.start_at(scaler.first_outputs(config), scaler.first_losses(config))
    return forecaster.eval()
