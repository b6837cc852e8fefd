"""What the tests of the network start from: recipes, batches of the gym, and objectives.

Shape suffixes: B users, M origins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumos.accio.batch import NOBODY, ragged_batch
from lumos.accio.dense import Batch
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.model.forecaster import Forecast, Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.overrides import override
from lumos.train.scaler import Scaler, ScalerFit
from tests.accio import small

USERS = small.users()
LAST_DAY = int(USERS.days.max())
SHORT = {"history_days": 21, "training.origins_per_window": 1, "model.dropout": 0.5}


def recipe_of(**changes: Any) -> Recipe:
    """The gym with every kind of head and 21 days of history; ``model__x`` stands for model.x."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return override(small.recipe_with_heads(), SHORT | dotted)


def scaler_of(recipe: Recipe, of: Users = USERS) -> Scaler:
    """Fitted on all of these users."""
    fit = ScalerFit(recipe, LAST_DAY - 30, LAST_DAY - 10)
    fit.add(of)
    return fit.scaler(small.calendar(recipe), LAST_DAY - 130)


def batch_at(
    recipe: Recipe,
    users: Users,
    origins_BM: np.ndarray,
    *,
    calendar: EventCalendar | None = None,
    number: Sequence[int] | None = None,
    last_label: int | None = None,
    of: Users = USERS,
) -> Batch:
    """A batch of these users at these origins (day numbers), scaled as fitted on others."""
    spans = recipe.history_days, recipe.horizon_days
    place = None if number is None else np.array(number)
    raw = ragged_batch(users, origins_BM.astype(np.int32), *spans, number=place)
    calendar = calendar or small.calendar(recipe)
    return scaler_of(recipe, of).batch(raw, calendar, recipe, last_label=last_label)


def a_batch(recipe: Recipe, num_origins: int = 1) -> Batch:
    """Five windows: registration inside and before, an empty slot, an origin drawn twice.

    Labels of the last days are not known yet.
    """
    users, size = USERS.take(np.arange(5)), recipe.model.patch_days
    last = users.registered + np.array([8, 45, 30, 20, 60])
    back_BM = np.zeros((5, 1), int)
    if num_origins > 1:
        steps = np.linspace(recipe.history_days // size - 1, 0, num_origins).astype(int)
        back_BM = np.tile(steps * size, (5, 1))
        back_BM[1, 0] = back_BM[1, 1]
        back_BM[4, -2] = 0
    origins_BM = last[:, None] - back_BM
    last_label = int(np.sort(last)[-2]) + recipe.horizon_days // 2
    return batch_at(recipe, users, origins_BM, number=[0, 1, NOBODY, 3, 4], last_label=last_label)


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Windows ``start`` .. ``stop - 1`` of a batch."""
    own = {field.name for field in fields(batch)} - {"activity_NU", "events_EC"}
    return replace(batch, **{name: getattr(batch, name)[start:stop] for name in own})


def objective_of(recipe: Recipe, of: Users = USERS) -> Objective:
    """In evaluation mode, so that dropout is off; no parameter is hidden by being zero."""
    torch.manual_seed(0)
    scaler = scaler_of(recipe, of)
    widths = {"num_static": scaler.num_static, "num_events": scaler.num_events}
    forecaster = Forecaster(ForecasterConfig.of(recipe, **widths))
    objective = Objective(forecaster, recipe.training.loss).eval()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return objective


def loss_of(objective: Objective, batch: Batch) -> Tensor:
    """What a step on this one batch would make smaller."""
    sums_N, log_variance_N = objective(batch)
    counts_N = objective.counts(batch)
    return objective.total(sums_N / counts_N.clamp(min=1), log_variance_N, counts_N > 0)


def said_of(forecast: Forecast) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, hazards and heads."""
    return forecast.outputs_BMFU, forecast.hazards_BMFA, forecast.heads_BMK


def gradients(objective: Objective, loss: Tensor) -> Mapping[str, Tensor]:
    """Of every parameter, by name."""
    parameters = dict(objective.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))
