"""The contract tables of a world of any size, written without raw logs and without Spark.

Shards of users are played one by one and spilled; then each bucket of ``sequences`` and each day
of ``activity`` is collected into one file. Files are named after what they hold and appear whole:
a run that was killed goes on where it stopped, and a second run finds everything done.
"""

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow import fs

from lumos import ledger
from lumos.config import Recipe
from lumos.datasets.fantasy_sports.context import EVENT_COLUMNS, context_of
from lumos.datasets.fantasy_sports.shards import (
    activity_rows,
    file_schema,
    num_shards,
    sequences_rows,
    shard_of,
    users_rows,
)
from lumos.datasets.fantasy_sports.world import World
from lumos.dates import day_number, from_day_number
from lumos.delta import DataFile, commit_files
from lumos.dependencies import VERBS
from lumos.progress import progress
from lumos.settings import Settings
from lumos.spill import read_part, write_parts
from lumos.tables import ROW_GROUP_USERS, table_uri, tables
from lumos.verbs import Report, Request, TableWritten

TABLES = ("activity", "event_context", "users", "sequences")
_T = TypeVar("_T")
_SPILLED = ("activity", "users", "sequences")


@dataclass(frozen=True)
class _Work:
    """What is written, by how many processes, and the name that this very content has."""

    settings: Settings
    recipe: Recipe
    world: World
    last_day: dt.date
    offered: np.ndarray | None
    names: tuple[str, ...]
    scratch: Path
    digest: str
    processes: int

    def spill(self, name: str, shard: int) -> Path:
        """The scratch file of a table's shard."""
        return self.scratch / f"{name}-{shard:05d}.arrow"

    def collect(self, name: str, key: int) -> pa.Table:
        """All rows of one key of a table, in the order of the users."""
        shards = range(num_shards(self.world))
        return read_part((self.spill(name, shard) for shard in shards), key)


def write_tables(
    settings: Settings,
    recipe: Recipe,
    world: World,
    *,
    scratch: Path,
    names: Collection[str] = TABLES,
    processes: int = 1,
    last_day: dt.date | None = None,
    offered: np.ndarray | None = None,
) -> Report:
    """Write the contract tables of a world and enter them in the ledger, ready for the last day.

    Args:
        settings: Where the lake is.
        recipe: This dataset's, possibly with other buckets; some 50,000 users a bucket are good.
        world: What to write.
        scratch: A local folder for what is on its way, about 4 KB a user; emptied at the end.
        names: Which tables; training and scoring need ``event_context`` and ``sequences``.
        processes: How many work at once, each with some 700 MB.
        last_day: The tables are as they stood at its end; by default the world's last.
        offered: Whether each user gets the offer, by number, shape (num_users,); by default as
            randomised.
    """
    last_day = last_day or world.last_day
    request = Request(verb="land", recipe=recipe, date=last_day, settings=settings)
    inputs: dict[str, int | str] = {"world": repr(world)}
    if offered is not None:
        inputs["offered"] = hashlib.sha256(np.packbits(offered).tobytes()).hexdigest()
    done = [ledger.already_done(request, name, inputs) for name in names]
    if done and done[0] is not None and all(done):
        return done[0]
    content = f"{inputs} {last_day} {VERBS['land'].digest(recipe)}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = scratch / digest
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(
        settings, recipe, world, last_day, offered, tuple(names), folder, digest, processes
    )
    list(_each(work, "playing", _play, num_shards(world)))
    written, num_bytes = [], {}
    for name in work.names:
        task, count = _files(work, name)
        files = list(_each(work, name, task, count))
        rows = sum(file.num_rows for file in files)
        written.append(TableWritten(table=name, version=_commit(work, name, files), rows=rows))
        num_bytes[name] = sum(file.size for file in files)
    report = request.report(tables=tuple(written), details={"bytes": num_bytes})
    ledger.record(request, report, inputs=inputs, first_day=world.first_day)
    shutil.rmtree(folder)
    return report


def _each(
    work: _Work, description: str, task: Callable[[_Work, int], _T], count: int
) -> Iterator[_T]:
    """Results of a task for 0 .. count - 1, in order."""
    call = partial(task, work)
    with progress(description, count) as advance, ExitStack() as stack:
        results: Iterable[_T] = map(call, range(count))
        if work.processes > 1:
            # Not forked: threads of Arrow would not survive it.
            pool = ProcessPoolExecutor(work.processes, mp_context=get_context("spawn"))
            results = stack.enter_context(pool).map(call, range(count))
        for result in results:
            yield result
            advance()


def _play(work: _Work, number: int) -> None:
    """Spill one shard, unless that was done."""
    recipe, world = work.recipe, work.world
    paths = {name: work.spill(name, number) for name in _SPILLED if name in work.names}
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if not missing:
        return
    shard = shard_of(world, number, offered=work.offered, last_day=work.last_day)
    if "users" in missing:
        rows = users_rows(recipe, shard)
        write_parts(missing["users"], rows, np.zeros(rows.num_rows, int), 1)
    if "activity" in missing:
        rows, day = activity_rows(recipe, shard)
        write_parts(missing["activity"], rows, day - world.first, world.num_days)
    if "sequences" in missing:
        rows, bucket = sequences_rows(recipe, shard)
        write_parts(missing["sequences"], rows, bucket, recipe.num_buckets)


def _files(work: _Work, name: str) -> tuple[Callable[[_Work, int], DataFile], int]:
    """What writes a file of a table, and how many there are."""
    return {
        "activity": (_day_file, (work.last_day - work.world.first_day).days + 1),
        "event_context": (_event_file, 1),
        "users": (_users_file, num_shards(work.world)),
        "sequences": (_bucket_file, work.recipe.num_buckets),
    }[name]


def _day_file(work: _Work, place: int) -> DataFile:
    day = from_day_number(work.world.first + place).isoformat()
    return _file(work, "activity", {"day": day}, lambda: work.collect("activity", place))


def _bucket_file(work: _Work, bucket: int) -> DataFile:
    partition = {"bucket": str(bucket)}
    return _file(work, "sequences", partition, lambda: work.collect("sequences", bucket))


def _users_file(work: _Work, shard: int) -> DataFile:
    def rows() -> pa.Table:
        return read_part([work.spill("users", shard)], 0)

    return _file(work, "users", {}, rows, f"{shard:05d}-")


def _event_file(work: _Work, _: int) -> DataFile:
    context = context_of(work.world)
    landed = context.known_on <= day_number(work.last_day)
    columns = {
        "day": pa.array(context.day[landed].astype(np.int32)).cast(pa.date32()),
        "known_on": pa.array(context.known_on[landed].astype(np.int32)).cast(pa.date32()),
        **{name: context.values[landed, n].astype(float) for n, name in enumerate(EVENT_COLUMNS)},
    }
    schema = file_schema(work.recipe, "event_context")
    rows = pa.table([pa.array(columns[name]) for name in schema.names], schema=schema)
    return _file(work, "event_context", {}, lambda: rows)


def _file(
    work: _Work,
    name: str,
    partition: Mapping[str, str],
    rows: Callable[[], pa.Table],
    prefix: str = "",
) -> DataFile:
    """One file of a table, written unless it is there already."""
    folder = "".join(f"{column}={value}/" for column, value in partition.items())
    path = f"{folder}{prefix}{work.digest}.zstd.parquet"
    system, root = fs.FileSystem.from_uri(table_uri(work.settings, work.recipe, name))
    whole = f"{root}/{path}"
    if system.get_file_info(whole).type != fs.FileType.File:
        system.create_dir(f"{root}/{folder}")
        pq.write_table(
            rows(),
            f"{whole}.part",
            compression="zstd",
            filesystem=system,
            row_group_size=ROW_GROUP_USERS if name == "sequences" else None,
        )
        system.move(f"{whole}.part", whole)
    num_rows = pq.read_metadata(whole, filesystem=system).num_rows
    return DataFile(path, system.get_file_info(whole).size, num_rows, partition)


def _commit(work: _Work, name: str, files: list[DataFile]) -> int:
    """Make the files the whole of a table; returns its version."""
    declared = tables(work.recipe)[name]
    schema = declared.arrow_schema(work.recipe)
    uri = table_uri(work.settings, work.recipe, name)
    table = DeltaTable.create(
        uri, schema, mode="ignore", partition_by=list(declared.partition) or None
    )
    if set(pa.table(table.get_add_actions())["path"].to_pylist()) == {f.path for f in files}:
        return table.version()
    return commit_files(uri, files, schema, partition=declared.partition)
