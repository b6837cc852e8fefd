"""The retraining DAG in the cloud: a real Airflow, real machines, real training, real registry."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.client import Run, TaskState
from lumos.recipes import load
from lumos.train import tracking
from tests.cloud.deployment import BUCKET, build_wheel, folder_wheel
from tests.cloud.stage import Stage
from tests.cloud.waiting import eventually
from tests.conftest import GYM_FOLDER, RECIPE, World

# Beside the other Airflow both would wait for the cores.
pytestmark = [pytest.mark.xdist_group("airflow"), pytest.mark.timeout(900)]
PATIENCE_SECONDS = 600
DATE = World(Path()).date


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


@pytest.fixture(scope="module")
def run(stage: Stage) -> Run:
    """A run amid which the triggerer, then the scheduler with its workers, is killed with -9."""
    # Each epoch reads the lake through the bucket's server, which shares these cores.
    conf = {"settings": ["training.epochs=6"]}
    run = stage.airflow.trigger("retraining", date=DATE, conf=conf)
    eventually(lambda: training(stage), 120)
    stage.airflow.crash("triggerer")
    stage.airflow.crash("scheduler")
    assert training(stage)
    stage.airflow.wait([run], timeout_seconds=PATIENCE_SECONDS)
    for task in stage.airflow.tasks([run]):
        if task.state == "failed":
            path, lines = stage.airflow.log(task)
            pytest.fail(f"{task.task_id}: {path}\n" + "\n".join(lines[-60:]))
    return run


def training(stage: Stage) -> bool:
    """Whether ranks run on a machine."""
    return any(
        "train" in line.split()
        for instance in stage.aws.alive()
        for line in stage.aws.command_lines(instance.id)
    )


def test_a_challenger_is_trained_judged_and_promoted_whoever_dies_meanwhile(stage, run):
    states = {task.task_id: task.state for task in stage.airflow.tasks([run])}
    assert set(states.values()) == {"success"}
    assert set(states) == {
        *("wait_sequences", "prepare_machine", "train", "evaluate", "promote", "release_machine")
    }
    report = stage.airflow.xcom(run, "train")
    assert (report["verb"], report["date"]) == ("train", DATE.isoformat())
    champion = tracking.version_of(stage.settings, load(RECIPE), "champion")
    assert champion == str(report["tables"][0]["version"])


def test_one_machine_trained_and_one_judged_and_none_is_left(stage, run):
    assert eventually(lambda: not stage.aws.alive())
    assert len(stage.aws.instances()) == 2
    assert set(stage.aws.most_running("-m lumos (train|evaluate)").values()) == {1}


def test_nothing_of_a_finished_training_is_left_in_the_bucket(stage, run):
    found = stage.aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="lumos/train/")
    # pyarrow leaves the empty objects that stand for folders.
    assert [o["Key"] for o in found.get("Contents", ()) if not o["Key"].endswith("/")] == []


def test_the_log_of_the_machine_is_in_the_log_of_the_task(stage, run):
    (train,) = [task for task in stage.airflow.tasks([run]) if task.task_id == "train"]
    said = whole_log(stage, train)
    for line in ("at most 96 h", "launch 0: i-", "epoch 1/", "command "):
        assert line in said, line
    for secret in ("nothing", "a-token"):
        assert f"'{secret}'" not in said


def whole_log(stage: Stage, task: TaskState) -> str:
    """As the UI shows it: the worker's parts and the triggerer's."""
    path = f"/dags/{task.run.dag_id}/dagRuns/{task.run.run_id}/taskInstances/{task.task_id}/logs"
    return json.dumps(
        [stage.airflow.call("GET", f"{path}/{number}") for number in range(1, task.try_number + 1)]
    )


def test_promoting_is_a_run_on_databricks(stage, run):
    (promoted,) = stage.workspace.runs()
    assert "promote" in json.dumps(promoted)


def test_no_dag_has_an_import_error_and_the_reaper_is_there(stage):
    assert stage.airflow.call("GET", "/importErrors")["import_errors"] == []
    found = {dag["dag_id"] for dag in stage.airflow.call("GET", "/dags")["dags"]}
    assert "instance_reaper" in found
