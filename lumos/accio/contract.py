"""Accio on the contract tables: what a recipe says, in the loader's own terms."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.accio.events import EventCalendar
from lumos.accio.table import Columns, SequenceTable
from lumos.calendar import calendar_columns
from lumos.config import Recipe
from lumos.dates import from_day_number
from lumos.delta import read
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.verbs import BadInput


def open_sequences(settings: Settings, recipe: Recipe, version: int | None) -> SequenceTable:
    """``sequences`` of a recipe at a version.

    Raises:
        BadInput: There is no such table, or another recipe made it.
    """
    columns = Columns(
        activity=tuple(column.name for column in recipe.activity),
        static=tuple(column.name for column in recipe.static),
    )
    try:
        return SequenceTable.open(table_uri(settings, recipe, "sequences"), columns, version)
    except BadInput as error:
        msg = f"{error}. `lumos sequences --recipe {recipe.name} --force` makes it anew"
        raise BadInput(msg) from error


def event_calendar(
    recipe: Recipe, days: np.ndarray, known_on: np.ndarray, values: np.ndarray
) -> EventCalendar:
    """The recipe's calendar columns, then these rows of its event columns."""
    return EventCalendar(days, known_on, values, partial(_calendar, recipe))


def _calendar(recipe: Recipe, first: int, num_days: int) -> np.ndarray:
    start = from_day_number(first)
    return calendar_columns(recipe.calendar, start, num_days, recipe.country)


def load_events(settings: Settings, recipe: Recipe, version: int | None) -> EventCalendar:
    """Read ``event_context`` at a version; a recipe without event columns needs no table.

    Raises:
        BadInput: The recipe has event columns and there is no table.
    """
    names = [column.name for column in recipe.events]
    if not names:
        nowhere = np.zeros(0, np.int64)
        return event_calendar(recipe, nowhere, nowhere, np.zeros((0, 0), np.float32))
    uri = table_uri(settings, recipe, "event_context")
    table = read(uri, version=version, columns=["day", "known_on", *names])
    if table is None:
        msg = f"there is no event_context at {uri}; run `lumos aggregate` for the date first"
        raise BadInput(msg)
    values = np.stack([table[name].to_numpy() for name in names], axis=1)
    return event_calendar(recipe, _numbers(table["day"]), _numbers(table["known_on"]), values)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    days: np.ndarray = pc.cast(column, pa.int32()).to_numpy()
    return days
