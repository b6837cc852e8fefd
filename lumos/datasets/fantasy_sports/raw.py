"""The raw logs: each active day taken apart into sessions, contest entries and wallet rows.

Parts are as even as whole numbers can be and spread over the waking hours; what they add up to
is what :mod:`~lumos.datasets.fantasy_sports.activity` says, to the rupee and the minute.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from lumos.config import Recipe
from lumos.datasets.fantasy_sports.activity import ACTIVITY_COLUMNS, Activity
from lumos.datasets.fantasy_sports.fixtures import fixture_notices, promotions
from lumos.datasets.fantasy_sports.users import Users
from lumos.datasets.fantasy_sports.world import World

_UTC_OFFSET_SECONDS = 19_800  # India is half past five ahead of Greenwich, all year
_WAKING, _WAKING_SECONDS = 6 * 3600, 17 * 3600
_ARROW = {
    "string": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(),
    "date": pa.date32(), "timestamp": pa.timestamp("us", tz="UTC"),
}  # fmt: skip


def raw_schema(recipe: Recipe, name: str) -> pa.Schema:
    """The declared columns of a raw table."""
    (table,) = (table for table in recipe.raw if table.name == name)
    return pa.schema([(column, _ARROW[kind]) for column, kind in table.columns.items()])


def raw_logs(recipe: Recipe, users: Users, activity: Activity) -> dict[str, pa.Table]:
    """The rows of the three fact tables and of the members for a block of users."""
    column = dict(zip(ACTIVITY_COLUMNS, activity.values.T.astype(np.int64), strict=True))
    owner, day = users.user_id[activity.owner], activity.days.astype(np.int64)
    sessions, entries = _Parts(column["num_sessions"]), _Parts(column["num_contests"])
    logs = {
        "sessions": {
            **_who_and_when(owner, day, sessions, "started_at", 0.0),
            "minutes": sessions.share(column["session_minutes"]),
        },
        "contest_entries": {
            **_who_and_when(owner, day, entries, "entered_at", 0.5),
            "lineup": 1 + entries.place % np.maximum(column["num_lineups"], 1)[entries.row],
            "fee": entries.share(column["entry_fees"]),
            "bonus": entries.share(column["bonus"]),
        },
        "wallet": _wallet(owner, day, column),
        "members": {
            "member": users.user_id,
            **users.static,
            "landed_on": users.registered,
        },
    }
    return {name: _table(recipe, name, columns) for name, columns in logs.items()}


class _Parts:
    """Days taken apart: day ``row[i]`` has the parts ``place`` 0, 1 ..."""

    def __init__(self, counts: np.ndarray) -> None:
        self.row = np.repeat(np.arange(len(counts)), counts)
        self.place = np.arange(len(self.row)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.count = counts[self.row]

    def share(self, total: np.ndarray) -> np.ndarray:
        """Each part's share of its day's total, whole numbers that differ by at most one."""
        whole, rest = np.divmod(total[self.row], self.count)
        return np.asarray(whole + (self.place < rest))


def _who_and_when(
    owner: np.ndarray, day: np.ndarray, parts: _Parts, moment: str, within: float
) -> dict[str, np.ndarray]:
    second = _WAKING + ((parts.place + within) * _WAKING_SECONDS / parts.count).astype(np.int64)
    days = day[parts.row]
    return {
        "member": owner[parts.row],
        moment: (days * 86_400 + second - _UTC_OFFSET_SECONDS) * 1_000_000,
        "landed_on": days,
    }


def _wallet(
    owner: np.ndarray, day: np.ndarray, column: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    counts = {
        "deposit": (column["num_deposits"], column["deposits"], 0.3),
        "winning": ((column["winnings"] > 0).astype(np.int64), column["winnings"], 0.9),
        "withdrawal": ((column["withdrawals"] > 0).astype(np.int64), column["withdrawals"], 0.95),
    }
    found = []
    for kind, (count, total, within) in counts.items():
        parts = _Parts(count)
        rows = _who_and_when(owner, day, parts, "booked_at", within)
        rows["kind"] = np.full(len(parts.row), kind, object)
        rows["amount"] = parts.share(total)
        found.append(rows)
    return {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}


def raw_calendar(recipe: Recipe, world: World) -> dict[str, pa.Table]:
    """All rows of the two tables that announce what is on, in whatever order they land."""
    notices = [vars(notice) for notice in fixture_notices(world)]
    fixtures = {
        name: [notice["day" if name == "plays_on" else name] for notice in notices]
        for name in raw_schema(recipe, "fixtures").names
    }
    day, landed_on, prize_pool = zip(*promotions(world), strict=True)
    prizes = {"promoted_on": day, "landed_on": landed_on, "prize_pool": prize_pool}
    return {
        "fixtures": _table(recipe, "fixtures", fixtures),
        "promotions": _table(recipe, "promotions", prizes),
    }


def _table(recipe: Recipe, name: str, columns: Mapping[str, object]) -> pa.Table:
    schema = raw_schema(recipe, name)
    return pa.table([_column(columns[field.name], field.type) for field in schema], schema=schema)


def _column(values: object, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and values.dtype.kind == "S":
        return pa.array(values).cast(kind)
    if pa.types.is_date32(kind):
        return pa.array(np.asarray(values, np.int32)).cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(np.asarray(values, np.int64)).cast(kind)
    return pa.array(values, kind, from_pandas=True)
