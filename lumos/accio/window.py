"""Cut windows out of ragged users: what a forecast may see, and what it is judged by.

A window is a span of ``history_days`` that ends at its last origin, and the ``horizon_days`` after
it. It may have one forecast origin, its end, or several inside: a causal encoder is supervised at
all of them in one pass. Only active days are kept; a day that is not there is a row of zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lumos.accio.users import Users, ragged_rows, splits_of

_STRIDE = 1 << 21  # day numbers are far below it: (user, day) as one sortable number


@dataclass(frozen=True)
class Windows:
    """N ragged windows of M origins each.

    Attributes:
        values: float32 activity of the active days in raw units, shape (nnz, d_u).
        offsets: int32 days since the window's first day, from 0 to T + F - 1, shape (nnz,).
        splits: int64; window i owns rows ``splits[i]:splits[i + 1]``, shape (N + 1,).
        origins: int32 day numbers, ascending, shape (N, M); the last is the end of the history.
        registered: int32 day number of the first day the user exists, shape (N,).
        history_days: T.
        horizon_days: F.
    """

    values: np.ndarray
    offsets: np.ndarray
    splits: np.ndarray
    origins: np.ndarray
    registered: np.ndarray
    history_days: int
    horizon_days: int

    def __len__(self) -> int:
        return len(self.registered)

    @property
    def first_day(self) -> np.ndarray:
        """Day number of the first day of each history, shape (N,)."""
        days: np.ndarray = self.origins[:, -1] - self.history_days + 1
        return days

    @property
    def cells(self) -> np.ndarray:
        """Where each active day stands in N x (T + F) days, int64 of shape (nnz,)."""
        window = np.repeat(np.arange(len(self)), np.diff(self.splits))
        return np.asarray(window * (self.history_days + self.horizon_days) + self.offsets)

    @property
    def is_registered(self) -> np.ndarray:
        """False on history days before the user existed, shape (N, T)."""
        days = self.first_day[:, None] + np.arange(self.history_days)
        return np.asarray(days >= self.registered[:, None])

    @property
    def dense(self) -> np.ndarray:
        """History days, then horizon days, float32 of shape (N, T + F, d_u)."""
        num_days = self.history_days + self.horizon_days
        width = self.values.shape[1]
        cells = np.zeros((len(self) * num_days, width), np.float32)
        cells[self.cells] = self.values
        return cells.reshape(len(self), num_days, width)

    @property
    def history(self) -> np.ndarray:
        """Activity up to the last origin, shape (N, T, d_u)."""
        return self.dense[:, : self.history_days]

    @property
    def targets(self) -> np.ndarray:
        """Activity of the days after the last origin, shape (N, F, d_u)."""
        return self.dense[:, self.history_days :]

    @property
    def target_days(self) -> np.ndarray:
        """Offsets of the horizon days of every origin, shape (N, M, F)."""
        ahead = np.arange(1, self.horizon_days + 1)
        return np.asarray((self.origins - self.first_day[:, None])[..., None] + ahead)

    def part(self, start: int, stop: int) -> Self:
        """Windows ``start`` .. ``stop - 1``, without copying."""
        first, last = self.splits[start], self.splits[stop]
        return type(self)(
            values=self.values[first:last],
            offsets=self.offsets[first:last],
            splits=self.splits[start : stop + 1] - first,
            origins=self.origins[start:stop],
            registered=self.registered[start:stop],
            history_days=self.history_days,
            horizon_days=self.horizon_days,
        )

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All windows of ``parts``, one part after another; at least one part, of equal spans."""
        first = parts[0]
        if len(parts) == 1:
            return first
        return cls(
            values=np.concatenate([part.values for part in parts]),
            offsets=np.concatenate([part.offsets for part in parts]),
            splits=splits_of(np.concatenate([np.diff(part.splits) for part in parts])),
            origins=np.concatenate([part.origins for part in parts]),
            registered=np.concatenate([part.registered for part in parts]),
            history_days=first.history_days,
            horizon_days=first.horizon_days,
        )


def cut(
    users: Users,
    origins: np.ndarray,
    history_days: int,
    horizon_days: int,
    rows: np.ndarray | None = None,
) -> Windows:
    """One window for each row of ``origins``.

    A search for both ends of each window and one copy of what lies between: the cost grows with
    the active days inside the windows, not with the users' pasts. Nothing after the last origin
    reaches ``history`` or ``is_registered``.

    Args:
        users: U users.
        origins: Day numbers, shape (N,), or (N, M) ascending for several origins a window.
        history_days: T.
        horizon_days: F.
        rows: User of each window, shape (N,); the users as they are when ``None``.
    """
    origins = np.asarray(origins, np.int32)
    origins = origins if origins.ndim == 2 else origins[:, None]
    rows = np.arange(len(users)) if rows is None else rows
    key = users.owner * _STRIDE + users.days
    first = origins[:, -1].astype(np.int64) - history_days + 1
    # Kept inside the user's own keys, however far before 1970 or after it a window reaches.
    ends = np.clip([first, first + history_days + horizon_days], 0, _STRIDE - 1)
    start, stop = np.searchsorted(key, rows * _STRIDE + ends)
    days, splits = ragged_rows(start, stop)
    values = np.empty((len(days), len(users.columns)), np.float32)
    for number, column in enumerate(users.columns):
        values[:, number] = column[days]
    return Windows(
        values=values,
        offsets=(users.days[days] - np.repeat(first, stop - start)).astype(np.int32),
        splits=splits,
        origins=origins,
        registered=users.registered[rows],
        history_days=history_days,
        horizon_days=horizon_days,
    )
