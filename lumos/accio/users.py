"""Users as the loader holds them: ragged, column by column, only active days."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Users:
    """A ragged batch of users, one row of the table each.

    Attributes:
        user_id: Strings as objects, shape (N,).
        registered: int32 day number of the first day the user exists, shape (N,).
        static: N rows, the static columns; a null is missing.
        columns: float32 activity of active days in raw units, one array of shape (nnz,) a column,
            because that is how Parquet has them, and most days are not in the window.
        days: int32 day numbers, ascending within a user, shape (nnz,).
        splits: int64; user i owns rows ``splits[i]:splits[i + 1]``, shape (N + 1,).
    """

    user_id: np.ndarray
    registered: np.ndarray
    static: pa.Table
    columns: tuple[np.ndarray, ...]
    days: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)

    @cached_property
    def values(self) -> np.ndarray:
        """The activity as one array, shape (nnz, d_u)."""
        return np.stack(self.columns, axis=1)

    @property
    def owner(self) -> np.ndarray:
        """Number of the user that each active day belongs to, shape (nnz,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.splits))

    def take(self, index: np.ndarray) -> Self:
        """The users at ``index`` (numbers or a mask), in that order; repeats are allowed."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        rows, splits = ragged_rows(self.splits[index], self.splits[index + 1])
        return type(self)(
            user_id=self.user_id[index],
            registered=self.registered[index],
            static=self.static.take(pa.array(index)),
            columns=tuple(column[rows] for column in self.columns),
            days=self.days[rows],
            splits=splits,
        )

    def part(self, start: int, stop: int) -> Self:
        """Users ``start`` .. ``stop - 1``, without copying their days."""
        first, last = int(self.splits[start]), int(self.splits[stop])
        return type(self)(
            user_id=self.user_id[start:stop],
            registered=self.registered[start:stop],
            static=self.static.slice(start, stop - start),
            columns=tuple(column[first:last] for column in self.columns),
            days=self.days[first:last],
            splits=self.splits[start : stop + 1] - first,
        )

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All users of ``parts``, one part after another; at least one part."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.splits) for part in parts])
        return cls(
            user_id=np.concatenate([part.user_id for part in parts]),
            registered=np.concatenate([part.registered for part in parts]),
            static=pa.concat_tables([part.static for part in parts]),
            columns=tuple(
                np.concatenate(column)
                for column in zip(*(part.columns for part in parts), strict=True)
            ),
            days=np.concatenate([part.days for part in parts]),
            splits=splits_of(lengths),
        )


def splits_of(lengths: np.ndarray) -> np.ndarray:
    """Row splits of lists with these lengths: int64 of shape (N + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ragged_rows(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows in ``starts[i]:stops[i]``, one range after another, and their splits."""
    splits = splits_of(stops - starts)
    rows = np.repeat(starts - splits[:-1], stops - starts) + np.arange(splits[-1])
    return rows, splits
