"""The calendar as it was known on any day: what a forecast made then could have used.

One (days, d_s) buffer serves all users: windows are index rows into it, never copies per user.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.calendar import calendar_columns
from lumos.config import Recipe
from lumos.dates import from_day_number
from lumos.delta import read
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.verbs import BadInput

# (day, known_on) as one sortable number; day numbers are far below either bound.
_STRIDE, _SHIFT = 1 << 21, 1 << 20


@dataclass(frozen=True)
class EventRows:
    """Event context of a batch: each distinct row once, and which row each day uses.

    Attributes:
        rows: float32 raw event context, shape (R, d_s).
        index: int64 numbers of rows, history days then horizon days, shape (N, T + F).
    """

    rows: np.ndarray
    index: np.ndarray


class EventCalendar:
    """Calendar columns (known for all time) and event columns (known once announced)."""

    def __init__(
        self, recipe: Recipe, days: np.ndarray, known_on: np.ndarray, values: np.ndarray
    ) -> None:
        """Take the rows of `event_context`, in any order.

        Args:
            recipe: Names the calendar and event columns.
            days: Day numbers, shape (R,).
            known_on: Day from which the row says what was known, shape (R,).
            values: Event columns in the recipe's order, shape (R, E).
        """
        key = days.astype(np.int64) * _STRIDE + known_on + _SHIFT
        order = np.argsort(key, kind="stable")
        self._recipe = recipe
        self._key = key[order]
        self._day = days.astype(np.int64)[order]
        # The last row is "nothing was announced".
        nothing = np.zeros((1, len(recipe.events)), np.float32)
        self._values = np.concatenate([values.astype(np.float32)[order], nothing])
        self._calendar = np.zeros((0, len(recipe.calendar)), np.float32)
        self._first = 0

    @classmethod
    def load(cls, settings: Settings, recipe: Recipe, version: int | None) -> Self:
        """Read `event_context` at a version; a recipe without event columns needs no table.

        Raises:
            BadInput: The recipe has event columns and there is no table.
        """
        names = [column.name for column in recipe.events]
        if not names:
            nowhere = np.zeros(0, np.int64)
            return cls(recipe, nowhere, nowhere, np.zeros((0, 0), np.float32))
        uri = table_uri(settings, recipe, "event_context")
        table = read(uri, version=version, columns=["day", "known_on", *names])
        if table is None:
            msg = f"there is no event_context at {uri}; run `lumos aggregate` for the date first"
            raise BadInput(msg)
        columns = [table[name].to_numpy() for name in names]
        return cls(
            recipe, _numbers(table["day"]), _numbers(table["known_on"]), np.stack(columns, axis=1)
        )

    @property
    def num_columns(self) -> int:
        """d_s: calendar columns, then event columns."""
        return len(self._recipe.calendar) + len(self._recipe.events)

    def window(self, as_of: int, first: int, num_days: int) -> np.ndarray:
        """Consecutive days as known on ``as_of``.

        For each day the latest row with ``known_on <= as_of``; zeros where nothing was
        announced by then.

        Returns:
            float32 of shape (num_days, d_s), raw units, calendar columns first.
        """
        days = np.arange(first, first + num_days, dtype=np.int64)
        return self._rows(days, self._find(days, np.full_like(days, as_of)))

    def gather(self, origins: np.ndarray, history_days: int, horizon_days: int) -> EventRows:
        """The windows of many origins at once, every distinct row only once."""
        origins = np.asarray(origins, np.int64)
        days = origins[:, None] + np.arange(1 - history_days, horizon_days + 1)
        found = self._find(days, np.broadcast_to(origins[:, None], days.shape))
        start = days.min(initial=0)
        code = (days - start) * len(self._values) + found
        distinct, index = np.unique(code.ravel(), return_inverse=True)
        day, row = np.divmod(distinct, len(self._values))
        return EventRows(self._rows(day + start, row), index.reshape(days.shape))

    def _find(self, days: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """Number of the row that holds for each day as known on ``as_of``."""
        nothing = len(self._day)
        if nothing == 0:
            return np.zeros_like(days)
        latest = np.searchsorted(self._key, days * _STRIDE + as_of + _SHIFT, side="right") - 1
        return np.where((latest >= 0) & (self._day[latest] == days), latest, nothing)

    def _rows(self, days: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if not len(days):
            return np.zeros((0, self.num_columns), np.float32)
        self._cover(int(days.min()), int(days.max()))
        return np.concatenate([self._calendar[days - self._first], self._values[rows]], axis=1)

    def _cover(self, first: int, last: int) -> None:
        known = len(self._calendar)
        if known:
            first, last = min(first, self._first), max(last, self._first + known - 1)
        if last - first + 1 > known:
            self._calendar = calendar_columns(
                self._recipe.calendar,
                from_day_number(first),
                last - first + 1,
                self._recipe.country,
            )
            self._first = first


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    days: np.ndarray = pc.cast(column, pa.int32()).to_numpy()
    return days
