"""Run one half of the monitors for a date: once for the same inputs, the same rows whenever.

Nothing here looks at a clock or past the business date, so that a backfill gives in any order what
the mornings would have given.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lumos import ledger
from lumos.delta import predicate, replace
from lumos.monitor.names import ENTRIES, OF, TABLES
from lumos.serve.metrics import Metric
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten

if TYPE_CHECKING:
    from lumos.monitor.forecasts import ForecastMonitors
    from lumos.monitor.tables import TableMonitors

log = logging.getLogger(__name__)

JOB = "monitor"
_NAMED = ("critical", "warning", "unknown")


@dataclass(frozen=True)
class Half:
    """What one half found.

    Attributes:
        name: ``tables`` or ``forecasts``.
        report: As the ledger has it.
    """

    name: str
    report: Report

    @property
    def critical(self) -> list[str]:
        """The sentences of what is critical."""
        found = self.report.details["findings"]
        return [each["message"] for each in found if each["verdict"] == "critical"]


def run_half(request: Request, name: str) -> Half:
    """Run a half, unless that was done from the same inputs; enter it as ``monitor_NAME``.

    A half that found something critical is entered as refused, and not run again for that.

    Args:
        request: For its date; the option ``of`` is taken as ``name``.
        name: ``tables`` or ``forecasts``.

    Raises:
        BadInput: ``tables``: the date has not been aggregated.
    """
    asked = Request.model_validate({**dict(request), "options": {"of": name}})
    monitors = _monitors(asked, name)
    inputs, entered = monitors.inputs, ENTRIES[name]
    known = _done_before(asked, entered, inputs)
    if known is not None:
        return Half(name, known)
    found = monitors.findings()
    for metric in found:
        if metric.verdict in ("critical", "warning"):
            log.warning("%s: %s", metric.verdict, metric.message)
    written = _write(asked, found, OF[name])
    report = asked.report(
        tables=(written,), metrics=counts(found), details={"findings": findings(found)}
    )
    is_critical = any(metric.verdict == "critical" for metric in found)
    ledger.record(
        asked,
        report,
        inputs=inputs,
        verdict=ledger.REFUSED if is_critical else ledger.READY,
        tables_written=(TableWritten(table=entered, version=written.version, rows=written.rows),),
    )
    return Half(name, report)


def _monitors(request: Request, name: str) -> "TableMonitors | ForecastMonitors":
    # Each when it is needed: what judges forecasts costs seconds to import.
    if name == TABLES:
        from lumos.monitor.tables import TableMonitors

        return TableMonitors(request)
    from lumos.monitor.forecasts import ForecastMonitors

    return ForecastMonitors(request)


def counts(found: Sequence[Metric]) -> dict[str, float]:
    """How many monitors came to which verdict."""
    number = Counter(metric.verdict for metric in found)
    return {
        "num_ok": number["ok"],
        "num_warnings": number["warning"],
        "num_critical": number["critical"],
        "num_unknown": number["unknown"],
    }


def findings(found: Sequence[Metric]) -> list[dict[str, Any]]:
    """What somebody should read, the worst first: critical, warnings, and what is unknown."""
    named = [metric for metric in found if metric.verdict in _NAMED]
    named.sort(key=lambda metric: _NAMED.index(metric.verdict))
    return [
        {"name": m.name, "segment": m.segment, "verdict": m.verdict, "message": m.message}
        for m in named
    ]


def _done_before(request: Request, table: str, inputs: dict[str, int | str]) -> Report | None:
    """The report of an earlier run on the same inputs, also of one that was refused."""
    entry = ledger.find(request.settings, request.recipe, table, request.date)
    if request.force or entry is None:
        return None
    if entry.fingerprint != ledger.fingerprint(request, inputs):
        return None
    return Report.model_validate({**entry.report.model_dump(), "already_done": True})


def _write(request: Request, found: Sequence[Metric], names: Sequence[str]) -> TableWritten:
    """Put findings in the place of those that this half left for the date."""
    table = tables(request.recipe)["metrics"]
    rows = [{"day": request.date, "job": JOB, **vars(metric)} for metric in found]
    version = replace(
        table_uri(request.settings, request.recipe, table.name),
        pa.Table.from_pylist(rows, schema=table.arrow_schema(request.recipe)),
        where=predicate(job=JOB, day=request.date, name=list(names)),
        partition=table.partition,
    )
    return TableWritten(table=table.name, version=version, rows=len(rows))
