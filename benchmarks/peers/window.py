"""The windows that every peer must deliver, cut with numpy alone, in one place for all of them.

Runs in environments that have numpy and pyarrow, but neither torch nor pydantic. The
draw of an origin repeats :mod:`lumos.accio.chance`; the benchmark compares the windows themselves.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.hashing import hash_ids

COLUMNS = ("user_id", "registered_on", "days")
_ORIGIN, _EPOCH, _DRAW = 2, 0, 0  # salts of lumos.accio.chance
_FIRST_DAY = np.datetime64("1970-01-01")


@dataclass(frozen=True)
class Spec:
    """Which windows: day numbers ``first_origin .. last_origin``, both included."""

    history_days: int
    horizon_days: int
    first_origin: int
    last_origin: int
    seed: int

    @property
    def num_days(self) -> int:
        """Days of a window."""
        return self.history_days + self.horizon_days


@dataclass(frozen=True)
class Users:
    """Ragged users: user i owns ``splits[i]:splits[i + 1]`` of ``days`` and ``values``.

    Attributes:
        user_id: Strings as objects, shape (N,).
        registered: Day numbers, shape (N,).
        splits: Shape (N + 1,).
        days: Day numbers, shape (nnz,).
        values: float32, shape (nnz, d_u).
    """

    user_id: np.ndarray
    registered: np.ndarray
    splits: np.ndarray
    days: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Windows:
    """Compact windows: only the active days inside them.

    Attributes:
        user_id: Strings as objects, shape (N,).
        splits: int64, shape (N + 1,).
        offset: int16 day within the window, shape (nnz,).
        values: float32, shape (nnz, d_u).
    """

    user_id: np.ndarray
    splits: np.ndarray
    offset: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)

    def dense(self, num_days: int) -> np.ndarray:
        """The same as float32 of shape (N, num_days, d_u)."""
        found = np.zeros((len(self), num_days, self.values.shape[1]), np.float32)
        user = np.repeat(np.arange(len(self)), np.diff(self.splits))
        found[user, self.offset] = self.values
        return found


def origin(hashes: np.ndarray, registered: np.ndarray, spec: Spec) -> np.ndarray:
    """Last day of each user's history, drawn as ``lumos.accio.chance.draw_origins`` draws it."""
    state = hashes
    for salt in (_ORIGIN, spec.seed, _EPOCH, _DRAW):
        state = _mix(state ^ _mix(np.full_like(state, salt)))
    share = (_mix(state) >> np.uint64(11)) / 2.0**53
    first = np.maximum(registered, spec.first_origin)
    return (first + np.floor(share * (spec.last_origin - first + 1))).astype(np.int64)


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def users_of_arrow(table: pa.Table | pa.RecordBatch) -> Users:
    """Users of Arrow rows with the three :data:`COLUMNS`, without touching a Python object."""
    days = _single(table["days"])
    flat = days.flatten()
    lengths = pc.list_value_length(days).to_numpy(zero_copy_only=False)
    values = np.empty((len(flat), flat.type.num_fields - 1), np.float32)
    for number in range(1, flat.type.num_fields):  # the first field is the day
        values[:, number - 1] = flat.field(number).to_numpy(zero_copy_only=False)
    return Users(
        user_id=table["user_id"].to_numpy(zero_copy_only=False),
        registered=pc.cast(_single(table["registered_on"]), pa.int32()).to_numpy(),
        splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        days=flat.field(0).to_numpy(zero_copy_only=False),
        values=values,
    )


def users_of_rows(rows: Sequence[Mapping]) -> Users:
    """Users of rows as ``to_pylist`` gives them, for peers that hand out nothing else."""
    days = [row["days"] for row in rows]
    num_days = sum(map(len, days))
    cells = chain.from_iterable(day.values() for day in chain.from_iterable(days))
    flat = np.fromiter(cells, np.float32).reshape(num_days, -1)  # a day number fits float32
    return Users(
        user_id=np.array([row["user_id"] for row in rows], object),
        registered=_day_numbers([row["registered_on"] for row in rows]),
        splits=np.concatenate([[0], np.cumsum([len(part) for part in days])]).astype(np.int64),
        days=flat[:, 0].astype(np.int64),
        values=flat[:, 1:],
    )


def _day_numbers(dates: list) -> np.ndarray:
    return (np.array(dates, "datetime64[D]") - _FIRST_DAY).astype(np.int64)


def _single(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def cut(users: Users, spec: Spec) -> Windows:
    """One window for each user who has an origin in range."""
    hashes = hash_ids(pa.array(users.user_id, pa.string()))
    start = origin(hashes, users.registered, spec) - spec.history_days + 1
    has_origin = users.registered <= spec.last_origin
    user = np.repeat(np.arange(len(users.user_id)), np.diff(users.splits))
    offset = users.days - start[user]
    is_inside = (offset >= 0) & (offset < spec.num_days) & has_origin[user]
    lengths = np.bincount(user[is_inside], minlength=len(users.user_id))[has_origin]
    return Windows(
        user_id=users.user_id[has_origin],
        splits=np.concatenate([[0], np.cumsum(lengths)]),
        offset=offset[is_inside].astype(np.int16),
        values=users.values[is_inside],
    )


def cut_shuffled(table: pa.Table | pa.RecordBatch, spec: Spec) -> Windows:
    """Windows of Arrow rows, in an order of chance: a batch of a few files is mixed no further."""
    order = np.random.default_rng().permutation(table.num_rows)
    return cut(users_of_arrow(table.take(pa.array(order))), spec)


def digests(windows: Windows, num_days: int) -> dict[str, str]:
    """A digest of each user's dense window, to compare readers by."""
    return digests_of(windows.user_id, windows.dense(num_days))


def digests_of(user_id: np.ndarray, dense: np.ndarray) -> dict[str, str]:
    """A digest of each window of shape (N, num_days, d_u), float32."""
    return {
        str(user): hashlib.blake2b(window.tobytes(), digest_size=8).hexdigest()
        for user, window in zip(user_id, dense, strict=True)
    }
