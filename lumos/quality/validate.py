"""The gates of data quality: ``audit`` inside aggregate, and the verb ``validate``.

``audit`` looks at the days just written, before the ledger says that they are ready.
``validate`` looks wider, at pinned versions: also at what only shows against other days and
other tables. Its verdict, the ledger's ``quality``, gates training, scoring and publishing.
"""

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumos.dates import EPOCH, first_of_window
from lumos.ledger import READY, REFUSED, Entry, already_done, find, fingerprint, record, require
from lumos.quality.account import against_each_other, as_audited, conserved, load
from lumos.quality.measure import (
    Finding,
    check_numbers,
    check_rows,
    messages,
    preload,
    write_metrics,
)
from lumos.quality.suites import checks, flags
from lumos.quality.usual import against_usual_days, daily_profile, without_older_days
from lumos.tables import table_uri, tables
from lumos.verbs import GateRefused, Report, Request, TableWritten

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

# The column that says which business date a row belongs to.
_DAY_OF = {"activity": "day", "event_context": "known_on", "users": "valid_from"}
_OPTIONAL = ("event_context", "users", "quarantine", "sequences")


def audit(
    spark: "SparkSession",
    request: Request,
    *,
    first_day: dt.date,
    versions: Mapping[str, int],
    conservation: Mapping[str, int],
) -> list[Finding]:
    """Check the days that aggregate has just written, and that no raw row was lost.

    Every finding becomes a row of ``metrics``, also when the day is refused.

    Args:
        spark: The session that wrote.
        request: Of aggregate.
        first_day: The first day written; the last one is the business date.
        versions: The Delta version just committed, by table; a table not written is absent.
        conservation: Raw rows that ``landed``, and what became of them: ``counted`` in activity
            now, ``counted_earlier``, or ``quarantined``.

    Returns:
        All findings, none of them critical.

    Raises:
        GateRefused: A critical check failed; names table, column, count and examples.
    """
    findings = [
        _info("window_days", (request.date - first_day).days + 1),
        *(_info(f"rows_{name}", count) for name, count in conservation.items()),
    ]
    with _cached(spark, request, "activity", versions, first_day) as activity:
        findings += _rows(request, "activity", activity)
        counted = activity.groupBy().sum("num_raw_rows").collect()[0][0] or 0
    for table in _others(request, versions):
        with _cached(spark, request, table, versions, first_day) as frame:
            findings += _rows(request, table, frame)
    findings += check_numbers(conserved(request, conservation, counted))
    write_metrics(request, findings)
    _warn(findings)
    _refuse(messages(findings, "critical"))
    return findings


def validate(request: Request) -> Report:
    """Run the full suite on what the ledger says is ready for the date, and enter a verdict.

    Raises:
        BadInput: The date has not been aggregated.
        GateRefused: A critical check failed, now or in an earlier run on the same versions.
    """
    remedy = f"Run `lumos aggregate --date {request.date}` first."
    entry = require(request.settings, request.recipe, "activity", request.date, remedy=remedy)
    inputs = {"activity": entry.version, **_others_ready(request, entry)}
    known = already_done(request, "quality", inputs)
    if known is not None:
        return known
    _refuse(_refused_before(request, inputs))
    findings = _examine(request, entry, inputs)
    metrics = write_metrics(request, findings)
    critical, warnings = messages(findings, "critical"), messages(findings, "warning")
    report = request.report(
        tables=(metrics,),
        metrics={
            "num_checks": len(findings),
            "num_warnings": len(warnings),
            "num_critical": len(critical),
        },
        details={"warnings": warnings, "critical": critical},
    )
    record(
        request,
        report,
        inputs=inputs,
        first_day=entry.first_day,
        verdict=REFUSED if critical else READY,
        tables_written=(TableWritten(table="quality", version=metrics.version, rows=metrics.rows),),
    )
    _warn(findings)
    _refuse(critical)
    return report


def _others_ready(request: Request, activity: Entry) -> dict[str, int]:
    """Versions of the other tables of the date; of sequences only if made from this activity."""
    versions = {}
    for name in _OPTIONAL:
        entry = find(request.settings, request.recipe, name, request.date)
        if entry is None or entry.verdict != READY:
            continue
        if entry.inputs.get("activity", activity.version) == activity.version:
            versions[name] = entry.version
    return versions


def _refused_before(request: Request, inputs: Mapping[str, int | str]) -> list[str]:
    entry = find(request.settings, request.recipe, "quality", request.date)
    if request.force or entry is None or entry.verdict != REFUSED:
        return []
    if entry.fingerprint != fingerprint(request, inputs):
        return []
    return list(entry.report.details["critical"])


def _examine(request: Request, entry: Entry, versions: Mapping[str, int]) -> list[Finding]:
    preload()
    # Imported here, so that a date already judged starts no Spark.
    from lumos.aggregate.facts import Days
    from lumos.aggregate.spark import spark_session
    from lumos.aggregate.write import count_rows

    date, recipe = request.date, request.recipe
    start = min(entry.first_day, first_of_window(date, recipe.quality.usual_days + 1))
    uri = table_uri(request.settings, recipe, "activity")
    num_days = count_rows(uri, versions["activity"], Days(start, date))
    with spark_session(f"lumos validate {date}", num_rows=num_days) as spark:
        with _cached(spark, request, "activity", versions, start) as activity:
            profile = daily_profile(activity, recipe)
            findings = _rows(request, "activity", without_older_days(activity, profile, recipe))
        for table in _others(request, versions):
            with _cached(spark, request, table, versions, EPOCH) as frame:
                findings += _rows(request, table, frame)
        numbers = [
            *against_usual_days(profile, recipe, date),
            *as_audited(request, profile, versions),
            *against_each_other(spark, request, versions),
        ]
    return findings + check_numbers(numbers)


def _others(request: Request, versions: Mapping[str, int]) -> list[str]:
    """The tables beside activity; an event table without a column has nothing to check."""
    wanted = ["event_context", "users"] if request.recipe.events else ["users"]
    return [table for table in wanted if table in versions]


@contextmanager
def _cached(
    spark: "SparkSession",
    request: Request,
    table: str,
    versions: Mapping[str, int],
    first_day: dt.date,
) -> Iterator["DataFrame"]:
    """Rows of a table from a day on, up to the business date, in memory meanwhile."""
    days = (_DAY_OF[table], first_day, request.date)
    frame = load(spark, request, table, versions, days=days).cache()
    try:
        yield frame
    finally:
        frame.unpersist()


def _rows(request: Request, table: str, frame: "DataFrame") -> list[Finding]:
    return check_rows(
        frame,
        checks(request.recipe, table, last_day=request.date),
        flags=flags(request.recipe, table),
        key=tables(request.recipe)[table].key,
        date=request.date,
    )


def _info(name: str, value: float) -> Finding:
    return Finding(name=name, segment="raw", verdict="info", value=float(value))


def _warn(findings: Sequence[Finding]) -> None:
    for message in messages(findings, "warning"):
        log.warning("%s", message)


def _refuse(critical: Sequence[str]) -> None:
    if critical:
        raise GateRefused("; ".join(critical))
