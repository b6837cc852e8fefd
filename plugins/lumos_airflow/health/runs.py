"""What Airflow's database knows of the newest runs, in two queries a DAG and one for all tasks.

None of them grows with the age of the database: runs are asked for from the newest on, and tasks
of the few runs that are shown.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from lumos.allowed import is_name

DAGS = (
    *("daily_aggregation", "data_quality", "batch_scoring", "ab_metrics"),
    *("embedding", "retraining"),
)
# Two months of a daily DAG: among them is the newest date of every recipe that still runs.
_NEWEST = 60


@dataclass(frozen=True)
class Task:
    """A task instance; ``max_tries`` tells how often it was cleared."""

    dag_id: str
    run_id: str
    task_id: str
    state: str
    started: dt.datetime | None
    ended: dt.datetime | None
    try_number: int
    max_tries: int


@dataclass(frozen=True)
class Run:
    """A DAG run and its tasks."""

    dag_id: str
    run_id: str
    recipe: str
    date: dt.date
    state: str
    started: dt.datetime | None
    ended: dt.datetime | None
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Runs:
    """The newest run of every DAG for every recipe, by recipe, and the recipes, newest first."""

    newest: Mapping[tuple[str, str], Run]
    recipes: tuple[str, ...]


def read(session: Session, default_recipe: str) -> Runs:
    """The run of the newest business date of each DAG, for each recipe.

    Of several runs for one date the last one that was created counts.

    Args:
        session: Of Airflow's database.
        default_recipe: Of runs whose ``conf`` names none.
    """
    chosen: dict[tuple[str, str], Run] = {}
    recipes: dict[str, None] = {}
    for dag_id in DAGS:
        for run in _newest(session, dag_id, default_recipe):
            recipes[run.recipe] = None
            known = chosen.get((run.recipe, dag_id))
            if known is None or run.date >= known.date:
                chosen[run.recipe, dag_id] = run
    tasks = _tasks(session, chosen.values())
    return Runs(
        {
            key: Run(**{**vars(run), "tasks": tuple(tasks.get((run.dag_id, run.run_id), ()))})
            for key, run in chosen.items()
        },
        tuple(recipes),
    )


def business_date(conf: Any, interval_start: dt.datetime | None) -> dt.date | None:  # noqa: ANN401
    """As :func:`lumos_airflow.dates.business_date` has it for tasks; none where it is unknown."""
    given = conf.get("business_date") if isinstance(conf, Mapping) else None
    if given:
        try:
            return dt.date.fromisoformat(str(given))
        except ValueError:
            return None
    return interval_start.astimezone(dt.UTC).date() if interval_start else None


def _newest(session: Session, dag_id: str, default_recipe: str) -> list[Run]:
    """Oldest first, so that the last one of a date is met last."""
    wanted = (
        select(
            DagRun.run_id,
            DagRun.conf,
            DagRun.data_interval_start,
            DagRun.state,
            DagRun.start_date,
            DagRun.end_date,
        )
        .where(DagRun.dag_id == dag_id)
        .order_by(DagRun.run_after.desc(), DagRun.id.desc())
        .limit(_NEWEST)
    )
    found = []
    for run_id, conf, start, state, started, ended in session.execute(wanted):
        date = business_date(conf, start)
        given = conf.get("recipe") if isinstance(conf, Mapping) else None
        recipe = str(given or default_recipe)
        # Airflow has checked it by the form; a form of another day may have asked for less.
        if date is not None and is_name(recipe):
            found.append(Run(dag_id, run_id, recipe, date, str(state), started, ended))
    return found[::-1]


def _tasks(session: Session, runs: Iterable[Run]) -> dict[tuple[str, str], Sequence[Task]]:
    keys = [(run.dag_id, run.run_id) for run in runs]
    columns = TaskInstance
    wanted = select(
        columns.dag_id,
        columns.run_id,
        columns.task_id,
        columns.state,
        columns.start_date,
        columns.end_date,
        columns.try_number,
        columns.max_tries,
    ).where(tuple_(columns.dag_id, columns.run_id).in_(keys))
    found: dict[tuple[str, str], list[Task]] = {}
    for row in session.execute(wanted) if keys else ():
        values = [*row]
        values[3] = str(values[3] or "waiting")
        found.setdefault((row[0], row[1]), []).append(Task(*values))
    return found
