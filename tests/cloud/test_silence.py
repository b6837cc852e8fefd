"""When a machine is called dead: by looks that succeeded, whatever storage and clocks do."""

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from lumos_airflow.hooks.torchrun_ec2 import TorchrunEc2Hook, shared_client
from lumos_airflow.operators import killed
from lumos_airflow.record import Record
from lumos_airflow.refusals import Refused
from lumos_airflow.triggers import torchrun_ec2
from lumos_airflow.triggers.silence import Silence
from lumos_airflow.triggers.torchrun_ec2 import LaunchTrigger
from moto.s3.models import s3_backends

from lumos.cloud import read_cloud
from lumos.host.folder import Folder
from lumos.host.job import HEARTBEAT
from tests.cloud.asking import launch
from tests.cloud.aws import Aws
from tests.cloud.deployment import BUCKET, cloud_file, entered
from tests.cloud.faults import Rule

pytestmark = pytest.mark.timeout(60)
SILENT, QUIET = torchrun_ec2._SILENT, torchrun_ec2._QUIET
POLL_SECONDS = 60.0
# Of each poll: whether S3 answers the machine, and whether it answers the observer.
answers = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200)


# -- the count


@given(st.integers(0, SILENT), st.lists(st.tuples(st.integers(1, 20), st.integers(1, 60))))
def test_no_outage_of_all_of_s3_makes_a_healthy_machine_look_dead(late, outages):
    """``late``: polls from the end of an outage to the machine's next pulse."""
    silence, pulse = Silence(), 0
    for polls_up, _ in outages:  # while it is down nobody sees anything
        for number in range(late + polls_up):
            pulse += number >= late
            assert silence.heard(pulse or None) <= SILENT


@given(answers)
def test_silence_is_never_longer_than_the_looks_that_succeeded_since_the_last_pulse(answers):
    silence, pulse, looks = Silence(), 0, 0
    for machine, observer in answers:
        pulse += machine
        looks = 0 if machine else looks + observer
        if observer:
            assert silence.heard(pulse or None) <= looks


@given(answers)
def test_a_dead_machine_is_found_out_however_many_looks_fail_in_between(answers):
    silence = Silence()
    silence.heard("its last pulse")
    looks = [silence.heard("its last pulse") for _, observer in answers if observer]
    assert looks == list(range(1, len(looks) + 1))


# -- the trigger


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A machine that lives, and of which only what a test writes is heard."""
    folder = Path(tmp_path_factory.mktemp("silence"))
    wheel = folder / "lumos-0-py3-none-any.whl"
    wheel.write_bytes(b"code")
    with (
        Aws(folder / "cloud", boot_seconds=0.0, agent_seconds=0.0) as aws,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        path = cloud_file(aws, folder, [wheel], machine={"poll_seconds": POLL_SECONDS})
        with entered(aws, path, monkeypatch):
            yield SimpleNamespace(aws=aws, cloud=read_cloud(path), machine=launch(aws))


class Watch:
    """A trigger that watches the machine, and the machine's part in S3."""

    def __init__(self, world: SimpleNamespace, name: str, **changes: Any) -> None:
        self.world = world
        record = Record(
            **dict.fromkeys(("key", "task_key", "run_key", "run_id"), name),
            **{"dag_id": "retraining", "task_id": "train", "wheels": (), "lock_sha256": ""},
            **{
                "state": "running",
                "command_id": "c",
                "instance_ids": (world.machine.id,),
                "deadline": dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
                **changes,
            },
        )
        self.trigger = LaunchTrigger(
            record=record.model_dump(mode="json"),
            cloud=world.cloud.model_dump(mode="json"),
            machine=world.cloud.machine("train").model_dump(mode="json"),
        )
        jobs = TorchrunEc2Hook(world.cloud).jobs.uri
        s3 = world.aws.client("s3")
        self.folder = Folder(s3, f"{jobs}/{name}/000/{world.machine.id}")
        self.looks = 0

    def beat(self, *, minutes_ago: float) -> None:
        """A pulse, by S3's clock."""
        self.folder.write(HEARTBEAT, b"")
        key = f"{self.folder.uri.removeprefix(f's3://{BUCKET}/')}/{HEARTBEAT}"
        (backend,) = (each["global"] for each in s3_backends.values())
        then = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes_ago)
        backend.get_object(BUCKET, key).last_modified = then.replace(tzinfo=None)

    def look(self) -> dict[str, Any] | None:
        return self.trigger.look()

    def look_in_vain(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(ClientError):
                self.look()

    def until_event(self, most: int) -> tuple[int, dict[str, Any]]:
        """The number of looks that it takes, and the event."""
        for number in range(1, most + 1):
            if (event := self.look()) is not None:
                return number, event
        raise AssertionError(f"no event in {most} looks")


@pytest.fixture
def watch(world, request: pytest.FixtureRequest) -> Iterator[Callable[..., Watch]]:
    yield lambda **changes: Watch(world, request.node.name[5:65], **changes)
    world.aws.faults.rules.clear()


def test_the_first_look_after_an_outage_of_s3_ends_no_machine(world, watch):
    watching = watch()
    watching.beat(minutes_ago=20)
    assert watching.look() is None
    outage = world.aws.faults.add(Rule("deny", "s3"))
    watching.look_in_vain(20)
    world.aws.faults.remove(outage)
    # The machine writes its next pulse a few polls later.
    assert [watching.look() for _ in range(QUIET)] == [None] * QUIET
    watching.beat(minutes_ago=0)
    assert [watching.look() for _ in range(SILENT)] == [None] * SILENT


def test_a_machine_is_not_called_silent_while_s3_takes_no_writes(world, watch):
    watching = watch()
    watching.beat(minutes_ago=20)
    outage = world.aws.faults.add(Rule("deny", "s3", "PutObject"))
    assert [watching.look() for _ in range(QUIET + 1)] == [None] * (QUIET + 1)
    watching.look_in_vain(20)
    world.aws.faults.remove(outage)
    assert watching.look() is None


def test_a_machine_that_hangs_is_called_lost_after_twelve_good_looks(world, watch):
    watching = watch()
    watching.beat(minutes_ago=0)
    looks, event = watching.until_event(30)
    assert looks == SILENT + 2  # the first one hears its last pulse
    assert event["end"]["cause"] == "lost"
    assert "has said nothing for 13 looks (780 s)" in event["end"]["last_error"]


def test_the_time_after_a_deadline_is_counted_in_good_looks_too(world, watch):
    watching = watch(deadline=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    watching.beat(minutes_ago=0)
    looks, event = watching.until_event(10)
    assert (looks, event["what"]) == (
        torchrun_ec2.GRACE.total_seconds() // POLL_SECONDS + 1,
        "late",
    )


def test_a_boot_is_not_given_up_for_looks_that_failed(world, watch):
    watching = watch(state="booting", command_id=None, instance_ids=("i-0123456789abcdef0",))
    outage = world.aws.faults.add(Rule("deny", "ec2"))
    watching.look_in_vain(40)
    world.aws.faults.remove(outage)
    looks, event = watching.until_event(30)
    assert (looks, event["what"]) == (watching.trigger.machine.boot_minutes + 1, "lost")


def test_credentials_of_airflow_that_went_bad_end_no_machine(world, watch, monkeypatch):
    watching = watch()
    broken = {"conn_type": "aws", "extra": {"profile_name": "none such"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(broken))
    shared_client.cache_clear()
    with pytest.raises(Refused, match="none such"):
        watching.look()
    events = watching.trigger.run()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(anext(events), 0.5))
    monkeypatch.undo()
    shared_client.cache_clear()


# -- a task that is killed


def test_a_killed_task_waits_for_no_lock_that_the_killed_code_holds(monkeypatch):
    monkeypatch.setattr(killed, "_SECONDS", 0.05)
    lock, done = threading.Lock(), threading.Event()

    def act() -> None:
        with lock:
            done.set()

    with lock:  # as amid a log line
        killed.aside(act)
        assert not done.is_set()
    assert done.wait(60)
