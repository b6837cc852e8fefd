"""From forecasts of days to scores of tasks: what is about to be published, still in memory."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.config import Recipe
from lumos.dates import day_number
from lumos.serve.calibrate import Calibration
from lumos.tables import tables
from lumos.tasks import DayForecasts, task_scores
from lumos.verbs import BadInput


def stage(recipe: Recipe, date: dt.date, day: pa.Table, calibration: Calibration) -> pa.Table:
    """Calibrated task scores of every user whose horizon is whole, sorted by user.

    Args:
        recipe: Names the columns and tasks.
        date: The business date.
        day: Its rows of `forecasts`, sorted by user and horizon day.
        calibration: Of the model version that made them.

    Raises:
        BadInput: The forecasts were made before a task was given a head.
    """
    users, whole = _whole_horizons(day, recipe, date)

    def cells(prefix: str, names: tuple[str, ...]) -> np.ndarray:
        columns = [whole[f"{prefix}_{name}"].to_numpy() for name in names]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((whole.num_rows, 0))
        return stacked.reshape(len(users), recipe.horizon_days, len(names))

    raw = task_scores(
        recipe,
        DayForecasts(
            p=cells("p", recipe.binary),
            given=cells("given", recipe.continuous),
            mean=cells("mean", recipe.continuous),
            heads=_heads(recipe, date, whole),
        ),
    )
    constants = {
        "as_of": date,
        "model_version": calibration.model_version,
        "calibrator_version": calibration.version,
    }
    columns = {
        **{name: [value] * len(users) for name, value in constants.items()},
        "user_id": users,
        **calibration.apply(raw),
    }
    schema = tables(recipe)["scores"].arrow_schema(recipe)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _heads(recipe: Recipe, date: dt.date, whole: pa.Table) -> dict[str, np.ndarray]:
    """What the network said of each task with a head: once a user, from the first of its rows."""
    names = [task.name for task in recipe.tasks if task.has_head]
    if missing := [name for name in names if f"task_{name}" not in whole.column_names]:
        msg = (
            f"the forecasts of {date} hold no answer of a head to {missing}; run `lumos train`, "
            f"`lumos evaluate`, `lumos promote` and `lumos score --date {date}`"
        )
        raise BadInput(msg)
    return {name: whole[f"task_{name}"].to_numpy()[:: recipe.horizon_days] for name in names}


def _whole_horizons(day: pa.Table, recipe: Recipe, date: dt.date) -> tuple[list[str], pa.Table]:
    """Users that have exactly the days of the horizon, and their rows."""
    offset = pc.cast(day["horizon_day"], pa.int32()).to_numpy() - day_number(date)
    _, first, number, count = np.unique(
        day["user_id"].to_numpy().astype(str),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    position = np.arange(len(offset)) - first[number]
    is_right = np.bincount(number, offset == position + 1, len(first)) == count
    is_whole = is_right & (count == recipe.horizon_days)
    rows = day.filter(pa.array(is_whole[number]))
    return rows["user_id"].to_pylist()[:: recipe.horizon_days], rows
