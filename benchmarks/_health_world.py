"""A lake and an Airflow database as they are after a year, for the health page alone.

The rows are made up, but lie in tables as :mod:`lumos.tables` declares them.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lumos import delta
from lumos.config import Recipe
from lumos.settings import Settings
from lumos.tables import table_uri, tables

LEDGER_TABLES = {
    "activity": 52_000,
    "event_context": 60,
    "users": 41_000,
    "sequences": 41_000,
    "quality": 240,
    "forecasts": 41_000,
    "scores": 41_000,
    "exposures": 900,
    "outcomes": 12,
    "embeddings": 41_000,
}
MONITOR = {"drift_psi": 0.04, "prediction_psi": 0.03, "matured_auc": 0.79, "matured_ece": 0.012}


def write(
    settings: Settings,
    recipe: Recipe,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    **where: Any,  # noqa: ANN401 - columns
) -> None:
    """Put rows into a contract table, in one commit, in the place of those that match."""
    declared = tables(recipe)[name]
    schema = declared.arrow_schema(recipe)
    whole = [{field: None for field in schema.names} | dict(row) for row in rows]
    delta.replace(
        table_uri(settings, recipe, name),
        pa.Table.from_pylist(whole, schema=schema),
        where=delta.predicate(**where) if where else None,
        partition=declared.partition,
    )


def ledger_row(
    table: str,
    date: dt.date,
    rows: int,
    **but: Any,  # noqa: ANN401 - columns
) -> dict[str, Any]:
    """An entry of the ledger; ``details`` go into its report."""
    details = but.pop("details", {})
    report = {"verb": "any", "recipe": "any", "date": str(date), "details": details}
    return {
        "table": table,
        "business_date": date,
        "first_day": date,
        "version": date.toordinal() % 1000,
        "rows": rows,
        "verdict": "ready",
        "inputs": "{}",
        "fingerprint": "0" * 32,
        "report": json.dumps(report),
        **but,
    }


def write_days(settings: Settings, recipe: Recipe, dates: Sequence[dt.date]) -> None:
    """What healthy days leave behind, all of them in one commit a table."""
    entries, measured = [], []
    for date in dates:
        wave = 1 + (date.toordinal() % 7) / 50
        entries += [
            ledger_row(name, date, int(rows * wave)) for name, rows in LEDGER_TABLES.items()
        ]
        measured += [
            {
                "day": date,
                "job": "monitor",
                "name": name,
                "segment": "all",
                "value": value * wave,
                "verdict": "ok",
                "message": "",
            }
            for name, value in MONITOR.items()
        ]
    span = (min(dates), max(dates))
    write(settings, recipe, "ledger", entries, business_date=span)
    write(settings, recipe, "metrics", measured, day=span, job="monitor")


def write_look(
    settings: Settings, recipe: Recipe, date: dt.date, srm: float, advice: str = "go on"
) -> None:
    """A look at the experiment `towels`."""
    look = {
        "experiment": "towels",
        "as_of": date,
        "variant": "soft",
        "day": 12,
        "srm_p_value": srm,
        "advice": advice,
        "is_crossed": False,
        "inputs": "{}",
    }
    write(settings, recipe, "looks", [look], experiment="towels", as_of=date)


def write_publication(settings: Settings, recipe: Recipe, date: dt.date) -> None:
    """A live manifest."""
    row = {
        "as_of": date,
        "scores_version": 3,
        "state": "live",
        "num_rows": 41_000,
        "columns": "as_of,user_id",
        "checksum": "0",
        "model_version": "7",
        "calibrator_version": "7",
        "inputs": "{}",
        "spread": "{}",
        "created": dt.datetime.combine(date, dt.time(6), dt.UTC),
        "valid_until": date + dt.timedelta(days=3),
    }
    write(settings, recipe, "manifests", [row], as_of=date)


TASKS: Mapping[str, tuple[str, ...]] = {
    "daily_aggregation": ("aggregate", "sequences"),
    "data_quality": ("wait_activity", "validate"),
    "batch_scoring": (
        *("wait_sequences", "wait_quality", "prepare_machine", "resolve", "score", "publish"),
        *("export", "shadow", "promote", "release_machine"),
    ),
    "ab_metrics": ("wait_activity", "assign", "measure", "review"),
    "embedding": ("wait_sequences", "prepare_machine", "embed", "release_machine"),
    "retraining": (
        *("wait_sequences", "prepare_machine", "train", "evaluate", "promote", "release_machine"),
    ),
}


def run_id(date: dt.date) -> str:
    """As the runs that :func:`add_runs` adds are called."""
    return f"scheduled__{date + dt.timedelta(days=1)}T02:00:00+00:00"


def add_runs(
    session: Any,  # noqa: ANN401 - SQLAlchemy's
    dag_id: str,
    dates: Sequence[dt.date],
    *,
    states: Mapping[str, str] | None = None,
    conf: Mapping[str, Any] | None = None,
) -> None:
    """Scheduled runs of a DAG that is in the database, with all their tasks, in bulk.

    Args:
        session: Of Airflow's database.
        dag_id: One of ``TASKS``.
        dates: Business dates, each with a run of its own.
        states: Of tasks that did not succeed; the run failed with a task of it.
        conf: Of every run.
    """
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

    states = states or {}
    version = DagVersion.get_latest_version(dag_id, session=session).id
    worst = next((s for s in ("failed", "running") if s in states.values()), "success")
    runs, tasks = [], []
    for date in dates:
        begun = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(2), dt.UTC)
        interval = dt.datetime.combine(date, dt.time(), dt.UTC)
        runs.append(
            {
                "dag_id": dag_id,
                "run_id": run_id(date),
                "run_type": "scheduled",
                "logical_date": interval,
                "data_interval_start": interval,
                "data_interval_end": interval + dt.timedelta(days=1),
                "run_after": begun,
                "queued_at": begun,
                "start_date": begun,
                "end_date": None if worst == "running" else begun + dt.timedelta(hours=2),
                "state": worst,
                "conf": dict(conf or {}),
                "clear_number": 0,
                "created_dag_version_id": version,
            }
        )
        for place, task_id in enumerate(TASKS[dag_id]):
            state = states.get(task_id, "success")
            started = begun + dt.timedelta(minutes=12 * place)
            has_begun = state not in ("upstream_failed", "queued", "scheduled")
            has_ended = has_begun and state != "running"
            tasks.append(
                {
                    "dag_id": dag_id,
                    "run_id": run_id(date),
                    "task_id": task_id,
                    "map_index": -1,
                    "state": state,
                    "start_date": started if has_begun else None,
                    "end_date": started + dt.timedelta(minutes=11) if has_ended else None,
                    "try_number": 1,
                    "max_tries": 2,
                    "pool": "default_pool",
                    "pool_slots": 1,
                    "queue": "default",
                    "priority_weight": 1,
                    "executor_config": {},
                    "dag_version_id": version,
                }
            )
    session.execute(DagRun.__table__.insert(), runs)
    session.execute(TaskInstance.__table__.insert(), tasks)
    session.commit()


def make_database() -> None:
    """Airflow's tables, and the DAGs of this repository in them."""
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    from lumos.settings import REPOSITORY

    initdb()
    with create_session() as session:
        session.merge(DagBundleModel(name="dags-folder"))
    bag = DagBag(
        dag_folder=str(REPOSITORY / "dags"),
        bundle_path=REPOSITORY / "dags",
        bundle_name="dags-folder",
    )
    sync_bag_to_db(bag, "dags-folder", None)
