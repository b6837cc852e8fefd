"""A real Airflow around the emulator: what deferral, its store and its kills really do."""

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import demo.airflow
from demo.airflow import LocalAirflow
from demo.client import Run
from tests.databricks.deployment import BUCKET, CLUSTER, cloud_file
from tests.databricks.workspace import Workspace

pytestmark = pytest.mark.timeout(600)
PATIENCE_SECONDS = 90


@pytest.fixture(scope="module")
def airflow(
    workspace: Workspace,
    aws: dict[str, str],
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalAirflow]:
    folder = tmp_path_factory.mktemp("scheduler")
    path = cloud_file(
        folder,
        [wheel],
        databricks={"cluster": CLUSTER, "poll_seconds": 1},
        environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )
    found = LocalAirflow(folder / "home", environment={**os.environ, **aws})
    found.environment |= workspace.environment | {
        "AIRFLOW_CONN_AWS_DEFAULT": '{"conn_type": "aws"}',
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).with_name("dags")),
        "LUMOS_CLOUD": str(path),
        "LUMOS_LAKE": f"s3://{BUCKET}/lake",
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo.airflow, "DAGS", ("verbs",))  # those it waits for
        with found:
            yield found


def eventually(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_SECONDS} s")


def begin(airflow: LocalAirflow, *settings: str) -> Run:
    """Start a run and wait until its task is deferred."""
    run = airflow.trigger("verbs", date=dt.date(2024, 5, 10), conf={"settings": list(settings)})
    eventually(lambda: state(airflow, run) == "deferred")
    return run


def wait_for_trigger(workspace: Workspace, run: Run) -> None:
    """Until a triggerer looks at the run: before that, nothing hears of a kill."""

    def looks() -> int:
        return sum(each["looks"] for each in runs_of(workspace, run))

    before = looks()  # by the worker, which has left
    eventually(lambda: looks() > before + 1)


def state(airflow: LocalAirflow, run: Run) -> str:
    return airflow.tasks([run])[0].state


def runs_of(workspace: Workspace, run: Run) -> list[dict]:
    return [each for each in workspace.runs() if run.run_id in each["request"]["run_name"]]


def test_a_triggerer_killed_and_started_again_goes_on_with_the_run(airflow, workspace):
    run = begin(airflow, "seconds=8")
    path = f"/dags/verbs/dagRuns/{run.run_id}/taskInstances/sequences/links"
    (asked,) = runs_of(workspace, run)
    links = airflow.call("GET", path)["extra_links"]
    assert links["Databricks run"].endswith(f"/run/{asked['run_id']}")
    airflow.crash("triggerer")
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "success"}
    assert airflow.xcom(run, "sequences")["verb"] == "sequences"
    assert len(runs_of(workspace, run)) == 1


def test_a_waiting_task_marked_failed_leaves_no_process_and_cleared_runs_anew(
    airflow, workspace, tmp_path
):
    started = tmp_path / "pid"
    run = begin(airflow, "first_seconds=300", f"memory={tmp_path / 'ran'}", f"started={started}")
    pid = int(eventually(lambda: started.exists() and started.read_text()))
    wait_for_trigger(workspace, run)
    path = f"/dags/verbs/dagRuns/{run.run_id}/taskInstances/sequences"
    airflow.call("PATCH", path, json={"new_state": "failed"})
    eventually(lambda: not psutil.pid_exists(pid))
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "failed"}
    clear = {"dag_run_id": run.run_id, "dry_run": False, "only_failed": True}
    airflow.call("POST", "/dags/verbs/clearTaskInstances", json=clear)
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "success"}
    assert len(runs_of(workspace, run)) == 2


def test_a_fault_is_tried_again_by_airflow_as_another_run(airflow, workspace, tmp_path):
    run = begin(airflow, f"memory={tmp_path / 'ran'}", "first_code=1", "first_seconds=3")
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "success"}
    assert len(runs_of(workspace, run)) == 2
