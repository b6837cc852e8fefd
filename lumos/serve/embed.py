"""The verb ``embed``: every user and every day of the calendar as a vector, as of ``--date``.

* ``user``: what an active user did, pooled from the champion's states of the history's days.
* ``static``: what is known of everybody registered, active or not: for a cold start.
* ``day``: the event context of each day of the history and of the horizon, as known on the date.

One bucket of `sequences` is one piece (:mod:`lumos.serve.pieces`): a user is in the same bucket
every day, so that today's embeddings meet yesterday's bucket by bucket. What is made of them
stands in :mod:`lumos.serve.profiles`.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lumos import ledger
from lumos.accio.contract import load_events
from lumos.accio.events import EventCalendar
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.dates import day_number, from_day_number
from lumos.progress import progress
from lumos.serve.comparison import Run
from lumos.serve.inputs import Inputs, is_active, pin
from lumos.serve.pieces import Pieces
from lumos.serve.profiles import profile
from lumos.serve.registry import CHAMPION, chosen
from lumos.serve.vectors import (
    DAY,
    NEVER,
    RECENT_DAYS,
    STATIC,
    USER,
    Stored,
    dates_array,
    list_array,
)
from lumos.serve.versions import usable
from lumos.train.checkpoint import Checkpoint
from lumos.train.represent import day_vectors, static_vectors, user_vectors
from lumos.verbs import Report, Request

log = logging.getLogger(__name__)

_DAYS = "days"  # the piece that is no bucket


@dataclass(frozen=True)
class Job:
    """What embeddings are made from."""

    request: Request
    model: Checkpoint
    model_version: str
    sequences: SequenceTable
    events: EventCalendar

    @property
    def last(self) -> int:
        """The last day seen, as a number."""
        return day_number(self.request.date)


def embed(request: Request) -> Report:
    """Embed with the champion, or ``--model``; then compare with earlier days, and group.

    Raises:
        BadInput: No champion, tables not ready, a checkpoint for other columns, or one that has
            already seen days after ``--date``.
    """
    version = chosen(
        request,
        alias=CHAMPION,
        remedy=f"Run `lumos train`, `lumos evaluate` and `lumos promote` for {request.date}"
        " or earlier.",
    )
    pins = pin(request)
    inputs: dict[str, int | str] = {**pins.named, "model": version}
    run = Run.of(request, version, pins.table(request))
    all_inputs = inputs | run.inputs
    if done := ledger.already_done(request, "embeddings", all_inputs):
        return done
    job = _job(request, version, pins, run)
    pieces = Pieces.of(request, "embeddings", inputs)
    _write_embeddings(job, pieces, run)
    embeddings = pieces.written([_DAYS, *run.buckets])
    today = Stored(pieces.uri, embeddings.version, request.date)
    made = profile(run, today, Pieces.of(request, "profiles", all_inputs))
    written = (embeddings, *made.tables)
    report = request.report(
        tables=(*written, made.measured),
        metrics=made.metrics,
        details={
            "model_version": version,
            "form": request.recipe.embedding.form,
            "num_buckets": len(run.buckets),
            "compare_days": request.recipe.embedding.compare_days,
            **made.details,
        },
    )
    return ledger.record(request, report, inputs=all_inputs, tables_written=written)


def _job(request: Request, version: str, pins: Inputs, run: Run) -> Job:
    return Job(
        request=request,
        model=usable(request, version),
        model_version=version,
        sequences=run.sequences,
        events=load_events(request.settings, request.recipe, pins.event_context),
    )


def _write_embeddings(job: Job, pieces: Pieces, run: Run) -> None:
    done = pieces.done([_DAYS, *run.buckets])
    if _DAYS not in done:
        pieces.store(_DAYS, _days(job, pieces.schema), kind=DAY)
    with progress("embedding", len(run.buckets)) as advance:
        for bucket, groups in run.buckets.items():
            if bucket in done:
                log.info("bucket %d was done before", bucket)
            else:
                parts = [pieces.schema.empty_table()]
                for group in groups:
                    users = job.sequences.read(group)
                    parts += _rows(job, bucket, users, pieces.schema)
                rows = pa.concat_tables(parts)
                pieces.store(bucket, rows, bucket=bucket, kind=[USER, STATIC])
                log.info("bucket %d committed: %d rows", bucket, rows.num_rows)
            advance()
    pieces.clear_other_buckets(run.buckets)


def _rows(job: Job, bucket: int, users: Users, schema: pa.Schema) -> list[pa.Table]:
    """Rows of one row group's users, of both kinds."""
    recipe = job.request.recipe
    known = users.take(users.registered <= job.last)
    active = known.take(is_active(known, job.request.date, recipe.scoring.active_within_days))
    (vectors,) = user_vectors(
        job.model,
        active,
        np.full(len(active), job.last, np.int32),
        job.events,
        [recipe.embedding],
        batch_size=recipe.scoring.batch_size,
    )
    made = ((USER, active, vectors), (STATIC, known, static_vectors(job.model, known)))
    tables = []
    for kind, some, matrix in made:
        num_active, last_active = recent(some, job.last)
        columns = {
            "as_of": np.full(len(some), job.last, np.int32),
            "kind": [kind] * len(some),
            "bucket": np.full(len(some), bucket, np.int32),
            "id": some.user_id,
            "model_version": [job.model_version] * len(some),
            "form": [recipe.embedding.form] * len(some),
            "registered_on": dates_array(some.registered),
            "num_active_days": num_active,
            "last_active_on": dates_array(last_active),
            "embedding": list_array(matrix),
        }
        tables.append(_table(columns, schema))
    return tables


def recent(users: Users, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Active days of the 28 up to ``last``, and the day of the last one; int32 of shape (N,)."""
    is_past = users.days <= last
    is_recent = is_past & (users.days > last - RECENT_DAYS)
    owner = users.owner
    num_recent = np.bincount(owner[is_recent], minlength=len(users))
    num_past = np.bincount(owner[is_past], minlength=len(users))
    # Days ascend within a user: the last of the past ones is the latest.
    row = np.maximum(users.splits[:-1] + num_past - 1, 0)
    latest = np.concatenate([users.days, [NEVER]])[row]
    return num_recent.astype(np.int32), np.where(num_past > 0, latest, NEVER).astype(np.int32)


def _days(job: Job, schema: pa.Schema) -> pa.Table:
    """Rows of the calendar's days, as known on the date."""
    recipe = job.request.recipe
    first = job.last - recipe.history_days + 1
    num_days = recipe.history_days + recipe.horizon_days
    vectors = day_vectors(job.model, job.events.window(job.last, first, num_days))
    if vectors is None:
        return schema.empty_table()
    columns = {
        "as_of": np.full(num_days, job.last, np.int32),
        "kind": [DAY] * num_days,
        "bucket": np.zeros(num_days, np.int32),
        "id": [from_day_number(first + n).isoformat() for n in range(num_days)],
        "model_version": [job.model_version] * num_days,
        "form": [recipe.embedding.form] * num_days,
        "registered_on": pa.nulls(num_days, pa.date32()),
        "num_active_days": pa.nulls(num_days, pa.int32()),
        "last_active_on": pa.nulls(num_days, pa.date32()),
        "embedding": list_array(vectors),
    }
    return _table(columns, schema)


def _table(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    def cells(field: pa.Field) -> pa.Array:
        given = columns[field.name]
        return (
            given.cast(field.type) if isinstance(given, pa.Array) else pa.array(given, field.type)
        )

    return pa.table([cells(field) for field in schema], schema=schema)
