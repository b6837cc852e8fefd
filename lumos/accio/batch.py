"""What passes from the loader to the model: windows of many users, ragged and raw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from lumos.accio.users import Users
from lumos.accio.window import Windows, cut

NOBODY = -1


@dataclass(frozen=True)
class RaggedBatch:
    """B windows in raw units; small, because days without activity are not in it.

    Attributes:
        number: int64 place of each window in the epoch, or ``NOBODY`` for an empty slot, (B,).
        user_id: Strings as objects, shape (B,).
        static: B rows, the static columns; a null is missing.
        windows: The activity.
    """

    number: np.ndarray
    user_id: np.ndarray
    static: pa.Table
    windows: Windows

    def __len__(self) -> int:
        return len(self.number)

    @property
    def weight(self) -> np.ndarray:
        """float32; 0 for an empty slot that only gives all batches one shape, shape (B,)."""
        return np.asarray(self.number != NOBODY, np.float32)

    def part(self, start: int, stop: int) -> Self:
        """Windows ``start`` .. ``stop - 1``, without copying."""
        return type(self)(
            number=self.number[start:stop],
            user_id=self.user_id[start:stop],
            static=self.static.slice(start, stop - start),
            windows=self.windows.part(start, stop),
        )

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All windows of ``parts``, one part after another; at least one part."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            number=np.concatenate([part.number for part in parts]),
            user_id=np.concatenate([part.user_id for part in parts]),
            static=pa.concat_tables([part.static for part in parts]).combine_chunks(),
            windows=Windows.concat([part.windows for part in parts]),
        )


def ragged_batch(
    users: Users,
    origins: np.ndarray,
    history_days: int,
    horizon_days: int,
    *,
    rows: np.ndarray | None = None,
    number: np.ndarray | None = None,
) -> RaggedBatch:
    """Cut windows of ``users`` at ``origins``.

    Args:
        users: U users.
        origins: Day numbers, shape (N,) or (N, M).
        history_days: T.
        horizon_days: F.
        rows: User of each window, shape (N,); the users as they are when ``None``.
        number: Of each window; as they stand when ``None``.
    """
    is_whole = rows is None
    return RaggedBatch(
        number=np.arange(len(origins)) if number is None else number,
        user_id=users.user_id if is_whole else users.user_id[rows],
        static=users.static if is_whole else users.static.take(pa.array(rows)),
        windows=cut(users, origins, history_days, horizon_days, rows),
    )


def empty_slots(
    num_slots: int,
    static: pa.Schema,
    num_columns: int,
    origins: np.ndarray,
    history_days: int,
    horizon_days: int,
) -> RaggedBatch:
    """Slots that nobody fills: no activity, not registered yet, every attribute missing."""
    nothing = [pa.nulls(num_slots, field.type) for field in static]
    return RaggedBatch(
        number=np.full(num_slots, NOBODY, np.int64),
        user_id=np.full(num_slots, "", object),
        static=pa.table(nothing, schema=static),
        windows=Windows(
            values=np.zeros((0, num_columns), np.float32),
            offsets=np.zeros(0, np.int32),
            splits=np.zeros(num_slots + 1, np.int64),
            origins=np.tile(origins.astype(np.int32), (num_slots, 1)),
            registered=np.full(num_slots, origins[-1] + 1, np.int32),
            history_days=history_days,
            horizon_days=horizon_days,
        ),
    )
