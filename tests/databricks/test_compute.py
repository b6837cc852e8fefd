from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tests.databricks.deployment import CLUSTER, Task, runs_of


@pytest.fixture
def task(request) -> Task:
    return Task(run_id=f"scheduled__{request.node.nodeid}")


def test_a_missing_connection_says_how_to_make_it(deployed, task, monkeypatch):
    monkeypatch.setattr(
        "airflow.sdk.execution_time.context._get_connection", _no_connection, raising=True
    )
    monkeypatch.delenv("AIRFLOW_CONN_DATABRICKS_DEFAULT")
    with pytest.raises(AirflowFailException, match="airflow connections add databricks_default"):
        task.operator()._runs.look(1)


def _no_connection(conn_id: str):
    from airflow.sdk.exceptions import AirflowNotFoundException

    raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        ({"status": 401}, AirflowFailException, "token is wrong or has expired"),
        ({"status": 403}, AirflowFailException, "PERMISSION_DENIED.*allow its user to create"),
        ({"status": 429, "times": 3}, AirflowException, "cannot submit the run"),
    ],
)
def test_what_databricks_refuses_is_a_sentence_with_a_remedy(deployed, task, fault, kind, sentence):
    deployed.plan({"path": "runs/submit", "times": 1, **fault})
    with pytest.raises(AirflowException, match=sentence) as raised:
        task.run()
    assert type(raised.value) is kind
    assert runs_of(deployed, task) == []


def test_a_refused_cluster_names_the_file_to_correct(deploy, workspace, task):
    deploy(databricks={"cluster": {"num_workers": 1}})
    with pytest.raises(AirflowFailException, match=r"spark_version.*correct \[databricks\]"):
        task.run()


def test_what_databricks_cannot_reach_is_refused_before_anything_runs(deploy, task, monkeypatch):
    deploy()
    monkeypatch.setenv("LUMOS_LAKE", "/data/lake")
    with pytest.raises(AirflowFailException, match="is on this host alone"):
        task.run()


def test_a_verb_without_spark_gets_the_small_cluster(deploy, workspace, task):
    small = {**CLUSTER, "num_workers": 0}
    deploy(databricks={"cluster": CLUSTER, "small": small})
    task.arguments = {"needs_spark": False}
    task.run()
    (run,) = runs_of(workspace, task)
    assert run["request"]["tasks"][0]["new_cluster"]["num_workers"] == 0


def test_serverless_compute_gets_wheels_and_variables_in_its_own_way(deploy, workspace, task):
    deploy(databricks={"environment": {"environment_version": "4", "dependencies": ["numpy"]}})
    report = task.run()
    assert report["details"]["environment"]["LUMOS_LAKE"] == "s3://acme-lumos/lake"
    (run,) = runs_of(workspace, task)
    (environment,) = run["request"]["environments"]
    first, wheel = environment["spec"]["dependencies"]
    assert first == "numpy"
    assert wheel.startswith("/Workspace/Users/minilake-user/lumos/code/")
    assert "libraries" not in run["request"]["tasks"][0]
    assert Path(wheel).name == "lumos-0.1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("library", "let the cluster read the bucket"), ("cluster", "correct databricks.cluster")],
)
def test_compute_that_a_person_must_mend_is_not_tried_again(deployed, task, kind, sentence):
    deployed.plan({"run": kind, "times": 1})
    with pytest.raises(AirflowFailException, match=sentence):
        task.run()
