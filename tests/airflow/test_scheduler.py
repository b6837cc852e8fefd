"""The DAGs through a real scheduler, on the tiny world: the daily path as on-call sees it."""

import datetime as dt
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pytest

from demo.airflow import LocalAirflow
from demo.client import Run, TaskState
from lumos import ledger
from lumos.delta import read
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri
from tests.conftest import World
from tests.gym.gym_world import raw

pytestmark = pytest.mark.timeout(1200)

NEXT_DAY = raw.BUSINESS_DATE + dt.timedelta(days=1)
DAILY = ("daily_aggregation", "data_quality", "batch_scoring", "embedding", "ab_metrics")
PATIENCE_SECONDS = 900


@pytest.fixture(scope="module")
def world(_raw_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    copied = _raw_world.copy(tmp_path_factory.mktemp("scheduler") / "home")
    return World(copied.home, "gym_world.recipe:recipe_of_two_mornings")


@pytest.fixture(scope="module")
def airflow(world: World) -> Iterator[LocalAirflow]:
    environment = {**world.environment, "LUMOS_RETRY_SECONDS": "1"}
    with LocalAirflow(world.home, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def first_day(airflow: LocalAirflow, world: World) -> dict[str, Run]:
    """Four for one date, triggered at once where their waits let them flow."""
    days = {"days": raw.NUM_DAYS_TO_BUSINESS_DATE}
    runs = {
        dag: airflow.trigger(dag, date=world.date, conf=conf)
        for dag, conf in (
            ("daily_aggregation", days),
            ("retraining", {}),
            ("data_quality", {}),
            ("ab_metrics", {}),
        )
    }
    finish(airflow, list(runs.values()))
    return runs


def finish(airflow: LocalAirflow, runs: list[Run]) -> list[TaskState]:
    """Wait; on a failure show the log of the task at fault."""
    states = airflow.wait(runs, timeout_seconds=PATIENCE_SECONDS)
    tasks = airflow.tasks(runs)
    for task in tasks:
        if task.state == "failed":
            path, lines = airflow.log(task)
            pytest.fail(f"{task.run.dag_id}.{task.task_id}: {path}\n" + "\n".join(lines[-40:]))
    assert set(states.values()) == {"success"}
    return tasks


def rows(settings: Settings, table: str, date: dt.date) -> pa.Table:
    found = read(table_uri(settings, load("gym_world.recipe:recipe"), table))
    assert found is not None
    return found.filter(pa.compute.equal(found["as_of"], pa.scalar(date)))


def kill_amid_its_shards(world: World, killed: threading.Event) -> None:
    """Send -9 to the score process of this lake once it has committed, but not all it will."""
    log_folder = Path(table_uri(world.settings, load(world.recipe_name), "forecasts"))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list((log_folder / "_delta_log").glob("*1.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[1:4] != ["-m", "lumos", "score"]:
            continue
        if process.environ().get("LUMOS_HOME") == str(world.home):
            process.kill()
            killed.set()


def published_without_airflow(world: World, *settings: str) -> pa.Table:
    """What the same champion gives when nothing disturbs it."""
    for verb in ("score", "publish"):
        subprocess.run(
            [
                *(sys.executable, "-m", "lumos", verb, f"--date={world.date}"),
                *(f"--set={setting}" for setting in settings),
            ],
            env=world.environment,
            check=True,
        )
    return rows(world.settings, "scores", world.date)


def test_a_score_task_killed_with_9_is_retried_and_publishes_the_same_rows(
    airflow, world, first_day, tmp_path
):
    shards = "scoring.num_shards=16"  # so many commits that one can be in between
    undisturbed = published_without_airflow(world.copy(tmp_path / "home"), shards)
    killed = threading.Event()
    killer = threading.Thread(target=kill_amid_its_shards, args=(world, killed))
    killer.start()
    scoring = airflow.trigger("batch_scoring", date=world.date, conf={"settings": [shards]})
    tasks = finish(airflow, [scoring])
    killer.join()
    assert killed.is_set()
    tries = {task.task_id: task.try_number for task in tasks}
    assert (tries["score"], tries["publish"]) == (2, 1)
    said = airflow.xcom(scoring, "score")["details"]
    assert said["num_shards"] == len(said["shards"]) == 16
    assert 0 < said["num_shards_done_before"] <= 16
    assert sum(said["shards"]) == rows(world.settings, "forecasts", world.date).num_rows
    keys = [("user_id", "ascending"), *_other_keys(undisturbed)]
    assert undisturbed.num_rows > 0
    assert (
        rows(world.settings, "scores", world.date).sort_by(keys).equals(undisturbed.sort_by(keys))
    )


def _other_keys(table: pa.Table) -> list[tuple[str, str]]:
    return [(name, "ascending") for name in ("task", "horizon_day") if name in table.column_names]


def test_a_backfill_of_the_next_day_publishes_it(airflow, world, first_day):
    runs = []
    for dag in DAILY:
        runs += airflow.backfill(dag, NEXT_DAY, NEXT_DAY)
    assert {run.date for run in runs} == {NEXT_DAY}
    tasks = finish(airflow, runs)
    # Nobody is challenger beside the champion, and the gym has no stores.
    skipped = {task.task_id for task in tasks if task.state == "skipped"}
    assert skipped == {"export", "shadow", "promote"}
    assert {task.state for task in tasks} == {"success", "skipped"}
    recipe = load("gym_world.recipe:recipe")
    for table in ("activity", "sequences", "quality", "manifests", "embeddings", "effects"):
        entry = ledger.find(world.settings, recipe, table, NEXT_DAY)
        assert entry is not None, table
        assert entry.verdict == ledger.READY
    assert rows(world.settings, "scores", NEXT_DAY).num_rows > 0


def test_the_task_log_names_the_business_date_first_and_streams_the_verb(airflow, world, first_day):
    task = next(
        task
        for task in airflow.tasks([first_day["daily_aggregation"]])
        if task.task_id == "aggregate"
    )
    _, lines = airflow.log(task)
    said = [line for line in lines if "::" not in line]
    business_date = next(n for n, line in enumerate(said) if "business date" in line)
    assert f"business date {world.date}, recipe gym_world.recipe:recipe" in said[business_date]
    assert any("-m lumos aggregate" in line for line in said[business_date:])


def test_training_leaves_no_scratch_folder_behind(world, first_day):
    assert list((world.home / "scratch").iterdir()) == []


def test_a_run_that_cannot_be_mended_by_a_retry_is_not_retried(airflow, first_day):
    long_ago = dt.date(2001, 1, 1)
    run = airflow.trigger("daily_aggregation", date=long_ago)
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS)[run] == "failed"
    task = next(task for task in airflow.tasks([run]) if task.task_id == "aggregate")
    assert (task.state, task.try_number) == ("failed", 1)
    _, lines = airflow.log(task)
    assert any("bad input, which a retry cannot mend" in line for line in lines)


def test_the_page_of_an_experiment_is_for_who_has_logged_in(airflow, first_day):
    run = first_day["ab_metrics"]
    task = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/review"
    page = airflow.call("GET", f"{task}/links")["extra_links"]["Experiment page"]
    with httpx.Client(base_url=airflow.url) as browser:
        assert browser.get(page).status_code == 401
        who = {"username": "admin", "password": airflow.password}
        token = browser.post("/auth/token", json=who).json()["access_token"]
        browser.cookies.set("_token", token)
        shown = browser.get(page)
        assert (shown.status_code, "towels_aa" in shown.text) == (200, True)
        assert (
            browser.get(page.replace("index.html", "%2e%2e/%2e%2e/index.html")).status_code == 404
        )


def test_no_dag_has_an_import_error(airflow):
    assert airflow.call("GET", "/importErrors")["import_errors"] == []
