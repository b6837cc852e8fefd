"""What was read, put together into one judgement. Pure: neither a clock nor a store is asked."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, get_args

from lumos.monitor.names import ENTRIES
from lumos_airflow.alerts import anchor, late_name
from lumos_airflow.health import chain
from lumos_airflow.health.facts import (
    Alert,
    Alerts,
    Champion,
    Drift,
    Experiments,
    Health,
    Measured,
    Part,
    Problem,
    QualityFact,
    Series,
    Status,
    TableFact,
    Tables,
    TrainingFact,
    Variant,
    worst,
)
from lumos_airflow.health.lake import USUAL_ENTRIES, Entry, Lake, Look, Metric
from lumos_airflow.health.latest import Reading
from lumos_airflow.health.look import Found
from lumos_airflow.health.machines import Rented
from lumos_airflow.health.runs import Run, Runs

# Tables without which there are no scores, and the DAG that makes them.
_ESSENTIAL = {
    "activity": "daily_aggregation",
    "event_context": "daily_aggregation",
    "users": "daily_aggregation",
    "sequences": "daily_aggregation",
    "quality": "data_quality",
    "forecasts": "batch_scoring",
    "scores": "batch_scoring",
}
# Their rows grow with users: half or twice of what is usual is a fault, to be sought at this task.
_STEADY = {
    "activity": "aggregate",
    "users": "aggregate",
    "sequences": "sequences",
    "forecasts": "score",
    "scores": "publish",
}
_LEAST_ENTRIES = 5
_MATURED = ("matured_auc", "matured_ece")


@dataclass(frozen=True)
class Known:
    """Everything that was read about a recipe; ``found`` is of the process that asks MLflow."""

    recipe: str
    recipes: tuple[str, ...]
    folder: str
    trouble: str
    runs: Reading[Runs]
    lake: Reading[Lake]
    found: Reading[Found]
    rented: Reading[Rented]


def judge(known: Known, now: dt.datetime) -> Health:
    """The page's facts.

    Args:
        known: What was read.
        now: With a time zone.
    """
    told_chain, problems = chain.judge(known.runs, known.recipe, now)
    found = list(problems)
    tables, wrong = _tables(known, told_chain.expected, now)
    found += wrong
    quality, wrong = _quality(known)
    found += wrong
    drift, wrong = _drift(known)
    found += wrong
    experiments, wrong = _experiments(known)
    found += wrong
    alerts, wrong = _alerts(known)
    found += wrong
    parts: dict[str, Part] = {
        "chain": told_chain,
        "tables": tables,
        "quality": quality,
        "champion": _champion(known, now),
        "drift": drift,
        "training": _training(known, now),
        "experiments": experiments,
        "alerts": alerts,
    }
    listed = _unique(found)
    status = worst([part.status for part in parts.values()] + [p.status for p in listed])
    return Health(
        recipe=known.recipe,
        recipes=known.recipes,
        status=status,
        headline=_headline(status, listed, parts),
        generated=now,
        problems=listed,
        **parts,
    )


def _unique(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """One for each section of the runbook and task, the worst ones first."""
    kept: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        kept.setdefault((problem.runbook, problem.task_id), problem)
    order = {"critical": 0, "unknown": 1, "warning": 2, "ok": 3}
    return tuple(sorted(kept.values(), key=lambda problem: order[problem.status]))


def _headline(status: Status, problems: Sequence[Problem], parts: dict[str, Part]) -> str:
    unknown = [name for name, part in parts.items() if part.status == "unknown"]
    told = []
    for level, words in (("critical", "must be mended now"), ("warning", "should be looked at")):
        number = sum(problem.status == level for problem in problems)
        if number:
            told.append(f"{number} {'thing' if number == 1 else 'things'} {words}")
    if unknown:
        told.append(f"unknown: {', '.join(unknown)}")
    if told:
        return "; ".join(told) + "."
    return "All is well." if status == "ok" else "Look at the sections below."


def _unread(known: Known) -> str:
    """Why nothing of the lake is known; empty if something is."""
    return known.trouble or ("" if known.lake.value is not None else known.lake.trouble)


def _tables(
    known: Known, expected: dt.date | None, now: dt.datetime
) -> tuple[Tables, list[Problem]]:
    if why := _unread(known):
        return Tables(status="unknown", note=why, read=known.lake.at), []
    assert known.lake.value is not None
    ledger = known.lake.value.ledger
    if ledger.value is None:
        return Tables(status="unknown", note=ledger.trouble, read=known.lake.at), []
    if not ledger.value:
        note = "The lake is empty: no table of this recipe has been written yet."
        return Tables(status="unknown", note=note, read=known.lake.at), []
    by_table: dict[str, list[Entry]] = {}
    # What the monitors found has a section of its own, and refuses no table.
    for entry in (entry for entry in ledger.value if entry.table not in ENTRIES.values()):
        by_table.setdefault(entry.table, []).append(entry)
    told = tuple(_table(name, rows, expected) for name, rows in by_table.items())
    problems = [
        Problem(
            status=table.status,
            title=f"{table.name}: {table.note}",
            runbook=_table_section(table),
            page=f"lumos/health/tables/{table.name}?recipe={known.recipe}",
        )
        for table in told
        if table.status != "ok"
    ]
    status = worst(table.status for table in told)
    if known.lake.trouble:
        status = worst([status, "unknown"])
    return Tables(status=status, note=known.lake.trouble, read=known.lake.at, tables=told), problems


def _table(name: str, entries: Sequence[Entry], expected: dt.date | None) -> TableFact:
    newest = entries[-1]
    before = [entry.rows for entry in entries[:-1]][-USUAL_ENTRIES:]
    usual = float(median(before)) if len(before) >= _LEAST_ENTRIES else None
    status: Status = "ok"
    note = ""
    if newest.verdict != "ready":
        status, note = "critical", f"refused for {newest.date}"
    elif expected and name in _ESSENTIAL and newest.date < expected:
        status, note = "critical", f"newest is {newest.date}, expected {expected}"
    elif usual and name in _STEADY and not usual / 2 <= newest.rows <= usual * 2:
        status, note = "warning", f"{newest.rows:,} rows, usual are {usual:,.0f}"
    return TableFact(
        name=name,
        status=status,
        note=note,
        business_date=newest.date,
        rows=newest.rows,
        usual_rows=usual,
        version=newest.version,
        verdict=newest.verdict,
    )


def _table_section(table: TableFact) -> str:
    if table.verdict != "ready":
        return "validate" if table.name == "quality" else "aggregate"
    if table.status == "warning":
        return anchor(_STEADY[table.name])
    return late_name(_ESSENTIAL[table.name])


def _quality(known: Known) -> tuple[QualityFact, list[Problem]]:
    if why := _unread(known):
        return QualityFact(status="unknown", note=why), []
    assert known.lake.value is not None
    part = known.lake.value.quality
    found = part.value
    if found is None:
        note = part.trouble or "The full suite has not been run yet."
        return QualityFact(status="unknown", note=note, read=known.lake.at), []
    status: Status = "ok"
    if found.verdict != "ready" or found.critical:
        status = "critical"
    elif found.warnings:
        status = "warning"
    told = QualityFact(
        status=status,
        read=known.lake.at,
        business_date=found.date,
        verdict=found.verdict,
        critical=found.critical,
        warnings=found.warnings,
    )
    if status == "ok":
        return told, []
    worded = found.critical or found.warnings
    title = f"Quality of {found.date}: {len(worded)} {'critical' if found.critical else 'warning'}"
    detail = "; ".join(worded[:3])
    return told, [Problem(status=status, title=title, detail=detail, runbook="validate")]


def _drift(known: Known) -> tuple[Drift, list[Problem]]:
    if why := _unread(known):
        return Drift(status="unknown", note=why), []
    assert known.lake.value is not None
    part = known.lake.value.monitor
    if not part.value:
        note = part.trouble or "The monitor has not measured anything yet."
        return Drift(status="unknown", note=note, read=known.lake.at), []
    newest = part.value[-1].day
    measured = tuple(_measured(row) for row in part.value if row.day == newest)
    problems = [
        Problem(
            status=row.status,
            title=f"{row.name}: {_number(row.value)}"
            + (f" ({row.segment})" if row.segment != "all" else ""),
            detail=row.message,
            runbook=f"monitor-{anchor(row.name)}",
        )
        for row in measured
        if row.status != "ok"
    ]
    told = Drift(
        status=worst(row.status for row in measured),
        read=known.lake.at,
        business_date=newest,
        measured=measured,
        matured=_matured(part.value),
    )
    return told, problems


def _measured(row: Metric) -> Measured:
    status: Status = row.verdict if row.verdict in get_args(Status) else "ok"  # type: ignore[assignment]
    return Measured(
        name=row.name, segment=row.segment, value=row.value, status=status, message=row.message
    )


def _matured(rows: Sequence[Metric]) -> tuple[Series, ...]:
    series: dict[tuple[str, str], list[Metric]] = {}
    for row in rows:
        if row.name.startswith(_MATURED) and row.value is not None:
            series.setdefault((row.name, row.segment), []).append(row)
    return tuple(
        Series(
            name=name,
            segment=segment,
            days=tuple(row.day for row in found),
            values=tuple(row.value for row in found if row.value is not None),
        )
        for (name, segment), found in sorted(series.items())
    )


def _champion(known: Known, now: dt.datetime) -> Champion:
    found, told = known.found.value, {}
    if not known.trouble and known.lake.value is not None:
        live = known.lake.value.publication.value
        if live is not None:
            told = {
                "scores_by": live.model_version,
                "scores_of": live.date,
                "valid_until": live.valid_until,
            }
    why = known.trouble or known.found.trouble
    if found is not None and found.trouble == "registry":
        why = why or "The model registry does not answer; the log of the API server says why."
    if found is None or found.champion is None:
        note = why or "There is no champion yet: run retraining."
        return Champion(status="unknown", note=note, read=known.found.at, **told)
    return Champion(
        status="unknown" if why else "ok",
        note=why,
        read=known.found.at,
        champion=found.champion,
        challenger=found.challenger,
        age_days=round((now - found.champion.registered).total_seconds() / 86400, 1),
        **told,
    )


def _training(known: Known, now: dt.datetime) -> TrainingFact:
    if known.runs.value is None:
        return TrainingFact(status="unknown", note=known.runs.trouble)
    run = known.runs.value.newest.get((known.recipe, "retraining"))
    task = _running_train(run)
    if run is None or task is None:
        return TrainingFact(note="No training runs.", read=known.runs.at)
    found = known.found.value
    return TrainingFact(
        # What it costs is not known: somebody should know that.
        status="unknown" if known.rented.trouble else "ok",
        note=known.rented.trouble,
        read=known.runs.at,
        is_running=True,
        business_date=run.date,
        seconds=round((now - task.started).total_seconds(), 1) if task.started else None,
        page=chain.task_page(task),
        progress=found.training if found else None,
        rented=known.rented.value,
    )


def _running_train(run: Run | None) -> Any:  # noqa: ANN401 - a task or none
    alive = ("running", "deferred", "queued", "up_for_retry")
    tasks = run.tasks if run else ()
    return next((t for t in tasks if t.task_id == "train" and t.state in alive), None)


def running_train(runs: Runs | None, recipe: str) -> Any:  # noqa: ANN401 - a task or none
    """The task that trains this recipe now, if there is one."""
    return _running_train(runs.newest.get((recipe, "retraining"))) if runs else None


def _experiments(known: Known) -> tuple[Experiments, list[Problem]]:
    if why := _unread(known):
        return Experiments(status="unknown", note=why), []
    assert known.lake.value is not None
    part = known.lake.value.looks
    if part.value is None:
        return Experiments(status="unknown", note=part.trouble, read=known.lake.at), []
    variants = tuple(_variant(look, known.folder) for look in part.value)
    problems = [
        Problem(
            status="critical",
            title=f"{variant.experiment}: the split is broken",
            detail=f"p = {_number(variant.srm_p_value)}; believe no effect.",
            runbook="review",
            page=variant.page,
        )
        for variant in variants
        if variant.status == "critical"
    ]
    note = "" if variants else "No experiment is active."
    status = worst(variant.status for variant in variants)
    return Experiments(status=status, note=note, read=known.lake.at, variants=variants), problems


def _variant(look: Look, folder: str) -> Variant:
    is_broken = look.srm_p_value is not None and look.srm_p_value < look.srm_alpha
    return Variant(
        experiment=look.experiment,
        variant=look.variant,
        as_of=look.as_of,
        day=look.day,
        srm_p_value=look.srm_p_value,
        status="critical" if is_broken else "ok",
        advice=look.advice,
        page=f"lumos/reports/{folder}/experiments/{look.experiment}/{look.as_of}/index.html",
    )


def _alerts(known: Known) -> tuple[Alerts, list[Problem]]:
    if why := _unread(known):
        return Alerts(status="unknown", note=why), []
    assert known.lake.value is not None
    part = known.lake.value.alerts
    if part.value is None:
        return Alerts(status="unknown", note=part.trouble, read=known.lake.at), []
    mine = [row for row in part.value if row.get("recipe") in (known.recipe, known.folder, None)]
    opened = tuple(_alert(row) for row in mine)
    note = "" if opened else "No alert is open."
    status = worst(alert.severity for alert in opened)
    problems = [
        Problem(
            status=alert.severity,
            title=f"{alert.name} for {alert.business_date}",
            detail=alert.message,
            runbook=alert.name,
            page=alert.page,
        )
        for alert in opened
    ]
    return Alerts(status=status, note=note, read=known.lake.at, open=opened), problems


def _alert(row: Any) -> Alert:  # noqa: ANN401 - a row with whatever columns there are
    def text(column: str) -> str:
        found = row.get(column)
        if isinstance(found, dt.datetime):
            return found.isoformat(timespec="seconds")
        return "" if found is None else str(found)

    dag_id, run_id = text("dag_id"), text("run_id")
    severity: Status = "critical" if row.get("severity") == "critical" else "warning"
    page = chain.run_page(dag_id, run_id) if dag_id and run_id else ""
    return Alert(
        severity=severity,
        name=text("name"),
        dag_id=dag_id,
        task_id=text("task_id"),
        business_date=text("business_date"),
        message=text("message"),
        count=int(row.get("count") or 1),
        first_sent=text("first_sent"),
        last_seen=text("last_seen"),
        page=f"{page}/tasks/{text('task_id')}" if page and text("task_id") else page,
    )


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3g}"
