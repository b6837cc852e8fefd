"""The verb ``score``: forecast the days after ``--date`` for every active user, shard by shard.

Fetch -> scale -> infer -> post-process -> store, one shard in memory at a time. A shard is one
Delta commit that carries, in the same commit, a transaction naming the shard and a number that
stands for everything it was made from. So a run that is killed goes on where it was, never
keeps half a shard, and never takes another model's shard for its own.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, Transaction

from lumos import ledger
from lumos.accio.contract import load_events
from lumos.accio.events import EventCalendar
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.dates import day_number
from lumos.delta import open_table, predicate, replace
from lumos.progress import progress
from lumos.serve.inputs import Inputs, is_active, pin
from lumos.serve.registry import CHAMPION, chosen
from lumos.serve.versions import usable
from lumos.serve.what_if import what_if
from lumos.tables import table_uri, tables
from lumos.tasks import DayForecasts
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import forecast
from lumos.verbs import Report, Request, TableWritten

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Users ``start`` .. ``stop - 1`` of a row group of `sequences`."""

    row_group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """What a run is made from; ``token`` is a number that changes with any of it."""

    request: Request
    model: Checkpoint
    model_version: str
    events: EventCalendar
    token: int

    @property
    def uri(self) -> str:
        """Where `forecasts` lies."""
        return table_uri(self.request.settings, self.request.recipe, "forecasts")

    def transaction(self, shard: int) -> Transaction:
        """What a shard's commit carries."""
        return Transaction(self.transaction_name(shard), self.token)

    def transaction_name(self, shard: int) -> str:
        """One name a day and shard: days that are scored at the same time do not meet."""
        return f"lumos.score/{self.request.date}/{shard}"

    def is_done(self, table: DeltaTable | None, shard: int) -> bool:
        """Whether the newest commit of this shard was made from exactly the same things."""
        name = self.transaction_name(shard)
        return table is not None and table.transaction_version(name) == self.token


def score(request: Request) -> Report:
    """Forecast with the champion, or ``--model``; resolved once and named in the report.

    With ``--what-if`` nothing of that: two answers are compared (:mod:`lumos.serve.what_if`).

    Raises:
        BadInput: No champion, tables or quality not ready, a checkpoint for other columns, or
            one that has already seen days after ``--date``.
    """
    if request.options["what_if"] is not None:
        return what_if(request)
    settings, recipe, date = request.settings, request.recipe, request.date
    version = chosen(
        request,
        alias=CHAMPION,
        remedy=f"Run `lumos train`, `lumos evaluate` and `lumos promote` for {date} or earlier.",
    )
    pins = pin(request)
    ledger.require(
        settings,
        recipe,
        "quality",
        date,
        remedy=f"Run `lumos validate --date {date}` and look at its metrics.",
    )
    inputs = {**pins.named, "model": version}
    if done := ledger.already_done(request, "forecasts", inputs):
        return done
    job = Job(
        request=request,
        model=usable(request, version),
        model_version=version,
        events=load_events(settings, recipe, pins.event_context),
        # 60 bits of the fingerprint: Delta keeps the number as a signed 64-bit one.
        token=int(ledger.fingerprint(request, inputs)[:15], 16),
    )
    _score_shards(job, pins)
    written = _finish(job)
    report = request.report(
        tables=(written,),
        metrics={"num_users": written.rows / recipe.horizon_days},
        details={"model_version": version, "num_shards": recipe.scoring.num_shards},
    )
    return ledger.record(request, report, inputs=inputs)


def pieces(num_users: Sequence[int], num_shards: int) -> list[list[Piece]]:
    """Deal the table's users to shards of equal size, in canonical order.

    A shard is a run of consecutive users, so that each row group is read by few shards however
    many shards and row groups there are.

    Args:
        num_users: Of each row group.
        num_shards: How many lists to return.
    """
    ends = np.cumsum(num_users, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    bounds = [total * shard // num_shards for shard in range(num_shards + 1)]
    shards: list[list[Piece]] = []
    for first, last in itertools.pairwise(bounds):
        shard = []
        for row_group, (size, end) in enumerate(zip(num_users, ends.tolist(), strict=True)):
            begin = end - int(size)
            start, stop = max(first, begin), min(last, end)
            if start < stop:
                shard.append(Piece(row_group, start - begin, stop - begin))
        shards.append(shard)
    return shards


def _score_shards(job: Job, pins: Inputs) -> None:
    sequences = pins.table(job.request)
    num_users = sequences.shards["num_users"].tolist()
    shards = pieces(num_users, job.request.recipe.scoring.num_shards)
    table = None if job.request.force else open_table(job.uri)
    with progress("scoring", len(shards)) as advance:
        for number, shard in enumerate(shards):
            if job.is_done(table, number):
                log.info("shard %d of %d was done before", number + 1, len(shards))
            else:
                users = _fetch(job, sequences, shard)
                # Scaling is the checkpoint's own and belongs to the forecast.
                rows = _post_process(job, number, users, _infer(job, users))
                version = _store(job, number, rows)
                log.info(
                    "shard %d of %d committed: %d users, version %d",
                    number + 1,
                    len(shards),
                    len(users),
                    version,
                )
            advance()


def _fetch(job: Job, sequences: SequenceTable, shard: list[Piece]) -> Users:
    """The shard's users that get a score."""
    request, within = job.request, job.request.recipe.scoring.active_within_days
    parts = []
    for piece in shard:
        users = sequences.read(piece.row_group)
        is_ours = np.zeros(len(users), bool)
        is_ours[piece.start : piece.stop] = True
        parts.append(users.take(is_ours & is_active(users, request.date, within)))
    return Users.concat(parts) if parts else _nobody(job)


def _nobody(job: Job) -> Users:
    recipe = job.request.recipe
    schema = tables(recipe)["users"].arrow_schema(recipe)
    static = [schema.field(column.name) for column in recipe.static]
    return Users(
        user_id=np.zeros(0, object),
        registered=np.zeros(0, np.int32),
        static=pa.schema(static).empty_table(),
        columns=(np.zeros(0, np.float32),) * len(recipe.activity),
        days=np.zeros(0, np.int32),
        splits=np.zeros(1, np.int64),
    )


def _infer(job: Job, users: Users) -> DayForecasts:
    recipe = job.request.recipe
    if not len(users):
        shape = (0, recipe.horizon_days)
        nothing = np.zeros((*shape, len(recipe.continuous)), np.float32)
        p = np.zeros((*shape, len(recipe.binary)), np.float32)
        heads = {task.name: np.zeros(0, np.float32) for task in recipe.tasks if task.has_head}
        return DayForecasts(p, nothing, nothing, heads)
    return forecast(
        job.model,
        users,
        np.full(len(users), day_number(job.request.date), np.int32),
        job.events,
        batch_size=recipe.scoring.batch_size,
    )


def _post_process(job: Job, shard: int, users: Users, days: DayForecasts) -> pa.Table:
    """Rows of `forecasts`: a user's horizon days in order, users in the file's order."""
    recipe, horizon = job.request.recipe, job.request.recipe.horizon_days
    num_rows = len(users) * horizon
    first = day_number(job.request.date) + 1
    columns = {
        "as_of": np.full(num_rows, first - 1, np.int32),
        "shard": np.full(num_rows, shard, np.int32),
        "user_id": np.repeat(users.user_id, horizon),
        "horizon_day": np.tile(np.arange(first, first + horizon, dtype=np.int32), len(users)),
        "model_version": [job.model_version] * num_rows,
        **dict(_columns("p", recipe.binary, days.p)),
        **dict(_columns("given", recipe.continuous, days.given)),
        **dict(_columns("mean", recipe.continuous, days.mean)),
        **{
            f"task_{task.name}": np.repeat(days.heads[task.name], horizon)
            for task in recipe.tasks
            if task.has_head
        },
    }
    schema = tables(recipe)["forecasts"].arrow_schema(recipe)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _columns(
    prefix: str, names: tuple[str, ...], cells: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    for index, name in enumerate(names):
        yield f"{prefix}_{name}", cells[:, :, index].ravel()


def _store(job: Job, shard: int, rows: pa.Table) -> int:
    """Commit the shard, whole, in the place of whatever stood there."""
    return replace(
        job.uri,
        rows,
        where=predicate(as_of=job.request.date, shard=shard),
        partition=tables(job.request.recipe)["forecasts"].partition,
        transaction=job.transaction(shard),
    )


def _finish(job: Job) -> TableWritten:
    """Clear shards of an earlier, finer division; then pin a version that is wholly ours.

    Raises:
        RuntimeError: Another run has scored the same day meanwhile; a retry settles it.
    """
    num_shards = job.request.recipe.scoring.num_shards
    schema = tables(job.request.recipe)["forecasts"].arrow_schema(job.request.recipe)
    for left_over in sorted(set(_rows_by_shard(job)) - set(range(num_shards))):
        _store(job, left_over, schema.empty_table())
    table = DeltaTable(job.uri)
    rows = _rows_by_shard(job, table.version())
    mixed = [n for n in range(num_shards) if not job.is_done(table, n)]
    mixed += [n for n in rows if n >= num_shards]
    if mixed:
        msg = f"another run replaced shards {mixed} of {job.request.date} meanwhile"
        raise RuntimeError(msg)
    return TableWritten(table="forecasts", version=table.version(), rows=sum(rows.values()))


def _rows_by_shard(job: Job, version: int | None = None) -> dict[int, int]:
    """Rows of the day by shard, from the table's log alone."""
    table = open_table(job.uri, version)
    counted: dict[int, int] = {}
    actions = [] if table is None else pa.table(table.get_add_actions(flatten=True)).to_pylist()
    for action in actions:
        if str(action["partition.as_of"]) == str(job.request.date):
            shard = int(action["partition.shard"])
            counted[shard] = counted.get(shard, 0) + int(action["num_records"])
    return counted
