"""The retraining DAG in the cloud: a real Airflow, real machines, real training, real registry."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.client import Run
from lumos.recipes import load
from lumos.train import tracking
from tests.cloud.deployment import BUCKET, build_wheel, folder_wheel
from tests.cloud.stage import Stage
from tests.cloud.waiting import eventually
from tests.conftest import GYM_FOLDER, RECIPE, World

pytestmark = pytest.mark.timeout(900)
PATIENCE_SECONDS = 600


@pytest.fixture(scope="module")
def stage(_aggregated_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    wheels = [
        build_wheel(folder / "dist"),
        folder_wheel(GYM_FOLDER / "gym_world", folder / "gym_world-1-py3-none-any.whl"),
    ]
    with Stage(
        folder,
        lake=_aggregated_world.home / "lake",
        wheels=wheels,
        recipe=RECIPE,
        machine={"processes": 2, "poll_seconds": 0.5, "market": "spot"},
    ) as stage:
        yield stage


def finish(stage: Stage, run: Run) -> dict[str, str]:
    """Wait; on a failure show the logs of the task at fault."""
    stage.airflow.wait([run], timeout_seconds=PATIENCE_SECONDS)
    tasks = stage.airflow.tasks([run])
    for task in tasks:
        if task.state == "failed":
            path, lines = stage.airflow.log(task)
            pytest.fail(f"{task.task_id}: {path}\n" + "\n".join(lines[-60:]))
    return {task.task_id: task.state for task in tasks}


def test_a_challenger_is_trained_judged_and_promoted_and_nothing_is_left(stage, monkeypatch):
    date = World(Path()).date
    run = stage.airflow.trigger("retraining", date=date)
    states = finish(stage, run)
    assert set(states.values()) == {"success"}
    assert {"train", "evaluate", "promote", "release_machine"} <= set(states)
    report = stage.airflow.xcom(run, "train")
    assert (report["verb"], report["date"]) == ("train", date.isoformat())
    champion = tracking.version_of(stage.settings, load(RECIPE), "champion")
    assert champion == str(report["tables"][0]["version"])
    assert eventually(lambda: stage.aws.alive() == [], 20)
    left = stage.aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="lumos/train/")
    # pyarrow leaves the empty objects that stand for folders.
    assert [each["Key"] for each in left.get("Contents", ()) if not each["Key"].endswith("/")] == []
    assert dt.date.fromisoformat(report["date"]) == date


def test_no_dag_has_an_import_error_and_the_reaper_is_there(stage):
    assert stage.airflow.call("GET", "/importErrors")["import_errors"] == []
    assert "instance_reaper" in {
        dag["dag_id"] for dag in stage.airflow.call("GET", "/dags")["dags"]
    }
