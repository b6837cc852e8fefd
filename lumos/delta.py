"""Delta tables without a JVM: open, read where, and replace atomically (delta-rs)."""

import datetime as dt
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError
from deltalake.schema import Field
from deltalake.transaction import AddAction, RemoveAction

from lumos.gone import open_version, reading

_COMMIT_ATTEMPTS = 8
_MARK = "lumos.mark"
# A commit that changes how a table is kept, and none of the rows that anybody asks for.
MAINTAIN = "maintain"


def has_dictionary(field: pa.Field) -> bool:
    """Whether a column's values repeat enough for a dictionary in Parquet.

    A forecast's never do: its dictionary took two thirds of the time to write it, and a third
    of the file.
    """
    return not pa.types.is_floating(field.type)


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table.

    Attributes:
        path: Within the table's folder, as it is called on disk.
        size: In bytes.
        num_rows: How many rows it holds.
        partition: The value of each partition column.
    """

    path: str
    size: int
    num_rows: int
    partition: Mapping[str, Any]


class NotPlain(Exception):
    """The files of a table do not say by themselves what its rows are."""


def open_table(uri: str, version: int | None = None) -> DeltaTable | None:
    """The Delta table at ``uri``, or ``None`` where there is none yet.

    Raises:
        VersionGone: There is one, which does not have the version any more.
    """
    return open_version(uri, version)


def read(
    uri: str,
    *,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> pa.Table | None:
    """Rows of a Delta table, in no particular order, or ``None`` where there is no table.

    Args:
        uri: The table.
        version: Pinned Delta version; the newest when ``None``.
        columns: Columns wanted; all when ``None``.
        where: SQL predicate, made by :func:`predicate` and never from free text.

    Raises:
        VersionGone: There is a table, but the version's log or files were removed.
    """
    table = open_table(uri, version)
    if table is None:
        return None
    with reading(uri, version):
        rows = pa.table(table.scan(columns=list(columns) if columns else None, predicate=where))
    return plain(rows)


def plain(rows: pa.Table) -> pa.Table:
    """The same rows without the string views of delta-rs, which pyarrow cannot filter or join."""
    fields = [
        field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field
        for field in rows.schema
    ]
    return rows.cast(pa.schema(fields))


def data_files(table: DeltaTable) -> list[DataFile]:
    """The files of a table at its version, from the log alone, in no particular order.

    Raises:
        NotPlain: Deletion vectors or column mapping change what the files say, or they lie
            elsewhere (a shallow clone).
    """
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    if any(action["path"].startswith("/") or urlsplit(action["path"]).scheme for action in actions):
        raise NotPlain(f"{table.table_uri} is a shallow clone of another table's files")
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mapping != "none":
        raise NotPlain(f"{table.table_uri} uses column mapping ({mapping})")
    features = table.protocol().reader_features or []
    if "deletionVectors" in features and pa.table(table.deletion_vectors()).num_rows:
        raise NotPlain(f"{table.table_uri} has deletion vectors")
    return [
        DataFile(
            path=unquote(action["path"]),
            size=action["size_bytes"],
            num_rows=action["num_records"] or 0,
            partition={
                name.removeprefix("partition."): value
                for name, value in action.items()
                if name.startswith("partition.")
            },
        )
        for action in actions
    ]


def commit_files(
    uri: str, files: Sequence[DataFile], schema: pa.Schema, *, partition: Sequence[str] = ()
) -> int:
    """Make files that lie in a table's folder the whole of the table, in one commit.

    Args:
        uri: The table, which must be there.
        files: Each with all columns of ``schema`` but the partition's.
        schema: Becomes the table's.
        partition: Partition columns.

    Returns:
        The newest Delta version after the commit.
    """
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [_added(file, now) for file in files]
    DeltaTable(uri).create_write_transaction(
        actions, "overwrite", schema, partition_by=list(partition)
    )
    return DeltaTable(uri).version()


def swap_files(
    table: DeltaTable, old: Sequence[DataFile], new: Sequence[DataFile], *, mark: str
) -> None:
    """Put files in the place of others, in one commit that :func:`is_marked` knows again.

    Args:
        table: At its newest version.
        old: Files of that version.
        new: Files that lie in the table's folder.
        mark: What the commit is for.

    Raises:
        CommitFailedError: The table has a newer version.
    """
    now = int(time.time() * 1000)
    gone = [
        RemoveAction(file.path, True, now, size=file.size, partition_values=_texts(file))
        for file in old
    ]
    table.create_write_transaction(
        [*gone, *(_added(file, now) for file in new)],
        "append",
        table.schema(),
        partition_by=list(table.metadata().partition_columns),
        commit_properties=marked(mark),
    )


def is_marked(commit: Mapping[str, Any], mark: str) -> bool:
    """Whether an entry of a table's history is a commit with this mark."""
    return commit.get(_MARK) == mark


def marked(mark: str) -> CommitProperties:
    """What lets :func:`is_marked` know a commit again; the writer does not try again itself."""
    return CommitProperties(custom_metadata={_MARK: mark}, max_commit_retries=0)


def _added(file: DataFile, now: int) -> AddAction:
    # No least and greatest values: they would name users in the log.
    stats = json.dumps({"numRecords": file.num_rows})
    return AddAction(file.path, file.size, _texts(file), now, True, stats)


def _texts(file: DataFile) -> dict[str, str | None]:
    return {name: str(value) for name, value in file.partition.items()}


def add_columns(uri: str, schema: pa.Schema) -> None:
    """Let a table have all columns of a schema, if it has no others: by its log alone."""
    _add_columns(DeltaTable(uri), schema)


def _add_columns(table: DeltaTable, schema: pa.Schema) -> None:
    found = {field.name for field in table.schema().fields}
    if found < set(schema.names):
        gained = [field for field in schema if field.name not in found]
        # Whatever the schema says of them: rows that are there have none.
        table.alter.add_columns([Field.from_arrow(field.with_nullable(True)) for field in gained])


def count_between(uri: str, column: str, first: dt.date, last: dt.date) -> int:
    """Rows of the partitions of a date column from ``first`` to ``last``, from the log alone."""
    table = open_table(uri)
    if table is None:
        return 0
    actions = pa.table(table.get_add_actions(flatten=True))
    if not actions.num_rows:
        return 0
    day = pc.cast(actions[f"partition.{column}"], pa.date32())
    inside = pc.and_(pc.greater_equal(day, first), pc.less_equal(day, last))
    return int(pc.sum(actions.filter(inside)["num_records"]).as_py() or 0)


def predicate(
    **values: str | int | dt.date | tuple[dt.date, dt.date] | list[str] | list[dt.date],
) -> str:
    """``column = value`` joined by AND; a pair of dates is a closed range, a list any of its items.

    Quotes are escaped.
    """
    terms = []
    for column, value in values.items():
        if isinstance(value, tuple):
            terms.append(f'"{column}" BETWEEN {_literal(value[0])} AND {_literal(value[1])}')
        elif isinstance(value, list):
            terms.append(f'"{column}" IN ({", ".join(map(_literal, value))})')
        else:
            terms.append(f'"{column}" = {_literal(value)}')
    return " AND ".join(terms)


def _literal(value: str | int | dt.date) -> str:
    if isinstance(value, dt.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, int):
        return str(value)
    escaped = str(value).replace("'", "''")
    return f"'{escaped}'"


def replace(
    uri: str,
    rows: pa.Table,
    *,
    where: str | None,
    partition: Sequence[str] = (),
    transaction: Transaction | None = None,
) -> int:
    """Put ``rows`` in the place of those matching ``where``, in one commit; create if missing.

    Atomic: readers see all of the old rows or all of the new ones. A writer that loses a race
    for the commit tries again on the newer version. Columns that the table does not have yet are
    added to it; rows that are there have null in them.

    Args:
        uri: The table.
        rows: The new rows, all of which must match ``where``.
        where: From :func:`predicate`; ``None`` replaces the whole table.
        partition: Partition columns, used when the table is created.
        transaction: A name and a number committed with the rows, for writers that must know
            later what they wrote (``DeltaTable.transaction_version``).

    Returns:
        A Delta version with the commit.
    """
    properties = CommitProperties(app_transactions=[transaction]) if transaction else None
    for attempt in range(_COMMIT_ATTEMPTS):
        try:
            table = _opened(uri, rows.schema, partition)
            write_deltalake(
                table,
                rows,
                mode="overwrite",
                predicate=where,
                commit_properties=properties,
                writer_properties=_properties(rows.schema),
            )
        except CommitFailedError:
            if attempt == _COMMIT_ATTEMPTS - 1:
                raise
            # Jitter, so that two writers that met once do not meet again.
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
        else:
            return table.version()
    raise AssertionError("unreachable")


def _opened(uri: str, schema: pa.Schema, partition: Sequence[str] = ()) -> DeltaTable:
    """A table with all columns of a schema, opened once: that takes longer than a small commit."""
    table = open_table(uri)
    if table is None:
        # Empty first: of two writers that create it with rows, one would wipe the other's.
        DeltaTable.create(uri, schema, mode="ignore", partition_by=list(partition) or None)
        table = DeltaTable(uri)
    _add_columns(table, schema)
    return table


def append(uri: str, rows: pa.Table) -> None:
    """Add rows to a table, in one commit; create it if missing.

    Raises:
        CommitFailedError: Others were faster, again and again.
    """
    for attempt in range(_COMMIT_ATTEMPTS):
        try:
            table = _opened(uri, rows.schema)
            write_deltalake(table, rows, mode="append", writer_properties=_properties(rows.schema))
        except CommitFailedError:
            if attempt == _COMMIT_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
        else:
            return


def _properties(schema: pa.Schema) -> WriterProperties:
    plain = ColumnProperties(dictionary_enabled=False)
    return WriterProperties(
        compression="ZSTD",
        column_properties={field.name: plain for field in schema if not has_dictionary(field)},
    )


def rewrite(uri: str, schema: pa.Schema, change: Callable[[pa.Table], pa.Table | None]) -> int:
    """Put ``change(rows)`` in the place of all rows of a small table, as if nobody else wrote.

    Another writer's commit in between is seen: the change is then asked for again, of its rows.

    Args:
        uri: The table; created if it is missing.
        schema: Of the rows; columns that the table lacks are added to it, with nulls.
        change: Gives the new rows, or ``None`` where there is nothing to do.

    Returns:
        The Delta version that has the change.

    Raises:
        CommitFailedError: Others were faster, again and again.
    """
    for attempt in range(_COMMIT_ATTEMPTS):
        try:
            table = _opened(uri, schema)
            found = pa.table(table.scan()).select(schema.names)
            nullable = pa.schema([field.with_nullable(True) for field in schema])
            rows = change(found.cast(nullable))
            if rows is None:
                return table.version()
            write_deltalake(
                table,
                rows,
                mode="overwrite",
                commit_properties=CommitProperties(max_commit_retries=0),
                writer_properties=_properties(rows.schema),
            )
        except CommitFailedError:
            if attempt == _COMMIT_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.02, 0.1) * 2**attempt)
        else:
            return table.version()
    raise AssertionError("unreachable")
