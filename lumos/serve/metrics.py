"""Rows of the `metrics` table that serving jobs leave behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from lumos.delta import predicate, replace
from lumos.tables import table_uri, tables
from lumos.verbs import Request, TableWritten

Verdict = Literal["ok", "warning", "critical", "unknown", "info"]


@dataclass(frozen=True)
class Metric:
    """One measured number, or a decision with its reason in ``message``."""

    name: str
    value: float | None
    segment: str = "all"
    verdict: Verdict = "info"
    message: str = ""


def write_metrics(request: Request, measured: Sequence[Metric]) -> TableWritten:
    """Put them in the place of what the same verb measured for the same day."""
    table = tables(request.recipe)["metrics"]
    rows = [
        {
            "day": request.date,
            "job": request.verb,
            "name": metric.name,
            "segment": metric.segment,
            "value": metric.value,
            "verdict": metric.verdict,
            "message": metric.message,
        }
        for metric in measured
    ]
    version = replace(
        table_uri(request.settings, request.recipe, "metrics"),
        pa.Table.from_pylist(rows, schema=table.arrow_schema(request.recipe)),
        where=predicate(job=request.verb, day=request.date),
        partition=table.partition,
    )
    return TableWritten(table="metrics", version=version, rows=len(rows))
