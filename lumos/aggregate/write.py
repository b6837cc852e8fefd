"""How aggregation commits: a window of days replaced in one commit, never a half of one.

Also puts days back: the newest version of a table must hold, of each day, what the latest
business date knows of it, even after an older date was run again or a run was refused.
"""

import datetime as dt
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos.aggregate.facts import Days
from lumos.aggregate.travel import at_version, is_readable
from lumos.config import Recipe
from lumos.delta import open_table, predicate, read, replace
from lumos.ledger import READY, Entry
from lumos.settings import Settings
from lumos.tables import Table, table_uri, tables
from lumos.verbs import BadInput, Request

# A commit by Spark costs seconds, most of them planning and one file a task; what the driver can
# hold in some 60 MB it commits itself.
SMALL_ROWS = 500_000
# Long enough for a training run to read a version that was pinned weeks ago.
RETENTION = {
    "delta.deletedFileRetentionDuration": "interval 30 days",
    "delta.logRetentionDuration": "interval 30 days",
}
# The column that places a row of a table in time.
DAY_COLUMN = {"activity": "day", "event_context": "known_on", "users": "valid_from",
              "quarantine": "day"}  # fmt: skip


def ensure_table(settings: Settings, recipe: Recipe, name: str) -> None:
    """Create a contract table where there is none.

    Raises:
        BadInput: There is one, and its columns differ by more than new activity columns.
    """
    uri, table = table_uri(settings, recipe, name), tables(recipe)[name]
    existing = open_table(uri)
    if existing is None:
        DeltaTable.create(
            uri,
            table.arrow_schema(recipe),
            mode="ignore",
            partition_by=list(table.partition) or None,
            configuration=RETENTION,
        )
        return
    found = {field.name for field in existing.schema().fields}
    changed = sorted(found ^ set(table.column_names))
    gained = {column.name for column in recipe.activity} - found if name == "activity" else set()
    if set(changed) - gained:
        msg = (
            f"table {name} at {uri} was made by another form of recipe {recipe.name}: columns "
            f"{', '.join(changed)} differ. Give the new form another name, or move the folder "
            f"{settings.lake}/{recipe.name} away and aggregate again from the first day"
        )
        raise BadInput(msg)


def commit(
    frame: DataFrame, request: Request, name: str, days: Days, *, num_rows: int | None = None
) -> int:
    """Put ``frame`` in the place of the table's rows of these days.

    Args:
        frame: Rows of the table, all within ``days``.
        request: Whose lake and recipe.
        name: The table.
        days: What is replaced, by the table's day column.
        num_rows: At most this many rows; ``None`` if that is unknown.

    Returns:
        The Delta version.
    """
    uri = table_uri(request.settings, request.recipe, name)
    table = tables(request.recipe)[name]
    column = DAY_COLUMN[name]
    job = {"job": "aggregate"} if name == "quarantine" else {}
    if num_rows is not None and num_rows <= SMALL_ROWS:
        rows = frame.select(*table.column_names).toArrow()
        where = predicate(**job, **{column: (days.first, days.last)})
        return replace(uri, as_declared(rows, table, request.recipe), where=where)
    # Not BETWEEN: Delta 4.4.0 cannot resolve it in this place on Spark 4.2.
    terms = [f"{column} >= DATE'{days.first}'", f"{column} <= DATE'{days.last}'"]
    terms += [f"{column} = '{value}'" for column, value in job.items()]
    placed = frame.select(*table.column_names)
    if table.partition:
        placed = placed.repartition(column)  # so that a day is one file
    writer = (
        placed.write.format("delta").mode("overwrite").option("replaceWhere", " AND ".join(terms))
    )
    writer.save(uri)
    return DeltaTable(uri).version()


def as_declared(rows: pa.Table, table: Table, recipe: Recipe) -> pa.Table:
    """Rows as the contract types them; a null where none may be is an error."""
    schema = table.arrow_schema(recipe)
    return rows.cast(pa.schema([field.with_nullable(True) for field in schema])).cast(schema)


def put_back(
    spark: SparkSession,
    request: Request,
    name: str,
    days: Days,
    runs: Iterable[Entry],
    *,
    before: int,
) -> None:
    """Write again what other runs know of these days, for each day the latest that holds it.

    Columns that came later than a run stay null on its days. Where the version of a run is gone,
    the one from before this run has the same rows: it held what the runs know.

    Args:
        spark: The session.
        request: Whose lake and recipe.
        name: The table.
        days: The days that this run has written.
        runs: Ready ledger entries of the table that know better.
        before: The table's version before this run.
    """
    uri, table = table_uri(request.settings, request.recipe, name), tables(request.recipe)[name]
    column = DAY_COLUMN[name]
    for entry, part in owners(days, runs):
        within = part if table.partition else None
        version = entry.version if is_readable(uri, entry.version, within) else before
        if count_rows(uri, version, within) <= SMALL_ROWS:
            where = predicate(**{column: (part.first, part.last)})
            rows = read(uri, version=version, where=where)
            assert rows is not None
            for later in table.arrow_schema(request.recipe):
                if later.name not in rows.column_names:
                    none = pa.nulls(rows.num_rows, later.type)
                    rows = rows.append_column(later.with_nullable(True), none)
            replace(uri, rows.select(table.column_names), where=where)
            continue
        old = at_version(spark, uri, version)
        missing = set(table.column_names) - set(old.columns)
        old = old.withColumns({name: F.lit(None).cast("double") for name in missing})
        commit(old.filter(part.hold(F.col(column))), request, name, part)


def gone(request: Request, name: str, days: Days, runs: Iterable[Entry]) -> list[Entry]:
    """The runs that days must be put back from and whose version can no longer be read."""
    uri, table = table_uri(request.settings, request.recipe, name), tables(request.recipe)[name]
    return [
        entry
        for entry, part in owners(days, runs)
        if not is_readable(uri, entry.version, part if table.partition else None)
    ]


def owners(days: Days, runs: Iterable[Entry]) -> list[tuple[Entry, Days]]:
    """Which run knows most of which days: for each day the latest business date that covers it."""
    ready = sorted((run for run in runs if run.verdict == READY), key=lambda run: run.business_date)
    owned: list[tuple[Entry, Days]] = []
    for number in range((days.last - days.first).days + 1):
        day = days.first + dt.timedelta(days=number)
        best = next((r for r in reversed(ready) if r.first_day <= day <= r.business_date), None)
        if best is None:
            continue
        if owned and owned[-1][0] == best and owned[-1][1].last == day - dt.timedelta(days=1):
            owned[-1] = (best, Days(owned[-1][1].first, day))
        else:
            owned.append((best, Days(day, day)))
    return owned


def without_owner(days: Days, runs: Iterable[Entry]) -> list[Days]:
    """The days that no ready run covers, as ranges."""
    free, start = [], days.first
    for _, part in owners(days, runs):
        if start < part.first:
            free.append(Days(start, part.first - dt.timedelta(days=1)))
        start = part.last + dt.timedelta(days=1)
    if start <= days.last:
        free.append(Days(start, days.last))
    return free


def remove(request: Request, name: str, days: Days) -> None:
    """Leave no row of these days in the table."""
    uri = table_uri(request.settings, request.recipe, name)
    nothing = tables(request.recipe)[name].arrow_schema(request.recipe).empty_table()
    replace(uri, nothing, where=predicate(**{DAY_COLUMN[name]: (days.first, days.last)}))


def newest_version(request: Request, name: str) -> int:
    """The newest Delta version of a contract table."""
    return DeltaTable(table_uri(request.settings, request.recipe, name)).version()


def count_rows(uri: str, version: int, days: Days | None = None) -> int:
    """Rows of a table that we write, from its log; with ``days``, of its ``day`` partitions."""
    actions = pa.table(DeltaTable(uri, version=version).get_add_actions(flatten=True))
    if actions.num_rows and days is not None:
        day = pc.cast(actions["partition.day"], pa.date32())
        inside = pc.and_(pc.greater_equal(day, days.first), pc.less_equal(day, days.last))
        actions = actions.filter(inside)
    return int(pc.sum(actions["num_records"]).as_py() or 0) if actions.num_rows else 0
