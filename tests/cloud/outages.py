"""Trainings through an outage of all of S3, and what must hold after it.

``benchmarks.outage`` has many of them, and a test has one of each kind. Time runs faster than on
AWS: a poll of 15 s takes 0.3 s, a minute of the dead-man's switch 1 s, and Airflow's calls give up
after 0.3 s instead of 30 s. The machine's own calls have their real limits.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from airflow.sdk.exceptions import AirflowException
from lumos_airflow.hooks import torchrun_ec2
from lumos_airflow.operators.torchrun_ec2 import Ec2VerbOperator

from tests.cloud.aws import Aws
from tests.cloud.deployment import (
    DATE,
    POLL_SECONDS,
    TaskInstance,
    cloud_file,
    drive,
    entered,
)
from tests.cloud.faults import Kind, Rule
from tests.cloud.instance import Instance
from tests.cloud.waiting import eventually

Outage = Literal["gone", "hanging", "read-only"]
LOOKS = 20
MINUTE_SECONDS, NOTICE_SECONDS = 1.0, 6.0
# After the outage: as many good looks as call a silent machine lost, and some more.
_AFTER_SECONDS = 1.5 * 12 * POLL_SECONDS
_AIRFLOW_READ_SECONDS = 0.3
_LATE_POLLS, _SAVE_SECONDS = 4, 1.0
_TRIES, _RETRY_SECONDS, _MOST_SECONDS = 8, 2.0, 40.0


@dataclass(frozen=True)
class Verdict:
    """What an outage did.

    Attributes:
        kind: Of outage.
        machines: That trained when it began.
        notices: Of them, those that AWS took back amid it.
        healthy_machines_ended: Of the others, those that ended before their verb had.
        notices_missed: Machines taken back whose verb was not asked to save before.
        failed_looks: Calls of Airflow that failed.
        green: Tasks that ended well, each after its machine, or the one in its place, had.
        seconds: It took.
    """

    kind: Outage
    machines: int
    notices: int
    healthy_machines_ended: int
    notices_missed: int
    failed_looks: int
    green: int
    seconds: float


@contextlib.contextmanager
def deployed(folder: Path, wheel: Path) -> Iterator[Aws]:
    """An AWS and this process as its Airflow, in fast time."""
    with (
        Aws(folder / "cloud", boot_seconds=0.1, agent_seconds=0.1) as aws,
        pytest.MonkeyPatch.context() as patched,
    ):
        aws.minute_seconds = MINUTE_SECONDS
        patched.setattr(torchrun_ec2, "_READ_SECONDS", _AIRFLOW_READ_SECONDS)
        patched.setattr(torchrun_ec2, "_ATTEMPTS", 1)
        path = cloud_file(aws, folder, [wheel], machine={"market": "spot"})
        with entered(aws, path, patched):
            yield aws


def strike(aws: Aws, kind: Outage, name: str, *, healthy: int, noticed: int) -> Verdict:
    """Let machines train, take S3 away for twenty looks, give it back, and have them finish."""
    started, before = time.monotonic(), len(aws.instances())
    number = healthy + noticed
    finish = threading.Event()
    with ThreadPoolExecutor(number + 1) as pool:
        tasks = [pool.submit(_train, f"{name}-{each}") for each in range(number)]
        try:
            eventually(lambda: len(_working(aws, before)) == number, 120)
            machines = _working(aws, before)
            pool.submit(_let_finish, aws, before, finish)
            failed = _take_away(aws, kind, machines, machines[healthy:])
            time.sleep(_AFTER_SECONDS)
            ended = sum(each.state != "running" for each in machines[:healthy])
        finally:
            finish.set()
        green = sum(task.result() for task in tasks)
    missed = sum(not _was_asked(each) for each in machines[healthy:])
    seconds = round(time.monotonic() - started, 1)
    return Verdict(kind, number, noticed, ended, missed, failed, green, seconds)


def _train(run_id: str) -> bool:
    """A task from its launch to its end; whether it ended well, whatever its tries met."""

    def make() -> Ec2VerbOperator:
        return Ec2VerbOperator(
            task_id="score",
            verb="score",
            date=DATE,
            recipe="complete_journey",
            options={"do": "job"},
            overrides="[]",
            hours=1.0,
            retries=_TRIES,
        )

    for number in range(1, _TRIES + 1):
        try:
            task = TaskInstance(run_id=run_id, try_number=number, max_tries=_TRIES)
            # Its generation is that of a task which was never cleared.
            return drive(make, task, seconds=120)["verb"] == "score"
        except (AirflowException, TimeoutError):
            time.sleep(_RETRY_SECONDS)
    return False


def _take_away(aws: Aws, kind: Outage, machines: list[Instance], noticed: list[Instance]) -> int:
    """The outage; returns how many calls of Airflow failed."""
    fault: Kind = "hang" if kind == "hanging" else "drop"
    action = "PutObject" if kind == "read-only" else "*"
    theirs = aws.faults.add(Rule(fault, "s3", action, caller="instance"))
    ours = aws.faults.add(Rule(fault, "s3", action, caller="airflow"))
    try:
        for instance in noticed:
            aws.interrupt(instance.id, NOTICE_SECONDS)
        # Each look of each task makes one call that fails.
        with contextlib.suppress(AssertionError):
            eventually(lambda: aws.faults.struck(ours) >= LOOKS * len(machines), _MOST_SECONDS)
    finally:
        # The first looks that succeed find an old pulse: the machine's next one comes later.
        aws.faults.remove(ours)
        time.sleep(_LATE_POLLS * POLL_SECONDS)
        aws.faults.remove(theirs)
    return aws.faults.struck(ours)


def _let_finish(aws: Aws, before: int, finish: threading.Event) -> None:
    """Once it is time, every machine's verb, those of replacements too, finds that it is done."""
    finish.wait(300)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        running = [each for each in aws.instances()[before:] if each.state == "running"]
        for each in running:
            _file(each, "").mkdir(parents=True, exist_ok=True)
            _file(each, "finish").touch()
        if not aws.alive():
            return
        time.sleep(0.1)


def _was_asked(instance: Instance) -> bool:
    """Whether its verb was asked to save, and not only ended with its machine."""
    asked = _file(instance, "asked")
    return asked.exists() and asked.stat().st_mtime < (instance.notice or 0.0) - _SAVE_SECONDS


def _working(aws: Aws, before: int) -> list[Instance]:
    return [each for each in aws.instances()[before:] if _file(each, "working").exists()]


def _file(instance: Instance, name: str) -> Path:
    return instance.folder / "lumos" / name
