"""``sequences`` out of those of an earlier day, without Spark: changed days are put in place.

What did not change is copied bucket by bucket, so nothing is shuffled but ``users`` and the rows
of the changed days. Must agree bit for bit with :mod:`lumos.aggregate.rebuild`.
"""

import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lumos.aggregate.changes import Plan
from lumos.aggregate.gather import Work, spill, tasks_of
from lumos.aggregate.merge import (
    ActiveDays,
    is_among,
    numbers_of,
    packed,
    registered_by,
    unpacked,
    waiting_users,
    with_days_replaced,
)
from lumos.compute import num_cores
from lumos.delta import DataFile, commit_files
from lumos.pool import workers
from lumos.progress import progress
from lumos.tables import ROW_GROUP_USERS, table_uri, tables
from lumos.verbs import Request

# Below this size of the base more processes cost more than they bring.
_SMALL_BYTES = 2**23
_USERS_A_STEP = 8 * ROW_GROUP_USERS


@dataclass(frozen=True)
class Built:
    """What a builder of ``sequences`` leaves.

    Attributes:
        version: Delta version of the table.
        waiting: Active users that are not in ``users`` yet: ``user_id``, ``first_active_on`` and
            ``num_days``.
    """

    version: int
    waiting: pa.Table


def advance(request: Request, plan: Plan) -> Built:
    """Write ``sequences`` from an earlier version of it and the days that changed since."""
    size = sum(file.size for file in plan.base.files.values())
    processes = 1 if size < _SMALL_BYTES else num_cores()
    tasks = tasks_of(plan)
    buckets = range(request.recipe.num_buckets)
    with tempfile.TemporaryDirectory(prefix="lumos-sequences-") as scratch:
        work = Work(request, plan, tasks, Path(scratch), uuid.uuid4().hex)
        with workers(processes) as each, progress("sequences", len(tasks) + len(buckets)) as tell:
            for _ in each(partial(spill, work), range(len(tasks))):
                tell()
            written = []
            for part in each(partial(_bucket, work), buckets):
                written.append(part)
                tell()
    table = tables(request.recipe)["sequences"]
    declared = table.arrow_schema(request.recipe)
    version = commit_files(
        table_uri(request.settings, request.recipe, "sequences"),
        [file for file, _ in written if file.num_rows],
        pa.schema([field.with_nullable(True) for field in declared]),  # as Spark says it
        partition=table.partition,
    )
    return Built(version, pa.concat_tables([waiting for _, waiting in written]))


def _bucket(work: Work, bucket: int) -> tuple[DataFile, pa.Table]:
    """Write one bucket; returns its file, without rows if it has none, and who waits."""
    known = registered_by(work.collect("users", bucket), work.request.date)
    ids = known["user_id"].combine_chunks()
    new = work.collect("activity", bucket)
    user = numbers_of(new["user_id"].combine_chunks(), ids)
    waiting = [new.filter(pa.array(user < 0)).select(["user_id", "day"])]
    day = new["day"].to_numpy()
    values = tuple(new[name].combine_chunks() for name in work.columns)
    order = np.lexsort((day, user))
    rows = ActiveDays(user, day, values).take(order[np.count_nonzero(user < 0) :])
    path = f"bucket={bucket}/part-{work.run}.zstd.parquet"
    size, num_rows = _write_row_groups(work, path, _merged(work, bucket, known, ids, rows, waiting))
    file = DataFile(path, size, num_rows, {"bucket": bucket})
    return file, waiting_users(pa.concat_tables(waiting))


def _merged(
    work: Work,
    bucket: int,
    known: pa.Table,
    ids: pa.Array,
    new: ActiveDays,
    waiting: list[pa.Table],
) -> Iterator[pa.Table]:
    """Rows of a bucket, some thousand users at a time; unknown old users go to ``waiting``."""
    start = 0
    for old_ids, days, is_last in _old(work, bucket):
        user = numbers_of(old_ids, ids)
        assert np.all(np.diff(user[user >= 0]) > 0), "a bucket's file is sorted by user_id"
        stop = len(ids) if is_last else int(max(start, user.max(initial=-1) + 1))
        gone = unpacked(days.filter(pa.array(user < 0)), np.flatnonzero(user < 0), ())
        if len(gone.day):
            left = ~is_among(gone.day, work.plan.changed)
            names = old_ids.take(pa.array(gone.user[left]))
            waiting.append(pa.table({"user_id": names, "day": gone.day[left]}))
        old = unpacked(days, np.where(user < 0, -1, user - start), work.columns)
        merged = with_days_replaced(old, new.of_users(start, stop), work.plan.changed)
        yield _rows(work, known.slice(start, stop - start), merged)
        start = stop


def _old(work: Work, bucket: int) -> Iterator[tuple[pa.Array, pa.ListArray, bool]]:
    """User ids and days of the base, in steps; says which step is the last one."""
    file = work.plan.base.files.get(bucket)
    if file is None:
        yield pa.array([], pa.string()), pa.array([], work.schema.field("days").type), True
        return
    parquet = work.open("sequences", file)
    sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    step = np.cumsum([0, *sizes[:-1]]) // _USERS_A_STEP
    for number in range(step[-1] + 1):
        groups = np.flatnonzero(step == number).tolist()
        if groups:
            rows = parquet.read_row_groups(groups, ["user_id", "days"], use_threads=False)
            rows = rows.combine_chunks()
            user_id = rows["user_id"].combine_chunks().cast(pa.string())
            yield user_id, rows["days"].combine_chunks(), number == step[-1]


def _rows(work: Work, known: pa.Table, rows: ActiveDays) -> pa.Table:
    """Rows of ``sequences``."""
    schema = work.schema
    days = packed(rows, known.num_rows, schema.field("days").type)
    registered = known["registered_on"].cast(pa.int32()).to_numpy().copy()
    lengths = np.diff(days.offsets.to_numpy())
    first = rows.day[days.offsets.to_numpy()[:-1][lengths > 0]]
    # Who was active before the day it says it registered existed before that day.
    registered[lengths > 0] = np.minimum(registered[lengths > 0], first)
    own = {"registered_on": pa.array(registered).cast(pa.date32()), "days": days}
    columns = [own[name] if name in own else known[name] for name in schema.names]
    return pa.table(columns, schema=schema)


def _write_row_groups(work: Work, path: str, parts: Iterable[pa.Table]) -> tuple[int, int]:
    """Write a file in row groups of the loader's size; returns its bytes and rows."""
    system, whole = work.place("sequences", path)
    system.create_dir(whole.rpartition("/")[0])
    schema, num_rows = work.schema, 0
    with pq.ParquetWriter(whole, schema, filesystem=system, compression="zstd") as writer:
        left = schema.empty_table()
        for part in parts:
            left = pa.concat_tables([left, part])
            num_rows += part.num_rows
            ready = left.num_rows // ROW_GROUP_USERS * ROW_GROUP_USERS
            if ready:
                writer.write_table(left.slice(0, ready), row_group_size=ROW_GROUP_USERS)
                left = left.slice(ready)
        if left.num_rows:
            writer.write_table(left, row_group_size=ROW_GROUP_USERS)
    if not num_rows:
        system.delete_file(whole)
        return 0, 0
    return system.get_file_info(whole).size, num_rows
