"""A real Airflow around the emulator: what deferral, its store and its kills really do."""

import datetime as dt

import psutil
import pytest

from demo.client import Run
from tests.cloud.waiting import eventually
from tests.live.night import LIVE, PATIENCE_SECONDS

pytestmark = LIVE


@pytest.fixture
def workspace(live_workspace, begun):
    """The workspace, while all else goes on."""
    return live_workspace


def begin(airflow, *does: str) -> Run:
    """Start a run and wait until its task is deferred."""
    run = airflow.trigger("verbs", date=dt.date(2024, 5, 10), conf={"does": list(does)})
    eventually(lambda: state(airflow, run) == "deferred", PATIENCE_SECONDS)
    return run


def wait_for_trigger(workspace, run: Run) -> None:
    """Until a triggerer looks at the run: before that, nothing hears of a kill."""

    def looks() -> int:
        return sum(each["looks"] for each in runs_of(workspace, run))

    before = looks()  # by the worker, which has left
    eventually(lambda: looks() > before + 1, PATIENCE_SECONDS)


def state(airflow, run: Run) -> str:
    return airflow.tasks([run])[0].state


def runs_of(workspace, run: Run) -> list[dict]:
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
    run = begin(airflow, "first_seconds=3000", f"memory={tmp_path / 'ran'}", f"started={started}")
    pid = int(eventually(lambda: started.exists() and started.read_text(), PATIENCE_SECONDS))
    wait_for_trigger(workspace, run)
    path = f"/dags/verbs/dagRuns/{run.run_id}/taskInstances/sequences"
    airflow.call("PATCH", path, json={"new_state": "failed"})
    eventually(lambda: not psutil.pid_exists(pid), PATIENCE_SECONDS)
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "failed"}
    clear = {"dag_run_id": run.run_id, "dry_run": False, "only_failed": True}
    airflow.call("POST", "/dags/verbs/clearTaskInstances", json=clear)
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "success"}
    assert len(runs_of(workspace, run)) == 2


def test_a_fault_is_tried_again_by_airflow_as_another_run(airflow, workspace, tmp_path):
    run = begin(airflow, f"memory={tmp_path / 'ran'}", "first_code=1", "first_seconds=3")
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "success"}
    assert len(runs_of(workspace, run)) == 2
