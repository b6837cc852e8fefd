"""Days and runs of the one real Airflow, and what tests do with them."""

import contextlib
import datetime as dt
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from demo.airflow import LocalAirflow
from demo.client import Run, TaskState
from lumos.cli import run as run_verb
from lumos.delta import read
from lumos.overrides import override
from lumos.recipes import load
from lumos.settings import REPOSITORY, Settings
from lumos.tables import table_uri
from lumos.verbs import Request
from tests.conftest import World
from tests.gym.gym_world import raw

LIVE = [pytest.mark.xdist_group("airflow"), pytest.mark.timeout(1200)]
PATIENCE_SECONDS = 600  # a busy machine is slow; what waits longer is stuck
NEXT_DAY = raw.BUSINESS_DATE + dt.timedelta(days=1)
# Before any row of the gym: of runs that are meant to fail.
ALERTED_DAY, LONG_AGO = dt.date(2017, 12, 10), dt.date(2001, 1, 1)
ALERTED = ("retract_scores", "aa_calibration", "dies", "vanishes", "recovers")
_OWN_DAGS = Path(__file__).parent / "dags"
NUM_SHARDS = 16  # so many commits that one can be in between


def finish(airflow: LocalAirflow, runs: Sequence[Run]) -> list[TaskState]:
    """Wait until all succeeded; on a failure show the log of the task at fault."""
    states = airflow.wait(runs, timeout_seconds=PATIENCE_SECONDS)
    tasks = airflow.tasks(runs)
    for task in tasks:
        if task.state == "failed":
            path, lines = airflow.log(task)
            pytest.fail(f"{task.run.dag_id}.{task.task_id}: {path}\n" + "\n".join(lines[-40:]))
    assert set(states.values()) == {"success"}
    return tasks


def known_dags(airflow: LocalAirflow) -> set[str]:
    """DAGs that can be started."""
    return {dag["dag_id"] for dag in airflow.call("GET", "/dags")["dags"]}


def dag_folder(folder: Path) -> Path:
    """The repository's DAGs and those of the tests, in one folder as Airflow wants them."""
    for source in (REPOSITORY / "dags", _OWN_DAGS):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def rows(settings: Settings, table: str, date: dt.date) -> pa.Table:
    found = read(table_uri(settings, load("gym_world.recipe:recipe"), table))
    assert found is not None
    return found.filter(pa.compute.equal(found["as_of"], pa.scalar(date)))


def kill_amid_its_shards(world: World, killed: threading.Event) -> None:
    """Send -9 to the score process of this Airflow once it has committed, but not all it will."""
    log_folder = Path(table_uri(world.settings, load(world.recipe_name), "forecasts"))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list((log_folder / "_delta_log").glob("*1.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if " -m lumos score " in command and "guard.py" not in command:
                process.kill()
                killed.set()


def published_without_airflow(airflow: LocalAirflow, world: World, home: Path) -> pa.Table:
    """What the same champion gives when nothing disturbs it."""
    places = {"LUMOS_HOME": str(home), "LUMOS_LAKE": str(home / "lake")}
    settings = Settings.from_environment({**airflow.environment, **places})
    recipe = override(load(world.recipe_name), {"scoring.num_shards": NUM_SHARDS})
    for verb in ("score", "publish"):
        request = world.request(verb, recipe=recipe)
        run_verb(Request(**{**dict(request), "settings": settings}))
    return rows(settings, "scores", world.date)
