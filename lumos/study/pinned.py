"""Reading what was ready by a business date, at the version that the ledger names for it."""

import datetime as dt
from typing import Any

import pyarrow as pa

from lumos import ledger
from lumos.delta import predicate, read
from lumos.tables import table_uri
from lumos.verbs import Request


def latest(request: Request, table: str) -> ledger.Entry | None:
    """The last entry made for the date or before it, as far as it is ready."""
    found = [
        entry
        for entry in ledger.entries(request.settings, request.recipe, table)
        if entry.business_date <= request.date and entry.verdict == ledger.READY
    ]
    return found[-1] if found else None


def pinned(
    request: Request,
    table: str,
    *,
    entry: ledger.Entry | None,
    **where: str | int | dt.date | tuple[dt.date, dt.date],
) -> pa.Table | None:
    """Rows of a table at the version of its entry; ``None`` without an entry or rows."""
    if entry is None:
        return None
    uri = table_uri(request.settings, request.recipe, table)
    rows = read(uri, version=entry.version, where=predicate(**where) if where else None)
    return rows if rows is not None and rows.num_rows else None


def metric_rows(request: Request, job: str, day: dt.date) -> list[dict[str, Any]]:
    """What a verb measured for a day."""
    uri = table_uri(request.settings, request.recipe, "metrics")
    rows = read(uri, where=predicate(job=job, day=day))
    found = [] if rows is None else rows.to_pylist()
    return sorted(found, key=lambda row: (row["name"], row["segment"]))
