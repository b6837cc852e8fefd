"""The ledger: which table is ready for which business date, at which version, made from what.

It pins a run's inputs (a reader asks for the version the ledger names, never "the newest"),
makes reruns cheap (the same fingerprint was done already), and is what Airflow's wait reads.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from lumos import dependencies
from lumos.config import Recipe
from lumos.delta import predicate, read, replace, rewrite
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Report, Request, TableWritten

READY, REFUSED = "ready", "refused"


class Entry(BaseModel):
    """One row of the ledger; ``report`` is the verb's own, so that a rerun can print it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    business_date: dt.date
    first_day: dt.date
    version: int
    rows: int
    verdict: str
    inputs: Mapping[str, int | str]
    fingerprint: str
    report: Report


def fingerprint(request: Request, inputs: Mapping[str, int | str]) -> str:
    """Equal for two runs that must give the same rows.

    An entry of a version that made fingerprints in another way is read as ever, and is not the
    same work: its date is done again if it is asked for, and until then it stays ready.
    """
    text = json.dumps(
        {
            "verb": request.verb,
            "recipe": dependencies.VERBS[request.verb].digest(request.recipe),
            "date": request.date.isoformat(),
            "options": dict(request.options),
            "inputs": dict(inputs),
        },
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find(settings: Settings, recipe: Recipe, table: str, date: dt.date) -> Entry | None:
    """The entry of a table for a business date, if there is one."""
    rows = _rows(settings, recipe, predicate(table=table, business_date=date))
    return rows[0] if rows else None


def entries(settings: Settings, recipe: Recipe, table: str) -> list[Entry]:
    """All entries of a table, oldest business date first."""
    return _rows(settings, recipe, predicate(table=table))


def all_entries(settings: Settings, recipe: Recipe) -> list[Entry]:
    """The whole ledger, oldest business date first."""
    return _rows(settings, recipe, None)


def of_date(settings: Settings, recipe: Recipe, date: dt.date) -> list[Entry]:
    """All that was entered for a business date, by table."""
    rows = _rows(settings, recipe, predicate(business_date=date))
    return sorted(rows, key=lambda entry: entry.table)


def require(settings: Settings, recipe: Recipe, table: str, date: dt.date, *, remedy: str) -> Entry:
    """The entry of a table that is ready for ``date``.

    Raises:
        BadInput: There is none, or its verdict is not ``ready``; ends with ``remedy``.
    """
    entry = find(settings, recipe, table, date)
    if entry is None:
        ready = (e for e in entries(settings, recipe, table) if e.verdict == READY)
        known = [e.business_date.isoformat() for e in ready]
        msg = (
            f"{table} of recipe {recipe.name} is not ready for {date}; "
            f"ready are {', '.join(known[-5:]) or 'no dates at all'}. {remedy}"
        )
        raise BadInput(msg)
    if entry.verdict != READY:
        msg = f"{table} of recipe {recipe.name} was refused for {date}. {remedy}"
        raise BadInput(msg)
    return entry


def already_done(request: Request, table: str, inputs: Mapping[str, int | str]) -> Report | None:
    """The report of an earlier run with the same fingerprint, unless a fresh run is forced."""
    if request.force:
        return None
    entry = find(request.settings, request.recipe, table, request.date)
    if entry is None or entry.verdict != READY:
        return None
    if entry.fingerprint != fingerprint(request, inputs):
        return None
    return Report.model_validate({**entry.report.model_dump(), "already_done": True})


def record(
    request: Request,
    report: Report,
    *,
    inputs: Mapping[str, int | str],
    first_day: dt.date | None = None,
    verdict: str = READY,
    tables_written: tuple[TableWritten, ...] | None = None,
) -> Report:
    """Enter what a verb wrote, one row a table; returns the report unchanged.

    Called last: a run killed before it has entered nothing, and its rerun does the work again.
    """
    written = report.tables if tables_written is None else tables_written
    made = fingerprint(request, inputs)
    rows = [
        _row(
            Entry(
                table=item.table,
                business_date=request.date,
                first_day=first_day or request.date,
                version=item.version,
                rows=item.rows,
                verdict=verdict,
                inputs=dict(inputs),
                fingerprint=made,
                report=report,
            )
        )
        for item in written
    ]
    table = tables(request.recipe)["ledger"]
    if rows:
        # One commit for all: half an entry would look like a run that is done.
        replace(
            table_uri(request.settings, request.recipe, "ledger"),
            pa.Table.from_pylist(rows, schema=table.arrow_schema(request.recipe)),
            where=predicate(business_date=request.date, table=[item.table for item in written]),
        )
    return report


def revise(settings: Settings, recipe: Recipe, change: Callable[[Entry], Entry | None]) -> None:
    """Put ``change(entry)`` in the place of every entry, in one commit; ``None`` takes it out."""
    table = tables(recipe)["ledger"]

    def changed(rows: pa.Table) -> pa.Table | None:
        old = [_entry(row) for row in rows.to_pylist()]
        new = [change(entry) for entry in old]
        if new == old:
            return None
        kept = [_row(entry) for entry in new if entry is not None]
        return pa.Table.from_pylist(kept, schema=table.arrow_schema(recipe))

    rewrite(table_uri(settings, recipe, "ledger"), table.arrow_schema(recipe), changed)


def _rows(settings: Settings, recipe: Recipe, where: str | None) -> list[Entry]:
    found = read(table_uri(settings, recipe, "ledger"), where=where)
    if found is None:
        return []
    parsed = [_entry(row) for row in found.to_pylist()]
    return sorted(parsed, key=lambda entry: entry.business_date)


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry.model_validate(
        {**row, "inputs": json.loads(row["inputs"]), "report": json.loads(row["report"])}
    )


def _row(entry: Entry) -> dict[str, Any]:
    return {
        **entry.model_dump(),
        "inputs": json.dumps(dict(entry.inputs), sort_keys=True),
        "report": entry.report.model_dump_json(),
    }
