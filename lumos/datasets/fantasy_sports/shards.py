"""Shards of users as rows of the contract tables ``users``, ``activity`` and ``sequences``."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lumos.config import Recipe
from lumos.datasets.fantasy_sports.activity import ACTIVITY_COLUMNS, Activity, activity_of
from lumos.datasets.fantasy_sports.users import Users, users_of
from lumos.datasets.fantasy_sports.world import World
from lumos.dates import day_number
from lumos.hashing import buckets_of
from lumos.tables import tables

# Blocks that are written together: some 600 MB while they are.
SHARD_BLOCKS = 16
_COUNTED = [
    ACTIVITY_COLUMNS.index(name) for name in ("num_sessions", "num_contests", "num_deposits")
]
_BOOKED = [ACTIVITY_COLUMNS.index(name) for name in ("winnings", "withdrawals")]


@dataclass(frozen=True)
class Shard:
    """Consecutive blocks of users and what they do."""

    parts: tuple[tuple[Users, Activity], ...]

    @property
    def user_id(self) -> np.ndarray:
        """Of all users, ascending."""
        return np.concatenate([users.user_id for users, _ in self.parts])

    @property
    def lengths(self) -> np.ndarray:
        """Active days of each user."""
        return np.concatenate([np.diff(activity.splits) for _, activity in self.parts])

    @property
    def days(self) -> np.ndarray:
        """Day numbers of all active days, user by user."""
        return np.concatenate([activity.days for _, activity in self.parts])

    @property
    def values(self) -> np.ndarray:
        """What was done on them, shape (nnz, 13)."""
        return np.concatenate([activity.values for _, activity in self.parts])


def num_shards(world: World) -> int:
    """Shards of a world; the last one may be short."""
    return -(-world.num_blocks // SHARD_BLOCKS)


def shard_of(
    world: World,
    number: int,
    *,
    offered: np.ndarray | None = None,
    last_day: dt.date | None = None,
) -> Shard:
    """Play one shard.

    Args:
        world: The world.
        number: Which shard.
        offered: Whether each of the world's users gets the offer, by number, shape
            (num_users,); by default as randomised.
        last_day: What came later, users too, is left out; by default the world's last.
    """
    first = number * SHARD_BLOCKS
    last = day_number(last_day or world.last_day)
    parts = []
    for block in range(first, min(first + SHARD_BLOCKS, world.num_blocks)):
        users = users_of(world, block)
        mine = None if offered is None else offered[users.number]
        activity = activity_of(world, users, offered=mine).until(last)
        # Nobody is active before registering: whoever is left out has no rows.
        splits = activity.splits[np.append(users.registered <= last, True)]
        parts.append((users.until(last), Activity(activity.days, activity.values, splits)))
    return Shard(tuple(parts))


def users_rows(recipe: Recipe, shard: Shard) -> pa.Table:
    """Rows of ``users``: attributes hold from the day of registration."""
    registered = _dates(np.concatenate([users.registered for users, _ in shard.parts]))
    columns = {
        "user_id": _strings(shard.user_id),
        "valid_from": registered,
        "registered_on": registered,
        **_static(recipe, shard),
    }
    schema = tables(recipe)["users"].arrow_schema(recipe)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def activity_rows(recipe: Recipe, shard: Shard) -> tuple[pa.Table, np.ndarray]:
    """Rows of ``activity`` without their day, and the day number of each; sorted by it."""
    order = np.argsort(shard.days, kind="stable")
    values = shard.values[order]
    num_raw_rows = values[:, _COUNTED].sum(axis=1) + (values[:, _BOOKED] > 0).sum(axis=1)
    columns = {
        "user_id": _strings(np.repeat(shard.user_id, shard.lengths)[order]),
        **{name: values[:, n].astype(float) for n, name in enumerate(ACTIVITY_COLUMNS)},
        "num_raw_rows": num_raw_rows.astype(np.int64),
    }
    schema = file_schema(recipe, "activity")
    rows = pa.table([pa.array(columns[name]) for name in schema.names], schema=schema)
    return rows, shard.days[order]


def sequences_rows(recipe: Recipe, shard: Shard) -> tuple[pa.Table, np.ndarray]:
    """Rows of ``sequences`` without their bucket, and the bucket of each; sorted by it."""
    bucket = buckets_of(_strings(shard.user_id), recipe.num_buckets)
    order = np.argsort(bucket, kind="stable")
    lengths = shard.lengths
    starts = np.cumsum(lengths) - lengths
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    rows = np.repeat(starts[order] - offsets[:-1], lengths[order]) + np.arange(offsets[-1])
    values = shard.values[rows]
    schema = file_schema(recipe, "sequences")
    days = schema.field("days").type
    cells = [shard.days[rows].astype(np.int16), *(np.ascontiguousarray(c) for c in values.T)]
    structs = pa.StructArray.from_arrays([pa.array(c) for c in cells], fields=list(days.value_type))
    registered = np.concatenate([users.registered for users, _ in shard.parts])
    columns = {
        "user_id": _strings(shard.user_id[order]),
        "registered_on": _dates(registered[order]),
        **{name: array.take(pa.array(order)) for name, array in _static(recipe, shard).items()},
        "days": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=days),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema), bucket[order]


def file_schema(recipe: Recipe, name: str) -> pa.Schema:
    """Columns of a table's files: the declared ones without the partition."""
    table = tables(recipe)[name]
    schema = table.arrow_schema(recipe)
    return pa.schema([field for field in schema if field.name not in table.partition])


def _static(recipe: Recipe, shard: Shard) -> dict[str, pa.Array]:
    kinds = {"categorical": pa.string(), "continuous": pa.float64()}
    return {
        column.name: pa.array(
            np.concatenate([users.static[column.name] for users, _ in shard.parts]),
            kinds[column.kind],
            from_pandas=True,
        )
        for column in recipe.static
    }


def _strings(user_ids: np.ndarray) -> pa.Array:
    width = user_ids.dtype.itemsize
    offsets = np.arange(len(user_ids) + 1, dtype=np.int32) * width
    data = np.ascontiguousarray(user_ids)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(offsets), pa.py_buffer(data))


def _dates(day_numbers: np.ndarray) -> pa.Array:
    return pa.array(day_numbers.astype(np.int32)).cast(pa.date32())
