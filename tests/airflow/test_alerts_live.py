"""Alerts of a real Airflow: whichever of its processes notices, each trouble is told once."""

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import demo.airflow
from demo.airflow import LocalAirflow
from lumos.delta import read
from lumos.settings import REPOSITORY
from tests.airflow.sinks import PASSWORD, TOKEN, Sinks, sinks

pytestmark = pytest.mark.timeout(300)

DAY = dt.date(2017, 12, 10)
PATIENCE_SECONDS = 60
# A task that dies without a word, one whose supervisor is lost with it, and one that a retry mends.
PERISHING = """
import os
import signal

from airflow.sdk import DAG, task
from lumos_airflow import form
from lumos_airflow.deadlines import watched


@task(retries=0)
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(retries=0)
def lost() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@task(retries=1)
def flaky(ti=None) -> None:
    if ti.try_number == 1:
        raise OSError("once only")


for name, what in (("dies", killed), ("vanishes", lost), ("recovers", flaky)):
    with DAG(
        dag_id=name,
        schedule=None,
        start_date=form.START,
        default_args=form.defaults(),
        params=form.form(),
        **watched(name),
    ):
        what()
"""
DAGS = ("retract_scores", "aa_calibration", "dies", "vanishes", "recovers")


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sinks]:
    with sinks(tmp_path_factory.mktemp("sink")) as found:
        yield found


@pytest.fixture(scope="module")
def airflow(sink: Sinks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    folder = tmp_path_factory.mktemp("alerts")
    (folder / "dags").mkdir()
    for name in ("retract_scores", "aa_calibration"):
        shutil.copy(REPOSITORY / "dags" / f"{name}.py", folder / "dags")
    (folder / "dags" / "perishing.py").write_text(PERISHING)
    environment = {
        **os.environ,
        **sink.environment,
        "LUMOS_RECIPE": "complete_journey",
        "LUMOS_RETRY_SECONDS": "0.5",
        "LUMOS_DEADLINES": "aa_calibration=0.001",
    }
    environment.pop("LUMOS_LAKE", None)
    settings = {
        "CORE__DAGS_FOLDER": str(folder / "dags"),
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "5",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo.airflow, "DAGS", DAGS)  # those it waits for
        with LocalAirflow(folder / "home", environment=environment, settings=settings) as running:
            yield running


def eventually(what: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < until, f"not within {PATIENCE_SECONDS} s"
        time.sleep(0.2)


def told(sink: Sinks, name: str) -> list[str]:
    """Slack's messages that lead to a section of the runbook."""
    seen = [json.dumps(message) for message in sink.slack]
    return [text for text in seen if f"/lumos/runbook#{name}|" in text]


def test_each_trouble_is_told_once_whichever_process_notices_it(airflow, sink):
    runs = {name: airflow.trigger(name, date=DAY) for name in DAGS}
    names = ("retract", "late-aa-calibration", "killed", "lost")
    eventually(lambda: all(told(sink, name) for name in names))
    failed = [runs[name] for name in ("retract_scores", "dies", "vanishes")]
    states = airflow.wait([*failed, runs["recovers"]], timeout_seconds=PATIENCE_SECONDS)
    assert states[runs["recovers"]] == "success"
    assert {states[run] for run in failed} == {"failed"}
    # The callbacks of the runs find it told; that of `dies` is the only one that could tell.
    for echo in ("retract_scores/{}/retract", "vanishes/{}/lost"):
        eventually(lambda echo=echo: f"{echo.format(DAY)} was sent already" in logged(airflow))
    assert {name: len(told(sink, name)) for name in names} == dict.fromkeys(names, 1)
    assert len(sink.slack) == len(sink.mails) == len(names)
    assert sink.pagerduty == []  # runs by hand page nobody

    (refused,) = told(sink, "retract")
    assert "bad input, which a retry cannot mend" in refused
    assert f"{airflow.url}/dags/retract_scores/runs/" in refused
    assert "try_number=1" in refused  # at once, no retry
    (late,) = told(sink, "late-aa-calibration")
    assert "not done by" in late
    for dead in ("killed", "lost"):
        assert "without a word" in told(sink, dead)[0]

    rows = read(f"{airflow.home}/lake/alerts").to_pylist()
    assert {row["name"]: row["count"] for row in rows} == dict.fromkeys(names, 1)
    assert {row["business_date"] for row in rows} == {DAY.isoformat()}


def logged(airflow: LocalAirflow) -> str:
    """All logs of tasks and components."""
    return "".join(
        path.read_text(errors="replace")
        for path in Path(airflow.airflow_home).rglob("*.log")
        if path.is_file()
    )


def test_nothing_secret_stands_in_any_log(airflow, sink):
    text = logged(airflow)
    assert "told slack" in text
    assert TOKEN not in text
    assert PASSWORD not in text
