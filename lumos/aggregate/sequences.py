"""The verb ``sequences``: activity turned on its side, one row a user, for the loader to cut.

A pure function of ``activity`` and ``users`` at the versions that the ledger pins. Windows are
never stored: a user's whole past takes about two kilobytes, its exploded windows a hundred times
that. Two builders give the same rows: :mod:`~lumos.aggregate.advance` where an earlier run left
something to start from, :mod:`~lumos.aggregate.rebuild` otherwise.
"""

import datetime as dt
import json
import logging
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from lumos import ledger
from lumos.aggregate import write
from lumos.aggregate.advance import Built, advance
from lumos.aggregate.changes import JOB, CannotAdvance, make_plan
from lumos.aggregate.facts import Days
from lumos.config import Recipe
from lumos.delta import open_table, predicate, read, replace
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Report, Request, TableWritten

NOT_REGISTERED = "active but not in users yet"

log = logging.getLogger(__name__)


def sequences(request: Request) -> Report:
    """Build ``sequences`` as of ``--date`` and pin its version in the ledger.

    A user that is active but not in ``users`` yet is quarantined, and is back, with its whole
    past, on the day its row in ``users`` arrives.

    Raises:
        BadInput: ``activity`` is not ready for the date, or days before it were never aggregated.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    remedy = f"Run: {_command(recipe, date, 0)}"
    activity = ledger.require(settings, recipe, "activity", date, remedy=remedy)
    users = ledger.require(settings, recipe, "users", date, remedy=remedy)
    _check_covered(request, activity, ledger.entries(settings, recipe, "activity"))
    _check_columns(request, remedy)
    inputs: dict[str, int | str] = {"activity": activity.version, "users": users.version}
    done = ledger.already_done(request, "sequences", inputs)
    if done is not None:
        return done
    built, details = _build(request, activity, users)
    details |= _quarantine(request, built.waiting)
    num_rows = write.count_rows(table_uri(settings, recipe, "sequences"), built.version)
    num_waiting = built.waiting.num_rows
    report = request.report(
        tables=(TableWritten(table="sequences", version=built.version, rows=num_rows),),
        rows_rejected=num_waiting,
        details={
            "rejected": {NOT_REGISTERED: num_waiting} if num_waiting else {},
            # What a later run must know to start from this one.
            "num_buckets": recipe.num_buckets,
            **details,
        },
    )
    return ledger.record(request, report, inputs=inputs, first_day=activity.first_day)


def _build(
    request: Request, activity: ledger.Entry, users: ledger.Entry
) -> tuple[Built, dict[str, Any]]:
    """Let the builder work that can; returns also which one it was, and why."""
    try:
        plan = make_plan(request, activity, users)
    except CannotAdvance as error:
        # Imported here, so that to advance starts no Java.
        from lumos.aggregate.rebuild import rebuild

        log.info("sequences are rebuilt: %s", error)
        return rebuild(request, activity, users), {"builder": "rebuild", "why": str(error)}
    base = plan.base.entry
    why = f"{len(plan.changed)} days changed since {base.business_date}, version {base.version}"
    log.info("sequences advance: %s", why)
    return advance(request, plan), {"builder": "advance", "why": why}


def _check_columns(request: Request, remedy: str) -> None:
    """An activity column is in the table once it was aggregated, if only for later dates."""
    table = open_table(table_uri(request.settings, request.recipe, "activity"))
    found = {field.name for field in table.schema().fields} if table else set()
    missing = [column.name for column in request.recipe.activity if column.name not in found]
    if missing:
        msg = f"activity of recipe {request.recipe.name} lacks {', '.join(missing)}. {remedy}"
        raise BadInput(msg)


def _check_covered(request: Request, own: ledger.Entry, runs: Iterable[ledger.Entry]) -> None:
    """Every day from the first one covered to the date must be in the version that is pinned."""
    # A run that committed later is not in that version, whatever its date.
    ready = [
        run
        for run in runs
        if run.verdict == ledger.READY
        and run.business_date <= own.business_date
        and run.version <= own.version
    ]
    first = min(run.first_day for run in ready)
    owned = write.without_owner(Days(first, own.business_date), ready)
    if owned:
        gap = owned[0]
        days = (gap.last - gap.first).days + 1
        length = (own.business_date - own.first_day).days + 1
        msg = (
            f"activity of recipe {request.recipe.name} has no ready run for {gap.first} .. "
            f"{gap.last}. Run: {_command(request.recipe, gap.last, days)}; and then this date "
            f"again, which is done anew: {_command(request.recipe, own.business_date, length)}"
        )
        raise BadInput(msg)


def _command(recipe: Recipe, date: dt.date, days: int) -> str:
    window = f" --days {days}" if days else ""
    return f"lumos aggregate --recipe {recipe.name} --date {date}{window}"


def _quarantine(request: Request, waiting: pa.Table) -> dict[str, Any]:
    """Put users without a registration aside; says in which version they stand there."""
    recipe, date = request.recipe, request.date
    table = tables(recipe)["quarantine"]
    uri = table_uri(request.settings, recipe, "quarantine")
    where = predicate(job=JOB, day=date)
    before = read(uri, where=where)
    if not waiting.num_rows and (before is None or not before.num_rows):
        return {}
    rows = [
        {
            "job": JOB,
            "day": date,
            "reason": NOT_REGISTERED,
            "raw_table": "activity",
            "row": json.dumps(user, default=str, ensure_ascii=False, separators=(",", ":")),
            "num_rows": 1,
        }
        for user in waiting.sort_by("user_id").to_pylist()
    ]
    found = pa.Table.from_pylist(rows, schema=table.arrow_schema(recipe))
    return {"quarantine_version": replace(uri, found, where=where)}
