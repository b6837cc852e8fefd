"""The verb ``report``: one HTML page about one business date, for people.

Everything on it comes from the tables, at the versions that the ledger names, so that the page
can be made again later and says the same. It is one file without any request to a server: it
can be mailed, attached to a ticket, or opened on a plane.
"""

import base64
import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos import ledger
from lumos.config import Task
from lumos.experiment.declaration import running
from lumos.experiment.faults import Faults
from lumos.study import operations, pages, plots, sections
from lumos.study.curves import cross_fitted, gain, median_reliability, reliability
from lumos.study.experiment_page import folder, page_path
from lumos.study.pinned import latest, metric_rows, pinned
from lumos.study.reviews import reviewed
from lumos.verbs import BadInput, Report, Request

_QUALITY_JOBS = ("aggregate", "validate", "publish")
_HISTORY_SHOWN_DAYS = 42


def report(request: Request) -> Report:
    """Write ``$LUMOS_HOME/reports/<recipe>/<date>/index.html``; its path is in the details.

    Raises:
        BadInput: Nothing at all was recorded for the date.
    """
    entries = ledger.of_date(request.settings, request.recipe, request.date)
    if not entries:
        known = ledger.entries(request.settings, request.recipe, "activity")
        dates = ", ".join(entry.business_date.isoformat() for entry in known[-5:])
        msg = (
            f"nothing is recorded of recipe {request.recipe.name} on {request.date}; activity is "
            f"ready for {dates or 'no dates at all'}. Run lumos aggregate --date {request.date}"
        )
        raise BadInput(msg)
    reports = request.settings.home / "reports" / request.recipe.name
    path = reports / request.date.isoformat() / "index.html"
    context = {**_context(request, entries), "health": _picture(path.with_name("health.png"))}
    page = pages.render("report.html.j2", context)
    pages.write(path, page)
    return request.report(details={"path": str(path), "bytes": len(page.encode())})


def _context(request: Request, entries: list[ledger.Entry]) -> dict[str, Any]:
    evaluated = sections.evaluation(request)
    checks = [row for job in _QUALITY_JOBS for row in metric_rows(request, job, request.date)]
    return {
        "recipe": request.recipe,
        "date": request.date,
        "tiles": _tiles(request, entries),
        "manifest": _manifest(request),
        "accuracy": [
            ("All users", sections.accuracy(request)),
            ("Users never seen in training", sections.accuracy(request, "|held_out")),
        ],
        "evaluated": evaluated,
        "calibration": _calibration_figures(request, evaluated),
        "gains": _gain_figures(request, evaluated),
        "timelines": _timeline_figures(request, evaluated),
        "calendar": sections.calendar(request),
        "experiments": _experiments(request),
        "alarms": [row for row in checks if row["verdict"] in ("critical", "warning")],
        "num_passed": sum(row["verdict"] == "ok" for row in checks),
        "passed": [row for row in checks if row["verdict"] in ("ok", "info")],
        "quality": next((entry for entry in entries if entry.table == "quality"), None),
        "quarantined": operations.quarantined(request),
        "entries": entries,
    }


def _picture(path: Path) -> str:
    """A picture that somebody has laid beside the report, as part of it; empty without one."""
    if not path.is_file():
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _manifest(request: Request) -> Mapping[str, Any] | None:
    entry = ledger.find(request.settings, request.recipe, "manifests", request.date)
    rows = pinned(request, "manifests", entry=entry, as_of=request.date, state="live")
    return rows.to_pylist()[0] if rows is not None else None


def _tiles(request: Request, entries: list[ledger.Entry]) -> list[tuple[str, str, str]]:
    """Number, what it counts, and a remark."""
    tiles = []
    activity = pinned(request, "activity", entry=latest(request, "activity"), day=request.date)
    if activity is not None:
        num_active = pc.sum(pc.equal(activity[request.recipe.active], 1.0)).as_py()
        tiles.append((f"{num_active:,}", "users active", f"{request.recipe.active} on the day"))
    users = pinned(request, "users", entry=latest(request, "users"))
    if users is not None:
        known = users.filter(pc.less_equal(users["registered_on"], pa.scalar(request.date)))
        num_users = len(pc.unique(known["user_id"]))
        tiles.append((f"{num_users:,}", "users known", "registered by the day"))
    manifest = _manifest(request)
    if manifest is not None:
        until = f"valid until {pages.day(manifest['valid_until'])}"
        tiles.append((f"{manifest['num_rows']:,}", "scores published", until))
        calibrator = f"calibrator {manifest['calibrator_version'][:8]}"
        tiles.append((f"v{manifest['model_version']}", "model that scored", calibrator))
    quality = [entry for entry in entries if entry.table == "quality"]
    if quality:
        word = "passed" if quality[0].verdict == ledger.READY else "refused"
        tiles.append((word, "data quality", "the gate before training and publishing"))
    return tiles


def _series(evaluated: sections.Evaluation, task: Task) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Outcome, forecast and user of each evaluated forecast; all (N,)."""
    rows = evaluated.rows
    outcome, forecast = (
        rows[f"{task.name}_{what}"].to_numpy().astype(np.float64)
        for what in ("outcome", "forecast")
    )
    return outcome, forecast, rows["user_id"].to_pylist()


def _calibration_figures(
    request: Request, evaluated: sections.Evaluation | None
) -> list[tuple[str, str]]:
    figures = []
    for task in request.recipe.tasks if evaluated else ():
        assert evaluated is not None, "no figure is drawn without an evaluation"
        outcome, forecast, users = _series(evaluated, task)
        curve = median_reliability if task.is_median else reliability
        curves = {"raw": curve(outcome, forecast, users)}
        # A median is published as it is forecast.
        calibrated = None if task.is_median else cross_fitted(task, outcome, forecast, users)
        if calibrated is not None:
            curves["calibrated"] = curve(outcome, calibrated, users)
        units = {column.name: column.unit for column in request.recipe.activity}
        unit = "probability" if task.is_binary else units.get(task.column or "", "amount")
        svg = plots.calibration(f"calibration-{task.name}", task.name, curves, unit=unit)
        worst = float(np.max(np.abs(curves["raw"].forecast - curves["raw"].outcome)))
        usual = (
            f"median outcome {np.median(outcome):.3g}, median forecast {np.median(forecast):.3g}"
        )
        if not task.is_median:
            usual = f"base rate {outcome.mean():.3g}, mean forecast {forecast.mean():.3g}"
        text = (
            f"Calibration of {task.name}: {usual}, largest gap of a bin before calibration "
            f"{worst:.3g} ({unit})."
        )
        figures.append((svg, text))
    return figures


def _gain_figures(request: Request, evaluated: sections.Evaluation | None) -> list[tuple[str, str]]:
    figures = []
    for task in request.recipe.tasks if evaluated else ():
        assert evaluated is not None, "no figure is drawn without an evaluation"
        outcome, forecast, _ = _series(evaluated, task)
        share, found = gain(outcome, forecast)
        tenth, fifth = (float(np.interp(at, share, found)) for at in (0.1, 0.2))
        text = (
            f"Gain of {task.name}: the 10% of users with the highest forecasts hold "
            f"{tenth:.0%} of the outcome, the first 20% hold {fifth:.0%}."
        )
        figures.append((plots.gains(f"gain-{task.name}", task.name, share, found), text))
    return figures


def _timeline_figures(
    request: Request, evaluated: sections.Evaluation | None
) -> dict[str, Any] | None:
    found = sections.timelines(request, evaluated)
    if found is None:
        return None
    lines, task = found
    first = request.date - dt.timedelta(days=_HISTORY_SHOWN_DAYS - 1)
    last = request.date + dt.timedelta(days=request.recipe.horizon_days)
    figures = []
    for line in lines:
        svg = plots.timeline(
            f"user-{line.user_id}", line, first=first, as_of=request.date, last=last
        )
        text = f"{len(line.active)} active days in the last {_HISTORY_SHOWN_DAYS}"
        if line.windows:
            told = "; ".join(
                f"{start:%-d %b} to {end:%-d %b} {chance:.0%}, "
                f"{'came' if any(start <= day <= end for day in line.active) else 'did not come'}"
                for start, end, chance in sorted(line.windows)
            )
            text += f". Forecast and what happened: {told}"
        figures.append((line.user_id, svg, text))
    return {
        "figures": figures,
        "task": task,
        "has_days": any(line.days for line in lines),
    }


def _experiments(request: Request) -> list[dict[str, Any]]:
    """A verdict on each running experiment, and its page where that has been written."""
    found = []
    for experiment in running(request, Faults()):
        told = reviewed(request, experiment)
        path = page_path(request, experiment.name)
        found.append(
            {
                "name": experiment.name,
                "verdict": told and told.verdict,
                "page": f"../{path.relative_to(folder(request).parent)}" if path.exists() else "",
            }
        )
    return found
