"""The verb ``land`` for this dataset: write the raw logs as the platform would, day by day."""

import datetime as dt
import hashlib

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Transaction

from lumos.datasets.fantasy_sports.activity import activity_of
from lumos.datasets.fantasy_sports.platform import world_of
from lumos.datasets.fantasy_sports.raw import raw_calendar, raw_logs
from lumos.datasets.fantasy_sports.users import users_of
from lumos.datasets.fantasy_sports.world import World
from lumos.dates import first_of_window
from lumos.delta import count_between, open_table, predicate, replace
from lumos.progress import progress
from lumos.tables import raw_uri
from lumos.verbs import BadInput, Report, Request, TableWritten

# More users would not fit into memory as raw rows; the contract tables have no such limit.
MAX_LANDED_USERS = 50_000
# Before a world's first day only announcements land: of the year before, so that the first
# histories have a calendar too, and of what was announced ahead of that.
_ANNOUNCED_DAYS_BEFORE = 900
_MARK = "world"  # which world a raw table holds, in its Delta log


def land(request: Request) -> Report:
    """Write what has landed on the ``--days`` days up to ``--date``; by default since the start.

    Raises:
        BadInput: The recipe names no world, one too large for raw logs, or one that begins later.
    """
    world = _world(request)
    last = min(request.date, world.last_day)
    start = world.first_day - dt.timedelta(days=_ANNOUNCED_DAYS_BEFORE)
    days = request.options["days"]
    first = max(first_of_window(last, days), start) if days else start
    _refuse_another_world(request, world)
    written = []
    tables = _landed(request, world, first, last)
    with progress("landing", len(tables)) as advance:
        for name, rows in tables.items():
            written.append(_write(request, world, name, rows, (first, last)))
            advance(note=name)
    return request.report(
        tables=tuple(written),
        details={"first_day": str(first), "last_day": str(last), "num_users": world.num_users},
    )


def _world(request: Request) -> World:
    try:
        world = world_of(request.recipe)
    except ValueError as error:
        msg = f"{error}. Set sql_parameters.num_users and sql_parameters.seed"
        raise BadInput(msg) from error
    if world.num_users > MAX_LANDED_USERS:
        msg = (
            f"sql_parameters.num_users={world.num_users:,} is too many for raw logs, at most "
            f"{MAX_LANDED_USERS:,}. Write the contract tables instead: docs/fantasy_sports.md"
        )
        raise BadInput(msg)
    if request.date < world.first_day:
        msg = f"this world begins on {world.first_day}; nothing had landed by {request.date}"
        raise BadInput(msg)
    return world


def _landed(request: Request, world: World, first: dt.date, last: dt.date) -> dict[str, pa.Table]:
    """The rows of every raw table that landed in the window."""
    recipe = request.recipe
    parts: dict[str, list[pa.Table]] = {table.name: [] for table in recipe.raw}
    with progress("playing", world.num_blocks) as advance:
        for block in range(world.num_blocks):
            users = users_of(world, block)
            logs = raw_logs(recipe, users, activity_of(world, users))
            for name, rows in logs.items():
                parts[name].append(_within(rows, first, last))
            advance()
    for name, rows in raw_calendar(recipe, world).items():
        parts[name].append(_within(rows, first, last))
    return {name: pa.concat_tables(rows) for name, rows in parts.items()}


def _within(rows: pa.Table, first: dt.date, last: dt.date) -> pa.Table:
    day = rows["landed_on"]
    return rows.filter(pc.and_(pc.greater_equal(day, first), pc.less_equal(day, last)))


def _write(
    request: Request, world: World, name: str, rows: pa.Table, window: tuple[dt.date, dt.date]
) -> TableWritten:
    uri = raw_uri(request.settings, request.recipe, name)
    existing = open_table(uri)
    # An identical landing is left alone, so that versions pinned downstream stay valid.
    if existing is not None and count_between(uri, "landed_on", *window) == rows.num_rows:
        version = existing.version()
    else:
        version = replace(
            uri,
            rows,
            where=predicate(landed_on=window),
            partition=("landed_on",),
            transaction=Transaction(_MARK, _number(world)),
        )
    return TableWritten(table=f"raw.{name}", version=version, rows=rows.num_rows)


def _refuse_another_world(request: Request, world: World) -> None:
    """Rows of two worlds in one table would be those of none."""
    for raw in request.recipe.raw:
        uri = raw_uri(request.settings, request.recipe, raw.name)
        table = open_table(uri)
        # A landing that was killed may have made a table and written nothing into it.
        found = table.transaction_version(_MARK) if table is not None else None
        if found is not None and found != _number(world):
            msg = (
                f"{uri} holds another world than {world}; move that folder away, or land in "
                "another lake (LUMOS_LAKE)"
            )
            raise BadInput(msg)


def _number(world: World) -> int:
    """One number for one world."""
    return int(hashlib.sha256(repr(world).encode()).hexdigest()[:15], 16)
