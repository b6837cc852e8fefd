"""The contract tables of a world of any size, written without raw logs and without Spark.

Shards of users are played one by one and spilled; then each bucket of ``sequences`` and each day
of ``activity`` is collected into one file. Files are named after what they hold and appear whole:
a run that was killed goes on where it stopped, and a second run finds everything done.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

from lumos import ledger
from lumos.config import Recipe
from lumos.datasets.fantasy_sports.context import EVENT_COLUMNS, context_of
from lumos.datasets.fantasy_sports.shards import (
    Shard,
    activity_rows,
    file_schema,
    num_shards,
    sequences_rows,
    shard_of,
    users_rows,
)
from lumos.datasets.fantasy_sports.spill import read_part, write_parts
from lumos.datasets.fantasy_sports.world import World
from lumos.dates import from_day_number
from lumos.progress import progress
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten

TABLES = ("activity", "event_context", "users", "sequences")
_SPILLED = ("activity", "users", "sequences")


@dataclass(frozen=True)
class _File:
    """A finished file of a table; ``partition`` maps the partition column to its value."""

    path: str
    size: int
    num_rows: int
    partition: Mapping[str, str]


@dataclass(frozen=True)
class _Work:
    """What is written, and the name that this very content has."""

    settings: Settings
    recipe: Recipe
    world: World
    scratch: Path
    digest: str

    def spilled(self, name: str) -> list[Path]:
        """The scratch files of a table, shard by shard."""
        return [
            self.scratch / f"{name}-{number:05d}.arrow" for number in range(num_shards(self.world))
        ]


def write_tables(
    settings: Settings,
    recipe: Recipe,
    world: World,
    *,
    scratch: Path,
    names: Collection[str] = TABLES,
) -> Report:
    """Write the contract tables of a world and enter them in the ledger, ready for its last day.

    Args:
        settings: Where the lake is.
        recipe: This dataset's, possibly with other buckets; some 50,000 users a bucket are good.
        world: What to write.
        scratch: A local folder for what is on its way, about 4 KB a user; emptied at the end.
        names: Which tables; training and scoring need ``event_context`` and ``sequences``.
    """
    request = Request(verb="land", recipe=recipe, date=world.last_day, settings=settings)
    inputs: dict[str, int | str] = {"world": repr(world)}
    done = [ledger.already_done(request, name, inputs) for name in names]
    if done and done[0] is not None and all(done):
        return done[0]
    digest = hashlib.sha256(f"{world!r} {recipe.digest}".encode()).hexdigest()[:16]
    work = _Work(settings, recipe, world, scratch / digest, digest)
    work.scratch.mkdir(parents=True, exist_ok=True)
    _play(work, [name for name in _SPILLED if name in names])
    written, num_bytes = [], {}
    for name in names:
        files = list(_FILES[name](work))
        rows = sum(file.num_rows for file in files)
        written.append(TableWritten(table=name, version=_commit(work, name, files), rows=rows))
        num_bytes[name] = sum(file.size for file in files)
    report = request.report(tables=tuple(written), details={"bytes": num_bytes})
    ledger.record(request, report, inputs=inputs, first_day=world.first_day)
    shutil.rmtree(work.scratch)
    return report


def _play(work: _Work, names: Sequence[str]) -> None:
    """Spill every shard that is not there yet."""
    with progress("playing", num_shards(work.world)) as advance:
        for number in range(num_shards(work.world)):
            paths = {name: work.spilled(name)[number] for name in names}
            missing = {name: path for name, path in paths.items() if not path.exists()}
            if missing:
                _spill(work, shard_of(work.world, number), missing)
            advance(note="shards")


def _spill(work: _Work, shard: Shard, paths: Mapping[str, Path]) -> None:
    recipe, world = work.recipe, work.world
    if "users" in paths:
        rows = users_rows(recipe, shard)
        write_parts(paths["users"], rows, np.zeros(rows.num_rows, int), 1)
    if "activity" in paths:
        rows, day = activity_rows(recipe, shard)
        write_parts(paths["activity"], rows, day - world.first, world.num_days)
    if "sequences" in paths:
        rows, bucket = sequences_rows(recipe, shard)
        write_parts(paths["sequences"], rows, bucket, recipe.num_buckets)


def _activity_files(work: _Work) -> Iterator[_File]:
    paths = work.spilled("activity")
    with progress("activity", work.world.num_days) as advance:
        for place in range(work.world.num_days):
            day = from_day_number(work.world.first + place).isoformat()
            yield _file(work, "activity", {"day": day}, partial(read_part, paths, place))
            advance(note="days")


def _sequences_files(work: _Work) -> Iterator[_File]:
    paths = work.spilled("sequences")
    with progress("sequences", work.recipe.num_buckets) as advance:
        for bucket in range(work.recipe.num_buckets):
            partition = {"bucket": str(bucket)}
            yield _file(work, "sequences", partition, partial(read_part, paths, bucket))
            advance(note="buckets")


def _users_files(work: _Work) -> Iterator[_File]:
    for number, path in enumerate(work.spilled("users")):
        yield _file(work, "users", {}, partial(read_part, [path], 0), f"{number:05d}-")


def _event_files(work: _Work) -> Iterator[_File]:
    context = context_of(work.world)
    columns = {
        "day": pa.array(context.day.astype(np.int32)).cast(pa.date32()),
        "known_on": pa.array(context.known_on.astype(np.int32)).cast(pa.date32()),
        **{name: context.values[:, n].astype(float) for n, name in enumerate(EVENT_COLUMNS)},
    }
    schema = file_schema(work.recipe, "event_context")
    rows = pa.table([pa.array(columns[name]) for name in schema.names], schema=schema)
    yield _file(work, "event_context", {}, lambda: rows)


_FILES: Mapping[str, Callable[[_Work], Iterator[_File]]] = {
    "activity": _activity_files,
    "event_context": _event_files,
    "users": _users_files,
    "sequences": _sequences_files,
}


def _file(
    work: _Work,
    name: str,
    partition: Mapping[str, str],
    rows: Callable[[], pa.Table],
    prefix: str = "",
) -> _File:
    """One file of a table, written unless it is there already."""
    folder = "".join(f"{column}={value}/" for column, value in partition.items())
    path = f"{folder}{prefix}{work.digest}.zstd.parquet"
    system, root = fs.FileSystem.from_uri(table_uri(work.settings, work.recipe, name))
    whole = f"{root}/{path}"
    if system.get_file_info(whole).type != fs.FileType.File:
        system.create_dir(f"{root}/{folder}")
        pq.write_table(rows(), f"{whole}.part", compression="zstd", filesystem=system)
        system.move(f"{whole}.part", whole)
    num_rows = pq.read_metadata(whole, filesystem=system).num_rows
    return _File(path, system.get_file_info(whole).size, num_rows, partition)


def _commit(work: _Work, name: str, files: list[_File]) -> int:
    """Make the files the whole of a table; returns its version."""
    declared = tables(work.recipe)[name]
    schema = declared.arrow_schema(work.recipe)
    uri = table_uri(work.settings, work.recipe, name)
    table = DeltaTable.create(
        uri, schema, mode="ignore", partition_by=list(declared.partition) or None
    )
    if set(pa.table(table.get_add_actions())["path"].to_pylist()) == {f.path for f in files}:
        return table.version()
    actions: list[AddAction | RemoveAction] = [
        AddAction(
            file.path,
            file.size,
            file.partition,
            int(time.time() * 1000),
            True,
            json.dumps({"numRecords": file.num_rows}),
        )
        for file in files
    ]
    table.create_write_transaction(
        actions, "overwrite", table.schema(), partition_by=list(declared.partition)
    )
    return DeltaTable(uri).version()
