"""From forecasts of days to scores of tasks, some thousand users at a time.

Rows of one user lie together in `forecasts`, day after day: nothing has to be sorted or kept.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.config import Recipe
from lumos.dates import day_number
from lumos.serve.calibrate import Calibration
from lumos.tables import tables
from lumos.tasks import DayForecasts, task_scores
from lumos.verbs import BadInput


@dataclass(frozen=True)
class Part:
    """Scores of some users, and what the gate has to know of the forecasts behind them.

    Attributes:
        rows: Rows of `scores`, one a user whose horizon is whole.
        model_versions: That their forecasts, and those of users left out, are of.
        num_nulls: Cells without a value among the forecasts.
    """

    rows: pa.Table
    model_versions: frozenset[str]
    num_nulls: int


def stage(recipe: Recipe, date: dt.date, days: pa.Table, calibration: Calibration) -> Part:
    """Calibrated task scores of every user whose horizon is whole.

    Args:
        recipe: Names the columns and tasks.
        date: The business date.
        days: Its rows of `forecasts` of some users, as they lie in their file.
        calibration: Of the model version that made them.

    Raises:
        BadInput: The forecasts were made before a task was given a head.
    """
    needed = [n for n in forecast_columns(recipe) if n in days.column_names]
    whole = days.filter(pa.array(_is_whole(days, recipe, date)))
    users = whole["user_id"].take(np.arange(0, whole.num_rows, recipe.horizon_days))

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
    schema = tables(recipe)["scores"].arrow_schema(recipe)
    columns = {
        **{n: pa.repeat(pa.scalar(v, schema.field(n).type), len(users))
           for n, v in constants.items()},
        "user_id": users,
        **calibration.apply(raw),
    }  # fmt: skip
    return Part(
        rows=pa.table([_column(columns[f.name], f.type) for f in schema], schema=schema),
        model_versions=frozenset(pc.unique(days["model_version"]).drop_null().to_pylist()),
        num_nulls=sum(days[name].null_count for name in needed),
    )


def _column(cells: pa.ChunkedArray | np.ndarray, kind: pa.DataType) -> pa.Array:
    return cells if isinstance(cells, pa.ChunkedArray | pa.Array) else pa.array(cells, kind)


def forecast_columns(recipe: Recipe) -> list[str]:
    """The columns of `forecasts` that scores are made from."""
    declared = tables(recipe)["forecasts"].column_names
    return [name for name in declared if name not in ("as_of", "shard")]


def whole_users(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, cut between users: the last user of a table may go on in the next one."""
    held: pa.Table | None = None
    for batch in batches:
        if held is None or not held.num_rows:
            held = batch
        elif batch.num_rows:
            last = _starts(held["user_id"].combine_chunks())[-1]
            if last:
                yield held.slice(0, last)
            held = pa.concat_tables([held.slice(last), batch])
    if held is not None and held.num_rows:
        yield held


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


def _starts(user_id: pa.Array) -> np.ndarray:
    """Numbers of the rows with which another user begins; of at least one row."""
    is_next = pc.not_equal(user_id.slice(1), user_id.slice(0, len(user_id) - 1))
    known = pc.fill_null(is_next, True).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.concatenate([[True], known]))


def _is_whole(days: pa.Table, recipe: Recipe, date: dt.date) -> np.ndarray:
    """Which rows are of users that have exactly the days of the horizon, in order."""
    if not days.num_rows:
        return np.zeros(0, bool)
    start = _starts(days["user_id"].combine_chunks())
    size = np.diff(np.append(start, days.num_rows))
    offset = pc.fill_null(pc.cast(days["horizon_day"], pa.int32()), 0).to_numpy()
    place = np.arange(days.num_rows) - np.repeat(start, size)
    is_right = (offset - day_number(date) == place + 1) & days["user_id"].is_valid().to_numpy()
    is_whole = np.logical_and.reduceat(is_right, start) & (size == recipe.horizon_days)
    rows: np.ndarray = np.repeat(is_whole, size)
    return rows
