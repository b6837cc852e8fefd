"""The calendar as it was known on any day: what a forecast made then could have used.

One array of distinct rows serves all users: windows are index rows into it, never copies per user.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

# (day, known_on) as one sortable number; day numbers are far below either bound.
_STRIDE, _SHIFT = 1 << 21, 1 << 20


@dataclass(frozen=True)
class EventRows:
    """Event context of a batch: each distinct row once, and which row each day uses.

    Attributes:
        rows: float32 raw event context, shape (R, d_s).
        index: int64 numbers of rows, shape (N, T + M * F): the history days, then the horizon
            days of each origin.
    """

    rows: np.ndarray
    index: np.ndarray


class EventCalendar:
    """Columns known for all time (weekdays, holidays) and columns known once announced."""

    def __init__(
        self,
        days: np.ndarray,
        known_on: np.ndarray,
        values: np.ndarray,
        always: Callable[[int, int], np.ndarray] | None = None,
    ) -> None:
        """Take the announced rows, in any order.

        Args:
            days: Day numbers, shape (R,).
            known_on: Day from which the row says what was known, shape (R,).
            values: Announced columns, shape (R, E).
            always: The columns known for all time, of ``num_days`` days from a first day, as
                float32 of shape (num_days, C); they stand before the announced ones.
        """
        key = days.astype(np.int64) * _STRIDE + known_on + _SHIFT
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self._day = days.astype(np.int64)[order]
        # The last row is "nothing was announced".
        nothing = np.zeros((1, values.shape[1]), np.float32)
        self._values = np.concatenate([values.astype(np.float32)[order], nothing])
        self._always = always or (lambda _first, num_days: np.zeros((num_days, 0), np.float32))
        self._covered = self._always(0, 0)
        self._first = 0
        # What was known of a span on its origin, as numbers of rows: an origin is asked for often.
        self._spans: dict[tuple[int, int, int], np.ndarray] = {}
        # What was known of each day on the day itself, from a first day on.
        self._own_first, self._own = 0, np.zeros(0, np.int64)

    @property
    def num_columns(self) -> int:
        """d_s: columns known for all time, then announced ones."""
        return int(self._covered.shape[1] + self._values.shape[1])

    def with_rows(self, days: np.ndarray, known_on: np.ndarray, values: np.ndarray) -> Self:
        """The same calendar with more announced rows, shapes as in the constructor.

        Of rows with the same day and ``known_on`` the added one holds.
        """
        mine = self._key - self._day * _STRIDE - _SHIFT
        return type(self)(
            np.concatenate([self._day, days]),
            np.concatenate([mine, known_on]),
            np.concatenate([self._values[:-1], values.astype(np.float32)]),
            self._always,
        )

    def window(self, as_of: int, first: int, num_days: int) -> np.ndarray:
        """Consecutive days as known on ``as_of``.

        For each day the latest row with ``known_on <= as_of``; zeros where nothing was
        announced by then.

        Returns:
            float32 of shape (num_days, d_s), raw units.
        """
        days = np.arange(first, first + num_days, dtype=np.int64)
        return self._rows(days, self._find(days, np.full_like(days, as_of)))

    def gather(self, origins: np.ndarray, history_days: int, horizon_days: int) -> EventRows:
        """The windows of many origins at once, every distinct row only once.

        With one origin a window the whole window is as known on the origin. With several, each
        horizon is as known on its own origin, and each history day as known on that day itself,
        so that no earlier origin sees what was only announced later.

        Args:
            origins: Day numbers, shape (N,) or (N, M).
            history_days: T.
            horizon_days: F.
        """
        origins = np.asarray(origins, np.int64)
        origins = origins if origins.ndim == 2 else origins[:, None]
        if not origins.size:
            num_days = history_days + origins.shape[1] * horizon_days
            return EventRows(self._rows(*[np.zeros(0, np.int64)] * 2), np.zeros((0, num_days), int))
        distinct, which = np.unique(origins, return_inverse=True)
        which = which.reshape(origins.shape)
        ahead = np.stack([self._span(origin, 1, horizon_days) for origin in distinct.tolist()])
        past = self._history(distinct, history_days, is_shared=origins.shape[1] > 1)
        found = np.concatenate([past[which[:, -1]], ahead[which].reshape(len(origins), -1)], axis=1)
        days = origins[:, -1:] + np.arange(1 - history_days, 1)
        days_ahead = origins[..., None] + np.arange(1, horizon_days + 1)
        days = np.concatenate([days, days_ahead.reshape(len(origins), -1)], axis=1)
        return self._distinct(days, found)

    def _history(self, origins: np.ndarray, num_days: int, *, is_shared: bool) -> np.ndarray:
        if not is_shared:
            spans = [self._span(o, 1 - num_days, num_days) for o in origins.tolist()]
            return np.stack(spans)
        days = origins[:, None] + np.arange(1 - num_days, 1)
        first, last = int(days.min()), int(days.max())
        start, stop = self._own_first, self._own_first + len(self._own)
        if not start <= first <= last < stop:
            if len(self._own):
                first, last = min(first, start), max(last, stop - 1)
            own = np.arange(first, last + 1, dtype=np.int64)
            self._own_first, self._own = first, self._find(own, own)
        return np.asarray(self._own[days - self._own_first])

    def _span(self, origin: int, start: int, num_days: int) -> np.ndarray:
        """Rows of the days from ``origin + start`` on, as known on the origin."""
        key = (origin, start, num_days)
        if key not in self._spans:
            days = np.arange(origin + start, origin + start + num_days, dtype=np.int64)
            self._spans[key] = self._find(days, np.full_like(days, origin))
        return self._spans[key]

    def _distinct(self, days: np.ndarray, found: np.ndarray) -> EventRows:
        """Number the rows that are used, without sorting: a row tells its day, or is the day."""
        nothing, base = len(self._day), int(days.min())
        code = np.where(found == nothing, nothing + 1 + days - base, found)
        is_used = np.zeros(nothing + 2 + int(days.max()) - base, bool)
        is_used[code.ravel()] = True
        used = np.flatnonzero(is_used)
        number = np.cumsum(is_used) - 1
        is_announced = used < nothing
        row = np.where(is_announced, used, nothing)
        known = np.concatenate([self._day, [0]])[row]
        day = np.where(is_announced, known, used - nothing - 1 + base)
        return EventRows(self._rows(day, row), number[code])

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
        return np.concatenate([self._covered[days - self._first], self._values[rows]], axis=1)

    def _cover(self, first: int, last: int) -> None:
        known = len(self._covered)
        if known:
            first, last = min(first, self._first), max(last, self._first + known - 1)
        if last - first + 1 > known:
            self._covered = self._always(first, last - first + 1)
            self._first = first
