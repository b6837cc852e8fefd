"""What the report says of rows that were rejected."""

import datetime as dt
from typing import Any

from lumos.delta import predicate, read
from lumos.tables import table_uri
from lumos.verbs import Request


def quarantined(request: Request) -> list[dict[str, Any]] | None:
    """Rejected rows of the last days, counted by raw table and reason."""
    uri = table_uri(request.settings, request.recipe, "quarantine")
    first = request.date - dt.timedelta(days=request.recipe.quality.usual_days - 1)
    rows = read(uri, where=predicate(day=(first, request.date)))
    if rows is None:
        return None
    grouped = rows.group_by(["raw_table", "reason"]).aggregate([("num_rows", "sum")])
    order = [("num_rows_sum", "descending"), ("reason", "ascending"), ("raw_table", "ascending")]
    counted: list[dict[str, Any]] = grouped.sort_by(order).to_pylist()
    return counted
