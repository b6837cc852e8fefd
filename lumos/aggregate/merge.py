"""The arithmetic of ``advance``: users as of a date, and their days with some days replaced.

Pure functions of Arrow tables, the same rows that Spark makes in :mod:`lumos.aggregate.rebuild`.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.dates import day_number

_DAYS = 2**16  # every int16 has a place


@dataclass(frozen=True)
class ActiveDays:
    """Active days of numbered users.

    Attributes:
        user: Number of the user, int64 of shape (N,).
        day: Days since 1970, int16 of shape (N,).
        values: For each activity column a float32 array of N, null on days older than the column.
    """

    user: np.ndarray
    day: np.ndarray
    values: tuple[pa.Array, ...]

    def take(self, index: np.ndarray) -> Self:
        """Rows by their numbers, in that order."""
        picked = tuple(column.take(pa.array(index)) for column in self.values)
        return type(self)(self.user[index], self.day[index], picked)

    def of_users(self, first: int, stop: int) -> Self:
        """Rows of users ``first`` .. ``stop - 1``, numbered anew from 0; sorted by user before."""
        start, end = np.searchsorted(self.user, [first, stop]).tolist()
        picked = tuple(column.slice(start, end - start) for column in self.values)
        return type(self)(self.user[start:end] - first, self.day[start:end], picked)


def registered_by(users: pa.Table, date: dt.date) -> pa.Table:
    """Who is registered on a date: one row a user, sorted by ``user_id``.

    Args:
        users: Rows of ``users``, in any order.
        date: The last day that counts.

    Returns:
        The row valid last, registered on the first day that any valid row says.
    """
    valid = users.filter(pc.less_equal(users["valid_from"], date)).combine_chunks()
    if not valid.num_rows:
        return valid
    valid = valid.sort_by([("user_id", "ascending"), ("valid_from", "ascending")])
    user_id = valid["user_id"].combine_chunks()
    is_next = pc.not_equal(user_id.slice(1), user_id.slice(0, len(user_id) - 1))
    starts = np.flatnonzero(np.concatenate([[True], is_next.to_numpy(zero_copy_only=False)]))
    registered = np.minimum.reduceat(valid["registered_on"].cast(pa.int32()).to_numpy(), starts)
    newest = valid.take(pa.array(np.append(starts[1:], valid.num_rows) - 1))
    place = newest.schema.get_field_index("registered_on")
    newest = newest.set_column(place, "registered_on", pa.array(registered).cast(pa.date32()))
    return newest.filter(pc.less_equal(newest["registered_on"], date)).combine_chunks()


def numbers_of(user_ids: pa.Array, known: pa.Array) -> np.ndarray:
    """Place of each user in ``known``, -1 where it is not there; int64 of shape (N,)."""
    places = pc.fill_null(pc.index_in(user_ids, value_set=known), -1)
    return np.asarray(places.to_numpy(zero_copy_only=False)).astype(np.int64)


def unpacked(days: pa.ListArray, user: np.ndarray, columns: Sequence[str]) -> ActiveDays:
    """Lists of days as rows.

    Args:
        days: Of N users, as in ``sequences``; fields may be missing and are null then.
        user: Number of each user, shape (N,).
        columns: Activity columns.
    """
    lengths = pc.list_value_length(days).to_numpy(zero_copy_only=False)
    flat = days.flatten()
    fields = {field.name for field in flat.type}
    return ActiveDays(
        user=np.repeat(user, lengths),
        day=flat.field("day").to_numpy(zero_copy_only=False),
        values=tuple(
            flat.field(name) if name in fields else pa.nulls(len(flat), pa.float32())
            for name in columns
        ),
    )


def packed(rows: ActiveDays, num_users: int, kind: pa.ListType) -> pa.ListArray:
    """Rows, sorted by user and day, as one list of days a user."""
    lengths = np.bincount(rows.user, minlength=num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    cells = pa.StructArray.from_arrays(
        [pa.array(rows.day), *rows.values], fields=list(kind.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(offsets), cells, type=kind)


def is_among(day: np.ndarray, days: Iterable[dt.date]) -> np.ndarray:
    """Which of the days, int16 of shape (N,), are among these; bool of shape (N,)."""
    among = np.zeros(_DAYS, bool)
    among[[day_number(one) for one in days]] = True
    found: np.ndarray = among[day]  # a negative day counts from the end, where nothing else is
    return found


def with_days_replaced(old: ActiveDays, new: ActiveDays, days: Iterable[dt.date]) -> ActiveDays:
    """Old rows with those of some days taken out and the new ones put in.

    Args:
        old: Sorted by user and day; users numbered -1 are left out.
        new: Sorted likewise; no row has a user and day that an old row keeps.
        days: The days whose old rows go.
    """
    kept = np.flatnonzero((old.user >= 0) & ~is_among(old.day, days))
    places = np.searchsorted(_key(old)[kept], _key(new))
    order = np.insert(kept, places, len(old.user) + np.arange(len(new.user)))
    values = zip(old.values, new.values, strict=True)
    both = ActiveDays(
        user=np.concatenate([old.user, new.user]),
        day=np.concatenate([old.day, new.day]),
        values=tuple(pa.concat_arrays(pair) for pair in values),
    )
    return both.take(order)


def _key(rows: ActiveDays) -> np.ndarray:
    """Ascends with user and day."""
    key: np.ndarray = rows.user * _DAYS + rows.day
    return key


def waiting_users(rows: pa.Table) -> pa.Table:
    """First active day and number of days of users, from their ``user_id`` and ``day`` (int16)."""
    groups = rows.group_by("user_id", use_threads=False)
    found = groups.aggregate([("day", "min"), ("day", "count")])
    first = found["day_min"].cast(pa.int32()).cast(pa.date32())
    return pa.table(
        {"user_id": found["user_id"], "first_active_on": first, "num_days": found["day_count"]}
    )
