"""MLflow may be away at any epoch's end: training goes on, and every metric arrives once."""

import logging
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from lumos.train import epoch_log
from lumos.train.epoch_log import EpochLog
from lumos.train.tracking import Run

EPOCHS = tuple({"loss": 1.0 / (number + 1)} for number in range(6))


class Server:
    """MLflow as far as epochs are concerned; the plan says what becomes of each call."""

    def __init__(self, plan: list[str]) -> None:
        self.plan, self.batches = list(plan), []

    def get_metric_history(self, _run: str, _name: str) -> list[Any]:
        self._meet("away")
        return self.batches

    def log_batch(self, _run: str, *, metrics: list[Any]) -> None:
        fate = self._meet("away")
        self.batches.append({(each.key, each.step): each.value for each in metrics})
        if fate == "answer lost":
            raise MlflowException(fate)

    def _meet(self, failing: str) -> str:
        fate = self.plan.pop(0) if self.plan else "ok"
        if fate == failing:
            raise MlflowException(fate)
        return fate


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_log, "_PAUSE_SECONDS", 0.001)


def a_run(server: Any) -> Run:
    return Run(client=server, settings=None, recipe=None, fingerprint="f", run_id="a run")  # type: ignore[arg-type]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["ok", "away", "answer lost"]), max_size=20))
def test_every_epoch_arrives_once_and_in_order_whatever_fails(plan):
    server = Server(plan)
    with EpochLog(a_run(server)) as log:
        for number in range(1, len(EPOCHS)):
            log.add(EPOCHS[:number], {"machine/busy": number - 1.0})
        assert log.finish(EPOCHS) == 0
    for number, batch in enumerate(server.batches):
        assert batch["train/loss", number] == EPOCHS[number]["loss"]
        assert number == len(EPOCHS) - 1 or batch["machine/busy", number] == number
    assert len(server.batches) == len(EPOCHS)


def test_an_epoch_waits_for_no_answer_and_what_never_arrived_is_named(caplog):
    asked, release = threading.Event(), threading.Event()

    class Hanging(Server):
        def get_metric_history(self, _run: str, _name: str) -> list[Any]:
            asked.set()
            release.wait(60)
            raise MlflowException("gone")

    with caplog.at_level(logging.WARNING), EpochLog(a_run(Hanging([]))) as log:
        log.add(EPOCHS[:1])
        assert asked.wait(60)
        log.add(EPOCHS[:2])  # at once: the one before still waits for its answer
        assert log.finish(EPOCHS, patience_seconds=0.05) == len(EPOCHS)
    release.set()
    assert "run a run lacks the metrics of epochs 1 to 6" in caplog.text
