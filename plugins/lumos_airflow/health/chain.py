"""The day's work judged by its runs: what failed, what is late, and since when. Pure."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from lumos_airflow.alerts import anchor, effect_of, late_name
from lumos_airflow.health import due
from lumos_airflow.health.facts import Chain, ChainRun, Problem, Status, Step, worst
from lumos_airflow.health.latest import Reading
from lumos_airflow.health.runs import Run, Runs, Task


@dataclass(frozen=True)
class Stage:
    """A DAG of the chain.

    Attributes:
        tasks: Those that are always shown; of the others only what is red.
        later: How much later than scores it is due.
    """

    dag_id: str
    title: str
    tasks: tuple[str, ...]
    later: dt.timedelta = dt.timedelta(0)

    @property
    def severity(self) -> Status:
        """The worst that one of its tasks may be: critical where scores wait for it."""
        return worst(effect_of(self.dag_id, task_id).severity for task_id in self.tasks)


STAGES = (
    Stage("daily_aggregation", "Aggregation", ("aggregate", "sequences")),
    Stage("data_quality", "Quality", ("wait_activity", "validate")),
    Stage("batch_scoring", "Scores", ("score", "publish", "export")),
    Stage(
        "ab_metrics",
        "Experiments",
        ("assign", "measure", "review"),
        later=dt.timedelta(hours=4),
    ),
)
_OVER = {"success", "failed"}


def run_page(dag_id: str, run_id: str) -> str:
    """Address of a run in Airflow's UI."""
    return f"dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def task_page(task: Task) -> str:
    """Address of a task instance in Airflow's UI."""
    return f"{run_page(task.dag_id, task.run_id)}/tasks/{quote(task.task_id, safe='')}"


def judge(
    reading: Reading[Runs], recipe: str, now: dt.datetime
) -> tuple[Chain, tuple[Problem, ...]]:
    """The chain of a recipe, and what is wrong with it, worst first.

    Args:
        reading: Of Airflow's database.
        recipe: As runs are given it.
        now: With a time zone.
    """
    if reading.value is None:
        return Chain(status="unknown", note=reading.trouble, read=reading.at), ()
    expected = due.expected(now)
    runs, problems = [], []
    for stage in STAGES:
        run = reading.value.newest.get((recipe, stage.dag_id))
        told, wrong = _stage(stage, run, expected, now)
        runs.append(told)
        problems += wrong
    note, statuses = reading.trouble, [run.status for run in runs]
    if reading.trouble:
        statuses.append("unknown")
    elif not any(run.run_id for run in runs):
        note = "No run of this recipe has been started yet."
        statuses.append("unknown")
    chain = Chain(
        status=worst(statuses), note=note, read=reading.at, expected=expected, runs=tuple(runs)
    )
    return chain, tuple(problems)


def _stage(
    stage: Stage, run: Run | None, expected: dt.date | None, now: dt.datetime
) -> tuple[ChainRun, list[Problem]]:
    due_at, late = _lateness(stage, run, expected, now)
    steps = tuple(_step(task, now) for task in _shown(stage, run))
    problems = [
        _failed(stage, run, task, step.status)
        for task, step in zip(_shown(stage, run), steps, strict=True)
        if run is not None and task.state == "failed"
    ]
    is_done = run is not None and run.state == "success" and run.date >= (expected or run.date)
    if late and not is_done:
        problems.append(_late(stage, run, expected, late))
    statuses = [problem.status for problem in problems] + [step.status for step in steps]
    if run is not None and run.state == "failed":
        statuses.append(stage.severity)
    told = ChainRun(
        dag_id=stage.dag_id,
        title=stage.title,
        status=worst(statuses),
        state=run.state if run else "no run",
        business_date=run.date if run else None,
        run_id=run.run_id if run else "",
        started=run.started if run else None,
        ended=run.ended if run else None,
        due=due_at,
        late_seconds=late,
        page=run_page(run.dag_id, run.run_id) if run else f"dags/{stage.dag_id}",
        steps=steps,
    )
    return told, problems


def _lateness(
    stage: Stage, run: Run | None, expected: dt.date | None, now: dt.datetime
) -> tuple[dt.datetime | None, float]:
    """When the stage is due, and by how many seconds it is late, or was when it ended."""
    if expected is None:
        return None, 0.0
    if run is None or run.date < expected:
        due_at = due.due(expected) + stage.later
        return due_at, max(0.0, (now - due_at).total_seconds())
    due_at = due.due(run.date) + stage.later
    ended = run.ended if run.state in _OVER else None
    return due_at, max(0.0, ((ended or now) - due_at).total_seconds())


def _shown(stage: Stage, run: Run | None) -> list[Task]:
    """The stage's own tasks in their order, then whatever else is red."""
    if run is None:
        return []
    known: Mapping[str, Task] = {task.task_id: task for task in run.tasks}
    own = [known[name] for name in stage.tasks if name in known]
    red = [t for t in run.tasks if t.state in ("failed", "up_for_retry") and t not in own]
    return own + sorted(red, key=lambda task: task.task_id)


def _step(task: Task, now: dt.datetime) -> Step:
    status: Status = "ok"
    if task.state == "failed":
        status = effect_of(task.dag_id, task.task_id).severity
    elif task.state in ("up_for_retry", "upstream_failed"):
        status = "warning"
    seconds = None
    if task.started is not None:
        seconds = round(((task.ended or now) - task.started).total_seconds(), 1)
    return Step(
        task_id=task.task_id,
        state=task.state,
        status=status,
        started=task.started,
        ended=task.ended,
        seconds=seconds,
        page=task_page(task),
    )


def _failed(stage: Stage, run: Run, task: Task, status: Status) -> Problem:
    return Problem(
        status=status,
        title=f"{task.task_id} failed for {run.date}",
        detail=f"{stage.dag_id}, after {task.try_number} {_plural('try', task.try_number)}.",
        runbook=anchor(task.task_id),
        page=task_page(task),
        dag_id=task.dag_id,
        run_id=task.run_id,
        task_id=task.task_id,
    )


def _late(stage: Stage, run: Run | None, expected: dt.date | None, late: float) -> Problem:
    has_begun = run is not None and run.date >= (expected or run.date)
    what = f"is {run.state}" if run and has_begun else "has not been started"
    date = run.date if run and has_begun else expected
    return Problem(
        status=stage.severity,
        title=f"{stage.dag_id} is late for {date}",
        detail=f"It {what}, {duration(late)} after it was due.",
        runbook=late_name(stage.dag_id),
        page=run_page(run.dag_id, run.run_id) if run and has_begun else f"dags/{stage.dag_id}",
    )


def duration(seconds: float | None) -> str:
    """Seconds as people say them: two units at most."""
    if seconds is None:
        return ""
    whole = round(seconds)
    for size, unit, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word[:-1]}ies"
