"""The verb ``monitor``: run the monitors of a date, write their page, then say what is critical.

The page shows both halves as `metrics` has them, whichever has just run, so that the two tasks of
the DAGs write one page. It is written before the task turns red.
"""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumos.delta import predicate, read
from lumos.monitor.drift import distance
from lumos.monitor.histograms import MISSING, ZERO, Histogram, least_of, merged
from lumos.monitor.names import FORECASTS, MONITORS, OF, runbook_link
from lumos.monitor.reference import NUM_DAYS
from lumos.monitor.run import JOB, Half, run_half
from lumos.study import monitor_plots as plots
from lumos.study import pages
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused, Report, Request

_ORDER = ("critical", "warning", "unknown", "info", "ok")
_MOST_DRAWN = 12
_WEEKS = dt.timedelta(days=56)

Row = Mapping[str, Any]


def monitor(request: Request) -> Report:
    """Monitor the date's tables, its forecasts, or both; the page's path is in the details.

    Raises:
        BadInput: ``--of`` is neither, or the date has not been aggregated.
        GateRefused: Something is critical; everything is written.
    """
    asked = request.options["of"]
    if asked is not None and asked not in OF:
        msg = f"--of {asked!r} is neither {' nor '.join(OF)}; leave it out for both"
        raise BadInput(msg)
    halves = [run_half(request, name) for name in OF if asked in (None, name)]
    path = page_path(request)
    pages.write(path, pages.render("monitor.html.j2", _context(request)))
    if critical := [message for half in halves for message in half.critical]:
        raise GateRefused(f"{' '.join(critical)} (see {path})")
    return _together(request, halves, path)


def page_path(request: Request) -> Path:
    """The page of the request's date."""
    folder = request.settings.home / "reports" / request.recipe.name / "monitor"
    return folder / request.date.isoformat() / "index.html"


def _together(request: Request, halves: list[Half], path: Path) -> Report:
    """One report of what ran; `metrics` of the later half is the newest version."""
    metrics: dict[str, float | None] = {}
    for half in halves:
        for name, number in half.report.metrics.items():
            metrics[name] = (metrics.get(name) or 0) + (number or 0)
    return request.report(
        tables=halves[-1].report.tables,
        metrics=metrics,
        details={
            "findings": [each for half in halves for each in half.report.details["findings"]],
            "page": str(path),
        },
        already_done=all(half.report.already_done for half in halves),
    )


def _context(request: Request) -> dict[str, Any]:
    rows = _rows(request, request.date, request.date)
    rows.sort(key=lambda row: (_ORDER.index(row["verdict"]), MONITORS.index(row["name"])))
    by_verdict = {verdict: [r for r in rows if r["verdict"] == verdict] for verdict in _ORDER}
    worst = next((verdict for verdict in _ORDER[:2] if by_verdict[verdict]), None)
    return {
        "recipe": request.recipe,
        "date": request.date,
        "rows": rows,
        "named": [row for row in rows if row["verdict"] in _ORDER[:3]],
        "numbers": {verdict: len(by_verdict[verdict]) for verdict in _ORDER},
        "worst": worst,
        "links": {name: runbook_link(name) for name in MONITORS},
        "by_monitor": {n: [r for r in rows if r["name"] == n] for n in MONITORS},
        "columns": _columns(request, rows),
        "courses": _courses(request),
    }


def _rows(request: Request, first: dt.date, last: dt.date) -> list[Row]:
    """What monitors said on some days; names of an older release are left out."""
    uri = table_uri(request.settings, request.recipe, "metrics")
    rows = read(uri, where=predicate(job=JOB, day=(first, last)))
    found = [] if rows is None else [row for row in rows.to_pylist() if row["name"] in MONITORS]
    return sorted(found, key=lambda row: (row["day"], row["name"], row["segment"]))


def _columns(request: Request, rows: list[Row]) -> list[tuple[str, str]]:
    """Figure and caption of each column that drifts: the date beside its days before."""
    drifting = dict.fromkeys(
        row["segment"]
        for row in rows
        if row["name"].startswith("drift_") and row["verdict"] in ("critical", "warning")
    )
    if not drifting:
        return []
    first = request.date - dt.timedelta(days=NUM_DAYS)
    days: dict[str, dict[dt.date, dict[int, int]]] = {}
    kept = read(
        table_uri(request.settings, request.recipe, "histograms"),
        where=predicate(table="activity", day=(first, request.date)),
    )
    for row in kept.to_pylist() if kept is not None else []:
        of_day = days.setdefault(f"{row['table']}.{row['column']}", {})
        of_day.setdefault(row["day"], {})[row["bin"]] = row["num_rows"]
    return [
        _drawn(segment, days.get(segment, {}), request.date)
        for segment in list(drifting)[:_MOST_DRAWN]
    ]


def _drawn(segment: str, days: Mapping[dt.date, Histogram], date: dt.date) -> tuple[str, str]:
    today = days.get(date, {})
    before = merged(histogram for day, histogram in days.items() if day < date)
    labels = {number: _label(number) for number in {*today, *before}}
    apart = distance(today, before)
    text = (
        f"{segment}: share of active users by value on {date}, and on the {len(days) - 1} days "
        f"before; at most {pages.figures(apart)} of the users differ."
    )
    return plots.histograms(f"drift-{segment}", today, before, labels), text


def _label(number: int) -> str:
    if number in (ZERO, MISSING):
        return "0" if number == ZERO else "missing"
    return pages.figures(least_of(number))


def _courses(request: Request) -> list[tuple[str, str]]:
    """Figures of forecasts over the last weeks, as each morning's run found them."""
    by_name: dict[str, dict[str, dict[dt.date, float]]] = {}
    for row in _rows(request, request.date - _WEEKS, request.date):
        is_whole = row["name"] in OF[FORECASTS] and "/" not in row["segment"]
        if is_whole and row["name"].startswith("matured_") and row["value"] is not None:
            by_task = by_name.setdefault(row["name"], {})
            by_task.setdefault(row["segment"], {})[row["day"]] = row["value"]
    return [
        (
            plots.course(name, tasks),
            f"{name} by the day on which it was known: {', '.join(sorted(tasks))}.",
        )
        for name, tasks in sorted(by_name.items())
        if any(len(values) > 1 for values in tasks.values())
    ]
