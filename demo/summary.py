"""How the demo ended: tables for people, ``demo.json`` for the benchmarks."""

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.airflow import LocalAirflow
from demo.story import Job, Told

# Within one date: a task starts after those. (The waits stand for what they wait for.)
_AFTER = {
    "aggregate": ("land",),
    "sequences": ("aggregate",),
    "validate": ("aggregate",),
    "assign": ("aggregate",),
    "measure": ("assign",),
    "train": ("sequences",),
    "evaluate": ("train",),
    "promote": ("evaluate",),
    "score": ("sequences", "validate", "promote"),
    "publish": ("score",),
    "report": ("publish", "measure"),
}
# Two dates never write one table at once.
_AFTER_THE_DAY_BEFORE = ("aggregate", "score", "publish")


def longest_chain(jobs: Sequence[Job]) -> tuple[float, list[str]]:
    """The critical path through the verbs: what Airflow could not have made any shorter.

    The nodes are the verbs that ran, weighted with the seconds of their processes (from their
    start to their end, Python's and Spark's start included). The edges are what one verb needs
    of another: within a date as in ``_AFTER``; what writes the tables of a date after the same
    of the date before; and as the story tells it: the two next days land once the first one is
    aggregated.

    Returns:
        The seconds of the longest path, and its verbs in order.
    """
    seconds = {
        (job.task_id, job.date): job.process_seconds
        for job in jobs
        if job.process_seconds is not None
    }
    dates = sorted({date for _, date in seconds})

    @functools.cache
    def longest(verb: str, date: dt.date) -> tuple[float, list[str]]:
        before = [longest(*node) for node in _needs(verb, date, dates) if node in seconds]
        total, path = max(before, default=(0.0, []))
        return total + seconds[verb, date], [*path, f"{verb} {date}"]

    return max((longest(*node) for node in seconds), default=(0.0, []))


def _needs(verb: str, date: dt.date, dates: Sequence[dt.date]) -> list[tuple[str, dt.date]]:
    nodes = [(other, date) for other in _AFTER.get(verb, ())]
    if date != dates[0]:
        # One landing brings all the days that follow the first.
        nodes += [("aggregate", dates[0])] if verb == "land" else []
        nodes += [("land", dates[-1])] if verb == "aggregate" else []
        nodes += [(verb, date - dt.timedelta(days=1))] if verb in _AFTER_THE_DAY_BEFORE else []
    return nodes


def facts(told: Told) -> dict[str, Any]:
    """What ``demo.json`` says.

    ``orchestration_share`` is the part of the wall clock that is not on the longest chain of
    verbs: (total - chain) / total. Airflow's own start counts in it, and so does whatever time
    two verbs waited for each other without need; ``overhead_s`` is the same in seconds.
    ``attempts`` is the number of tasks that were tried more than once.
    """
    chain_s, chain = longest_chain(told.jobs)
    return {
        "total_s": round(told.total_s, 1),
        "longest_chain_s": round(chain_s, 1),
        "overhead_s": round(told.total_s - chain_s, 1),
        "attempts": sum(job.tries > 1 for job in told.jobs),
        "orchestration_share": round((told.total_s - chain_s) / told.total_s, 4),
        "longest_chain": chain,
        "tasks": {
            job.name: {
                "state": job.state,
                "seconds": job.seconds,
                "process_seconds": job.process_seconds,
            }
            for job in told.jobs
        },
        "dag_runs": list(told.runs),
    }


def write(told: Told, path: Path) -> dict[str, Any]:
    """Write ``demo.json`` and return what it says."""
    said = facts(told)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(said, indent=2) + "\n")
    partial.replace(path)
    return said


def show(told: Told, said: Mapping[str, Any], airflow: LocalAirflow, console: Console) -> None:
    """The closing tables and the three next commands."""
    console.print(_tasks_table(told.jobs))
    metrics = next((job for job in told.jobs if job.task_id == "evaluate"), None)
    if metrics is not None and metrics.report.get("metrics"):
        console.print(metrics_table(metrics.report["metrics"]))
    report = next((job for job in told.jobs if job.task_id == "report"), None)
    if report is not None:
        console.print(f"Report with plots: [bold]{report.report['details']['path']}[/bold]")
        shown = f"without a picture: {told.picture}" if told.picture else "its picture is in there"
        console.print(
            f"Health page: [bold]/lumos/health[/bold] of the UI that `make up` starts; {shown}",
            soft_wrap=True,
        )
    console.print(
        f"{said['total_s']:.0f} s in all, {said['longest_chain_s']:.0f} s of it the longest chain "
        f"of verbs: orchestration {said['orchestration_share']:.0%}"
    )
    console.print(
        "\nTry next:\n"
        "  make up                                  the Airflow UI, with all of these runs\n"
        "  .venv/bin/lumos land --date 2017-12-31   the rest of the year, to trigger or backfill\n"
        f"{verbs_by_hand(airflow)}",
        highlight=False,
        soft_wrap=True,
    )


def verbs_by_hand(airflow: LocalAirflow) -> str:
    """How the command line finds the models of a home's Airflow, which must be up."""
    return (
        "  .venv/bin/lumos score --help             any verb by hand; while Airflow is up, with "
        f"its models:\n  export MLFLOW_TRACKING_URI='{airflow.environment['MLFLOW_TRACKING_URI']}'"
    )


def _tasks_table(jobs: Sequence[Job]) -> Table:
    table = Table(title="DAG runs and tasks", title_justify="left")
    for name in ("date", "DAG", "task", "state", "table: rows"):
        table.add_column(name)
    for name in ("rejected", "seconds"):
        table.add_column(name, justify="right")
    for job in sorted(jobs, key=lambda job: (job.date, job.dag_id)):
        if job.task_id.startswith("wait_"):
            continue
        written = job.report.get("tables", ())
        # Nine raw tables in one cell help nobody.
        rows = ", ".join(f"{item['table']}: {item['rows']:,}" for item in written[:4])
        rejected = job.report.get("rows_rejected") or 0
        table.add_row(
            str(job.date),
            job.dag_id,
            job.task_id,
            job.state,
            rows + (", ..." if len(written) > 4 else ""),
            f"{rejected:,}" if rejected else "",
            f"{job.seconds:.1f}",
        )
    return table


def metrics_table(metrics: Mapping[str, float | None]) -> Table:
    """Metrics named ``MODEL.METRIC`` or ``MODEL|USERS.METRIC``: a row each, a column a model."""
    models: dict[str, None] = {}
    rows: dict[str, dict[str, float | None]] = {}
    for name, value in metrics.items():
        segment, _, metric = name.partition(".")
        model, _, users = segment.partition("|")
        models[model] = None
        rows.setdefault(f"{metric} ({users})" if users else metric, {})[model] = value
    table = Table(title="Forecasts on days after training, beside baselines", title_justify="left")
    table.add_column("metric")
    for model in models:
        table.add_column(model, justify="right")
    for metric, values in rows.items():
        cells = [values.get(model) for model in models]
        table.add_row(metric, *("" if cell is None else f"{cell:.4f}" for cell in cells))
    return table
