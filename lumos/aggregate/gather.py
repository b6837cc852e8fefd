"""What ``advance`` reads, put down by bucket: users, and the activity of changed days."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from lumos.aggregate.changes import Plan
from lumos.dates import day_number
from lumos.delta import DataFile
from lumos.hashing import buckets_of
from lumos.spill import read_part, write_parts
from lumos.tables import table_uri, tables
from lumos.verbs import Request

USERS, CHANGED, WAITING = "users", "changed days", "days of the waiting"
_ROWS_A_TASK = 2**20


@dataclass(frozen=True)
class Work:
    """One run, as its processes see it; ``tasks`` say what is read together."""

    request: Request
    plan: Plan
    tasks: tuple[tuple[str, tuple[DataFile, ...]], ...]
    scratch: Path
    run: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The activity columns."""
        return tuple(column.name for column in self.request.recipe.activity)

    @property
    def schema(self) -> pa.Schema:
        """Of a file of ``sequences``."""
        declared = tables(self.request.recipe)["sequences"]
        schema = declared.arrow_schema(self.request.recipe)
        return pa.schema([field for field in schema if field.name not in declared.partition])

    def place(self, table: str, path: str) -> tuple[fs.FileSystem, str]:
        """Where a file of a table lies."""
        uri = table_uri(self.request.settings, self.request.recipe, table)
        system, root = fs.FileSystem.from_uri(uri)
        return system, f"{root}/{path}"

    def open(self, table: str, file: DataFile) -> pq.ParquetFile:
        """A file of a table."""
        system, path = self.place(table, file.path)
        return pq.ParquetFile(path, filesystem=system)

    def spilled(self, number: int) -> Path:
        """What a task leaves."""
        return self.scratch / f"{number:05d}.arrow"

    def collect(self, table: str, bucket: int) -> pa.Table:
        """The rows of a bucket that the tasks have read of ``users`` or of ``activity``."""
        numbers = [
            n for n, (what, _) in enumerate(self.tasks) if (what == USERS) == (table == "users")
        ]
        schema = _users_schema(self) if table == "users" else _active_schema(self)
        if not numbers:
            return schema.empty_table()
        return read_part((self.spilled(number) for number in numbers), bucket).combine_chunks()


def tasks_of(plan: Plan) -> tuple[tuple[str, tuple[DataFile, ...]], ...]:
    """What is read, in pieces for :func:`spill`."""
    files = {USERS: plan.users, CHANGED: plan.new, WAITING: plan.past}
    return tuple((what, group) for what, all_ in files.items() for group in _together(all_))


def _together(files: Iterable[DataFile]) -> Iterator[tuple[DataFile, ...]]:
    """Files in groups of so many rows that a task is worth its start."""
    group: list[DataFile] = []
    for file in files:
        group.append(file)
        if sum(one.num_rows for one in group) >= _ROWS_A_TASK:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def spill(work: Work, number: int) -> None:
    """Read the files of one task and put their rows down by bucket."""
    what, files = work.tasks[number]
    if what == USERS:
        parts = [_read(work.open("users", file), _users_schema(work)) for file in files]
    else:
        only = pa.array(work.plan.waiting, pa.string()) if what == WAITING else None
        parts = [_read_day(work, file, only) for file in files]
    rows = pa.concat_tables(parts).combine_chunks()
    num_buckets = work.request.recipe.num_buckets
    user_id = rows["user_id"].combine_chunks()
    bucket = buckets_of(user_id, num_buckets)
    order = np.argsort(bucket, kind="stable")
    write_parts(work.spilled(number), rows.take(pa.array(order)), bucket[order], num_buckets)


def _users_schema(work: Work) -> pa.Schema:
    return tables(work.request.recipe)["users"].arrow_schema(work.request.recipe)


def _active_schema(work: Work) -> pa.Schema:
    values = [pa.field(name, pa.float32()) for name in work.columns]
    return pa.schema([pa.field("user_id", pa.string()), pa.field("day", pa.int16()), *values])


def _read(
    parquet: pq.ParquetFile, schema: pa.Schema, row_groups: list[int] | None = None
) -> pa.Table:
    """Columns of a file as declared; those that the file is too old for are null."""
    there = [name for name in schema.names if name in parquet.schema_arrow.names]
    groups = range(parquet.num_row_groups) if row_groups is None else row_groups
    found = parquet.read_row_groups(list(groups), columns=there, use_threads=False)
    columns = [
        # As Spark casts: a number too large for a float is infinite.
        found[field.name].cast(field.type, safe=False)
        if field.name in there
        else pa.nulls(found.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _read_day(work: Work, file: DataFile, only: pa.Array | None) -> pa.Table:
    """Rows of a file of ``activity``, of some users alone or of all."""
    schema = _active_schema(work)
    parquet = work.open("activity", file)
    stored = pa.schema([field for field in schema if field.name != "day"])
    groups = list(range(parquet.num_row_groups))
    if only is not None:
        ids = stored.field("user_id")
        groups = [g for g in groups if _holds(_read(parquet, pa.schema([ids]), [g]), only)]
    rows = _read(parquet, stored, groups)
    if only is not None:
        rows = rows.filter(pc.is_in(rows["user_id"], value_set=only))
    day = np.full(rows.num_rows, day_number(file.partition["day"]), np.int16)
    return rows.add_column(1, schema.field("day"), pa.array(day))


def _holds(ids: pa.Table, only: pa.Array) -> bool:
    return bool(pc.any(pc.is_in(ids["user_id"], value_set=only)).as_py())
