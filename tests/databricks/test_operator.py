import asyncio
import datetime as dt
import re
import time
from pathlib import Path

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from lumos_airflow.links.databricks import DatabricksRunLink

from tests.databricks.deployment import CLUSTER, Task, again, fire, runs_of, stand_in_wheel


@pytest.fixture
def task(request) -> Task:
    """Named for its test, so that no other test's runs are found by its tokens."""
    return Task(run_id=f"scheduled__{request.node.nodeid}")


def fault(raised) -> bool:
    """Whether Airflow would try again."""
    return not isinstance(raised.value, AirflowFailException)


def test_a_verb_runs_on_its_cluster_and_its_report_is_the_result(deployed, task):
    report = task.run()
    assert (report["verb"], report["date"]) == ("sequences", "2024-05-10")
    (run,) = runs_of(deployed, task)
    (asked,) = run["request"]["tasks"]
    assert {name: asked["new_cluster"][name] for name in CLUSTER} == CLUSTER
    (library,) = asked["libraries"]
    assert re.fullmatch(r"s3://acme-lumos/lumos/code/[0-9a-f]{64}/lumos-.*whl", library["whl"])
    environment = report["details"]["environment"]
    assert environment["LUMOS_LAKE"] == "s3://acme-lumos/lake"
    assert environment["LUMOS_RECIPE"] == "complete_journey"
    assert run["request"]["timeout_seconds"] == 2.5 * 3600


def test_the_run_s_page_is_one_click_away_while_it_runs(deployed, task):
    task.does = ["seconds=1"]
    assert isinstance(task.start(), TaskDeferred)
    (run,) = runs_of(deployed, task)
    assert task.pushed["run_page_url"].endswith(f"/run/{run['run_id']}")
    assert task.pushed[DatabricksRunLink().xcom_key] == task.pushed["run_page_url"]


def test_the_run_s_log_ends_up_in_the_task_s_log(deployed, task, capsys):
    task.run()
    log = capsys.readouterr().out
    assert "the stand-in of lumos sequences starts" in log
    assert "LUMOS-ENDED" not in log
    assert "read it live on that page" in log


@pytest.mark.parametrize(("code", "sentence"), [(2, "bad input"), (3, "gate of lumos sequences")])
def test_bad_input_and_a_refusing_gate_are_neither_a_success_nor_tried_again(
    deployed, task, code, sentence
):
    task.does = [f"code={code}", "error=the rows of 2024-05-10 are missing"]
    with pytest.raises(AirflowFailException, match=sentence) as raised:
        task.run()
    assert "the rows of 2024-05-10 are missing" in str(raised.value)
    # Delivered once more, it says the same without another run.
    task.try_number = 2
    with pytest.raises(AirflowFailException, match=sentence):
        task.run()
    assert len(runs_of(deployed, task)) == 1


def test_an_entry_point_that_only_returns_its_code_is_no_success(deploy, workspace, task, tmp_path):
    deploy(wheels=[stand_in_wheel(tmp_path / "returns", entry_point="lumos.cli:returns")])
    with pytest.raises(AirflowFailException, match="says success, but its output has no report"):
        task.run()
    assert runs_of(workspace, task)[0]["state"]["result_state"] == "SUCCESS"


def test_a_retry_after_a_fault_is_another_run(deployed, task, tmp_path):
    task.does = [f"memory={tmp_path / 'ran'}", "first_code=1", "error=S3 was slow"]
    with pytest.raises(AirflowException, match="exit code 1: S3 was slow") as raised:
        task.run()
    assert fault(raised)
    task.try_number = 2
    assert task.run()["verb"] == "sequences"
    assert len(runs_of(deployed, task)) == 2


def test_a_retry_after_a_fault_is_another_run_even_if_nothing_is_remembered(
    deployed, task, tmp_path
):
    task.does = [f"memory={tmp_path / 'ran'}", "first_code=1"]
    with pytest.raises(AirflowException):
        task.run()
    task.try_number = 2
    task.store.clear()
    assert task.run()["verb"] == "sequences"
    assert len(runs_of(deployed, task)) == 2


@pytest.mark.parametrize("remembers", [True, False])
def test_a_retry_after_a_crash_goes_on_with_the_run_that_is_there(deployed, task, remembers):
    task.does = ["seconds=1.5"]
    assert isinstance(task.start(), TaskDeferred)
    task.try_number = 2
    if not remembers:  # it died between submitting and writing it down
        task.store.clear()
    assert task.run()["verb"] == "sequences"
    task.try_number = 3  # and finds the end of it, too
    assert task.run()["verb"] == "sequences"
    assert len(runs_of(deployed, task)) == 1


def test_a_cleared_task_runs_anew(deployed, task):
    task.run()
    task.clear()
    task.run()
    assert len(runs_of(deployed, task)) == 2


def test_a_cleared_task_ends_its_former_run_before_another_writes_the_same_table(
    deployed, task, tmp_path
):
    task.does = ["seconds=60", f"started={tmp_path / 'pid'}"]
    assert isinstance(task.start(), TaskDeferred)
    pid = wait_for(tmp_path / "pid")
    # Airflow has told nobody: no triggerer had its trigger yet.
    task.clear()
    task.does = []
    assert task.run()["verb"] == "sequences"
    assert is_gone(pid)
    first, second = runs_of(deployed, task)
    assert first["state"]["result_state"] == "CANCELED"
    assert second["state"]["result_state"] == "SUCCESS"


def test_a_run_whose_cluster_was_lost_is_repaired(deployed, task):
    deployed.plan({"run": "internal_error", "times": 1}, {"run": "driver_lost", "times": 1})
    assert task.run()["verb"] == "sequences"
    (run,) = runs_of(deployed, task)
    assert (run["repairs"], run["attempts"]) == (2, 3)


def test_a_cluster_that_is_lost_again_and_again_is_a_fault_and_then_another_run(deployed, task):
    deployed.plan({"run": "internal_error", "times": 3})
    with pytest.raises(AirflowException, match=r"CLOUD_FAILURE.*instances were lost") as raised:
        task.run()
    assert fault(raised)
    task.try_number = 2
    assert task.run()["verb"] == "sequences"
    assert [run["repairs"] for run in runs_of(deployed, task)] == [2, 0]


def test_a_repair_that_is_refused_is_a_fault_and_then_another_run(deployed, task):
    deployed.plan({"run": "internal_error", "times": 1})
    deployed.plan({"path": "runs/repair", "status": 400, "times": 1})
    with pytest.raises(AirflowException, match="instances were lost") as raised:
        task.run()
    assert fault(raised)
    task.try_number = 2
    assert task.run()["verb"] == "sequences"
    assert [run["repairs"] for run in runs_of(deployed, task)] == [0, 0]


def test_a_verb_s_own_failure_is_never_repaired(deployed, task):
    task.does = ["code=1"]
    with pytest.raises(AirflowException):
        task.run()
    (run,) = runs_of(deployed, task)
    assert run["state"]["life_cycle_state"] == "INTERNAL_ERROR"  # so Databricks calls it
    assert run["repairs"] == 0


def wait_for(path: Path) -> int:
    for _ in range(200):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(path)


def is_gone(pid: int) -> bool:
    for _ in range(200):
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_task_killed_while_it_waits_leaves_no_process(deployed, task, tmp_path):
    task.does = ["seconds=60", f"started={tmp_path / 'pid'}"]
    deferred = task.start()
    pid = wait_for(tmp_path / "pid")
    asyncio.run(again(deferred).on_kill())
    assert is_gone(pid)
    assert fire(deferred)["what"] == "ended"
    assert runs_of(deployed, task)[0]["state"]["result_state"] == "CANCELED"


def test_a_task_killed_while_it_submits_leaves_no_process(deployed, task, tmp_path, monkeypatch):
    task.does = ["seconds=60", f"started={tmp_path / 'pid'}"]
    operator = task.operator()
    with monkeypatch.context() as patched:
        # The answer is lost: Databricks has the run, the worker not its id.
        lost = operator._runs.submit
        patched.setattr(operator._runs, "submit", lambda request: lost(request) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            operator.execute(task.context(operator))
    pid = wait_for(tmp_path / "pid")
    operator.on_kill()
    assert is_gone(pid)
    assert len(runs_of(deployed, task)) == 1


def test_a_run_over_its_budget_is_cancelled_and_the_next_try_is_another(deployed, task, tmp_path):
    task.does = [f"started={tmp_path / 'pid'}", "seconds=60"]
    deferred = task.start()
    pid = wait_for(tmp_path / "pid")
    event = fire(deferred, deadline=dt.datetime.now(dt.UTC).isoformat())
    assert event["what"] == "timeout"
    assert is_gone(pid)
    with pytest.raises(AirflowException, match="took longer than 2 h and was cancelled") as raised:
        task.go_on(event)
    assert fault(raised)
    task.try_number, task.does = 2, [f"started={tmp_path / 'pid'}"]
    # Its arguments differ, so the token alone must tell the attempts apart.
    assert task.run()["verb"] == "sequences"


def test_a_throttled_and_failing_api_is_asked_again(deployed, task, capsys):
    task.does = ["seconds=1"]
    deferred = task.start()
    # More than the hook's own three attempts can bear.
    deployed.plan({"path": "runs/get", "status": 429, "times": 3})
    event = fire(deferred)
    deployed.plan({"path": "runs/get-output", "status": 503, "times": 1})
    assert event["what"] == "ended"
    assert task.go_on(event)["verb"] == "sequences"
    assert "looking again" in capsys.readouterr().out


def test_a_run_is_not_called_late_while_nobody_can_ask_for_its_end(deployed, task, monkeypatch):
    monkeypatch.setattr("lumos_airflow.triggers.databricks._CANCEL_SECONDS", 0.0)
    task.overrides = ["seconds=1"]
    deferred = task.start()
    deployed.plan({"path": "runs/get", "status": 503, "times": 3})
    event = fire(deferred, deadline=dt.datetime.now(dt.UTC).isoformat())
    assert (event["what"], event["why"]) != ("timeout", "it was asked to end, and has not")
    runs = runs_of(deployed, task)
    assert runs[0]["state"]["life_cycle_state"] in ("TERMINATED", "INTERNAL_ERROR")


def test_a_run_that_a_person_cancelled_says_so(deployed, task, tmp_path):
    task.does = ["seconds=60", f"started={tmp_path / 'pid'}"]
    deferred = task.start()
    wait_for(tmp_path / "pid")
    task.operator()._runs.cancel(runs_of(deployed, task)[0]["run_id"])
    with pytest.raises(AirflowException, match=r"was cancelled there.*mark the task failed"):
        task.go_on(fire(deferred))
