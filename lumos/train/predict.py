"""Forecasts in raw units: the one function behind validation, evaluation and scoring.

Deterministic: with the same batches bit for bit; a user's forecast does not depend on who else
is in the batch beyond float rounding. Both E[value | active] and P(active) x E[value | active]
are given: a continuous head never saw a day without activity, so alone it forecasts too much.
"""

from collections.abc import Sequence

import numpy as np
import torch

from lumos.accio.batch import ragged_batch
from lumos.accio.dense import Batch
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe, Task
from lumos.model.forecaster import Forecast
from lumos.tasks import DayForecasts
from lumos.train.checkpoint import Checkpoint
from lumos.train.scaler import Scaler

__all__ = ["DayForecasts", "forecast", "in_raw_units", "joined", "prepared"]


def forecast(
    checkpoint: Checkpoint,
    users: Users,
    origins: np.ndarray,
    events: EventCalendar,
    *,
    batch_size: int,
) -> DayForecasts:
    """Forecast the horizon days after each user's origin.

    Args:
        checkpoint: The forecaster; its own recipe says what the columns are.
        users: N users.
        origins: Last day seen of each, day numbers, shape (N,).
        events: The calendar; each origin gets what was known on it.
        batch_size: Windows computed at a time.
    """
    model = checkpoint.model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, max(len(users), 1), batch_size):
            chunk = np.arange(start, min(start + batch_size, len(users)))
            batch = prepared(
                checkpoint, users.take(chunk), origins[chunk], events, str(model.device)
            )
            parts.append(in_raw_units(model(batch), checkpoint.recipe, checkpoint.scaler))
    return joined(parts)


def prepared(
    checkpoint: Checkpoint,
    users: Users,
    origins: np.ndarray,
    events: EventCalendar,
    device: str = "cpu",
) -> Batch:
    """The scaled windows of some users, as :func:`forecast` gives them to the network."""
    recipe = checkpoint.recipe
    ragged = ragged_batch(users, origins, recipe.history_days, recipe.horizon_days)
    return checkpoint.scaler.batch(ragged, events, recipe, device=device)


def joined(parts: Sequence[DayForecasts]) -> DayForecasts:
    """The forecasts of all users of ``parts``, one part after another; at least one part."""
    return DayForecasts(
        p=np.concatenate([part.p for part in parts]),
        given=np.concatenate([part.given for part in parts]),
        mean=np.concatenate([part.mean for part in parts]),
        heads={
            name: np.concatenate([part.heads[name] for part in parts]) for name in parts[0].heads
        },
    )


def in_raw_units(outputs: Forecast, recipe: Recipe, scaler: Scaler) -> DayForecasts:
    """Undo the scaling; a column that cannot fall below its minimum is not forecast below it.

    Args:
        outputs: Of windows with one origin, their last.
        recipe: Whose columns these are.
        scaler: What the network was trained with.
    """
    is_binary = outputs.config.is_binary
    p = outputs.binary_logits[:, -1].float().sigmoid().cpu().numpy()
    continuous = [n for n, binary in enumerate(is_binary) if not binary]
    minimum = [recipe.activity[n].minimum for n in continuous]
    floor = np.array([-np.inf if low is None else low for low in minimum], np.float32)
    given = outputs.given_continuous[:, -1].float().cpu().numpy() * scaler.scales[continuous]
    given = np.maximum(given, floor)
    p_active = p[..., recipe.binary.index(recipe.active), None]
    lowest = {task.name: _lowest(recipe, task) for task in recipe.tasks}
    heads = {
        name: np.maximum(
            answer[:, -1].cpu().numpy() * np.float32(scaler.heads[name].scale), lowest[name]
        )
        for name, answer in outputs.answers().items()
    }
    return DayForecasts(p=p, given=given, mean=p_active * given, heads=heads)


def _lowest(recipe: Recipe, task: Task) -> np.float32:
    """What a sum cannot fall below; a formula may be anything."""
    minimum = {column.name: column.minimum for column in recipe.activity}
    low = minimum[task.column] if task.column is not None else None
    return np.float32(-np.inf if low is None else low * task.window_days)
