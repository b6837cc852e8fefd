"""The EC2 operator on machines that really run, around a verb that does as it is told."""

import asyncio
import datetime as dt
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from lumos_airflow.hooks.torchrun_ec2 import TorchrunEc2Hook
from lumos_airflow.operators.torchrun_ec2 import Ec2VerbOperator, TorchrunEc2Operator
from lumos_airflow.triggers.torchrun_ec2 import LaunchTrigger

from lumos.cloud import read_cloud
from lumos.host.folder import Folder
from tests.cloud.aws import Aws
from tests.cloud.deployment import (
    BUCKET,
    DATE,
    TaskInstance,
    build_wheel,
    cloud_file,
    context,
    drive,
    entered,
    fire,
    wheel_around,
)
from tests.cloud.faults import Call, Rule
from tests.cloud.iam import allows
from tests.cloud.waiting import eventually

pytestmark = pytest.mark.timeout(300)
_RIGHTS = {
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "ListObjectsV2": "s3:ListBucket",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return wheel_around("__main__.py", "verb_stand_in.py", build_wheel(folder / "real"), folder)


@pytest.fixture
def machine() -> dict[str, Any]:
    """What a test wants its machine to be."""
    return {"market": "spot"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """One for all tests here: to start it takes as long as many of them."""
    with Aws(tmp_path_factory.mktemp("cloud"), boot_seconds=0.1, agent_seconds=0.1) as aws:
        yield aws


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A deployment of the test's own, so that nothing of another test's is found."""
    return tmp_path.name


@pytest.fixture
def task(prefix: str) -> Callable[..., TaskInstance]:
    """Of a run of the test's own: what AWS is asked for once is known by its run."""
    return partial(TaskInstance, run_id=prefix)


@pytest.fixture
def aws(
    cloud: Aws, prefix: str, tmp_path: Path, wheel: Path, machine: dict, monkeypatch
) -> Iterator[Aws]:
    cloud.begin()
    cloud.minute_seconds = 2.0
    path = cloud_file(cloud, tmp_path, [wheel], machine=machine, prefix=prefix)
    with entered(cloud, path, monkeypatch):
        yield cloud
        # The last promises of every test here.
        for call in cloud.calls:
            if call.service == "s3" and call.caller.startswith("i-") and call.status:
                key = str(call.parameters["Key"] or "").replace(f"{prefix}/", "lumos/", 1)
                action = _RIGHTS[call.action]
                assert allows("instance-role", action, f"my-lumos/{key}".rstrip("/")), call
        eventually(lambda: not cloud.alive())
        most = cloud.most_running("-m lumos (train|score)").values()
        assert all(each <= machine.get("nodes", 1) for each in most)


def verb(*do: str, hours: float = 1.0, kind: type = Ec2VerbOperator, name: str = "score") -> Any:
    """Makes the operator of a verb that is told what to do."""

    def make() -> Ec2VerbOperator:
        return kind(
            task_id=name,
            verb=name,
            date=DATE,
            recipe="complete_journey",
            options={"do": do[-1]} if do else {},
            overrides="[]",
            hours=hours,
            retries=2,
        )

    return make


def deferred(make: Callable[[], Any], ti: TaskInstance, event: dict | None = None) -> TaskDeferred:
    """One worker's step, that must end in handing over to the trigger."""
    operator = make()
    step = operator.execute if event is None else partial(operator.resume, event=event)
    with pytest.raises(TaskDeferred) as caught:
        step(context(ti, operator))
    return caught.value


def running(make: Callable[[], Any], ti: TaskInstance) -> TaskDeferred:
    """Until the command was sent."""
    return deferred(make, ti, fire(deferred(make, ti)))


def actions(aws: Aws, action: str) -> list[Call]:
    return [call for call in aws.calls if call.action == action]


# -- one run


def test_the_report_of_the_first_rank_comes_back_and_the_machine_goes(aws, task):
    make = verb(kind=TorchrunEc2Operator, name="train")
    report = drive(make, task())
    assert (report["verb"], report["rank"], report["ranks"]) == ("train", "0", "2")
    assert [instance.state for instance in aws.instances()] != ["running"]


def test_every_line_of_the_log_arrives_once_and_in_order(aws, task, capsys):
    drive(verb("lines:5000"), task(task_id="score"))
    said = re.findall(r"stand-in: line (\d+)", capsys.readouterr().out)
    assert said == [str(number) for number in range(5000)]


@pytest.mark.parametrize(("code", "says"), [(2, "bad input"), (3, "refused")])
def test_a_verb_that_a_retry_cannot_mend_is_not_retried(aws, task, code, says):
    with pytest.raises(AirflowFailException, match=f"{says}.*the sentence for people"):
        drive(verb(f"exit:{code}"), task())
    # Also where the worker died before it could say so.
    with pytest.raises(AirflowFailException, match=says):
        drive(verb(f"exit:{code}"), task(try_number=2))
    assert len(aws.instances()) == 1


def test_a_fault_is_tried_again_on_another_machine(aws, task):
    with pytest.raises(AirflowException, match=r"exit code 1: .*the sentence for people") as caught:
        drive(verb("exit:1"), task())
    assert type(caught.value) is AirflowException
    assert drive(verb(), task(try_number=2))["verb"] == "score"
    assert len(aws.instances()) == 2


def test_an_end_without_a_report_is_no_success(aws, task):
    with pytest.raises(AirflowFailException, match="'not JSON at all'"):
        drive(verb("chatter"), task())


def test_a_verb_sees_its_deployment_and_nothing_of_airflow(aws, task, prefix, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "secret")
    seen = drive(verb("environment"), task())["environment"]
    assert seen["LUMOS_LAKE"] == f"s3://{BUCKET}/lake"
    assert seen["LUMOS_STATES"] == f"s3://{BUCKET}/{prefix}/train"
    assert not any(name.startswith("AIRFLOW") for name in seen)


# -- retries, clears, workers that die


def test_a_success_that_nobody_wrote_down_is_not_computed_again(aws, task):
    first = drive(verb(), task())
    assert drive(verb(), task(try_number=2)) == first
    assert len(aws.instances()) == 1


def test_a_cleared_task_begins_anew_and_ends_what_ran_before(aws, task):
    running(verb("hang"), task())
    (old,) = aws.alive()
    # Airflow raises max_tries when a task is cleared.
    assert drive(verb(), task(try_number=2, max_tries=3))["verb"] == "score"
    assert len(aws.instances()) == 2
    assert old.state == "terminated"


def test_a_retry_goes_on_with_the_machine_that_boots_and_the_command_that_runs(aws, task, prefix):
    deferred(verb("work"), task())
    running(verb("work"), task(try_number=2))
    waiting = deferred(verb("work"), task(try_number=3))
    assert waiting.trigger.record.state == "running"
    assert (len(aws.instances()), len(aws.commands())) == (1, 1)
    # Before it listens for SIGTERM a verb has nothing to save, and just ends.
    eventually(lambda: is_working(aws, aws.instances()[0].id), 30)
    Folder(aws.client("s3"), f"s3://{BUCKET}/{prefix}/jobs/{waiting.trigger.record.key}/000").write(
        "stop", b""
    )
    assert fire(waiting)["end"]["code"] == 75
    asyncio.run(waiting.trigger.on_kill())


@pytest.mark.parametrize("action", ["RunInstances", "SendCommand"])
def test_an_answer_that_a_dying_worker_never_got_starts_nothing_twice(aws, task, action):
    fault = Rule("lost-answer", action=action, times=9, caller="airflow")
    aws.faults.add(fault)
    with pytest.raises(AirflowException):  # after botocore's own attempts
        drive(verb("work"), task())
    aws.faults.remove(fault)
    if action == "SendCommand":  # asked for again and again, all but one say that one is enough
        assert len(aws.commands()) > 1
        eventually(lambda: [command.ended for command in aws.commands()].count(None) == 1)
    again = running(verb("work"), task(try_number=2))
    assert len(aws.instances()) == 1
    asyncio.run(again.trigger.on_kill())


def test_a_task_delivered_twice_runs_once(aws, task):
    with ThreadPoolExecutor() as pool:
        twins = [pool.submit(drive, verb("lines:10"), task(), seconds=200) for _ in range(2)]
        # Here, so that what went wrong in a thread is what the test fails of.
        reports = [twin.result() for twin in twins]
    assert reports[0] == reports[1]
    assert len({claim.parameters["Key"] for claim in claims(aws)}) == 1


def claims(aws: Aws) -> list[Call]:
    return [
        call
        for call in actions(aws, "PutObject")
        if call.parameters["Key"].endswith("/claim") and call.status == 200
    ]


# -- machines that are lost


def test_a_spot_instance_taken_back_saves_first_and_another_one_goes_on(aws, task, capsys):
    def take_back(waiting: TaskDeferred) -> None:
        if waiting.trigger.record.state == "running" and waiting.trigger.record.launch == 0:
            (instance,) = aws.alive()
            eventually(lambda: is_working(aws, instance.id), 30)
            aws.interrupt(instance.id, 5)

    report = drive(verb("work"), task(), at_defer=take_back)
    assert report["verb"] == "score"
    assert len(aws.instances()) == 2
    said = capsys.readouterr().out
    assert "AWS takes this spot instance back in two minutes" in said
    assert "launch 0 is over (AWS took a spot instance back)" in said


def test_a_machine_whose_metadata_is_slow_for_a_moment_still_finds_its_credentials(aws, task):
    aws.metadata_seconds = 1.3  # boto3's own patience is a second
    assert drive(verb("lines:1"), task())["verb"] == "score"
    assert len(aws.instances()) == 1


def is_working(aws: Aws, instance_id: str) -> bool:
    log = aws.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", ())
    bodies = (
        aws.client("s3").get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read()
        for each in log
        if f"{instance_id}/log-" in each["Key"]
    )
    return any(b"working" in body for body in bodies)


@pytest.mark.parametrize("state", ["booting", "running"])
def test_a_machine_that_dies_is_replaced(aws, task, state):
    def die(waiting: TaskDeferred) -> None:
        record = waiting.trigger.record
        if record.state == state and record.launch == 0:
            aws.crash(record.instance_ids[0])

    assert drive(verb("lines:5"), task(), at_defer=die)["verb"] == "score"
    assert len(aws.instances()) == 2


def test_a_command_that_is_killed_on_a_live_machine_is_found_out(aws, task):
    def kill(waiting: TaskDeferred) -> None:
        record = waiting.trigger.record
        if record.state == "running" and record.launch == 0:
            aws.client("ssm").cancel_command(CommandId=record.command_id)

    assert drive(verb("lines:5"), task(), at_defer=kill)["verb"] == "score"
    assert len(aws.instances()) == 2


def test_a_machine_that_cannot_begin_is_a_fault_and_not_replaced_again_and_again(aws, task):
    aws.faults.add(Rule("deny", "s3", "GetObject", caller="instance"))
    with pytest.raises(AirflowException, match=r"exit code 1: the command on .* was Failed") as one:
        drive(verb(), task())
    assert type(one.value) is AirflowException
    assert len(aws.instances()) == 1


@pytest.mark.parametrize("machine", [{"launches": 2}])
def test_machines_are_not_replaced_for_ever(aws, task):
    def die(waiting: TaskDeferred) -> None:
        if waiting.trigger.record.state == "booting":
            aws.crash(waiting.trigger.record.instance_ids[0])

    with pytest.raises(AirflowException, match="2 launches were lost or taken back"):
        drive(verb(), task(), at_defer=die)


def test_an_ec2_that_forgets_instances_for_a_while_does_not_make_us_start_others(aws, task):
    aws.faults.add(Rule("empty", action="DescribeInstances", nth=range(2, 6), caller="airflow"))
    assert drive(verb(), task())["verb"] == "score"
    assert len(aws.instances()) == 1


# -- capacity, throttling, rights


def test_another_zone_is_asked_where_one_has_no_capacity(aws, task):
    first, second = aws.network()["subnets"]
    aws.faults.add(Rule("capacity", action="RunInstances", where={"SubnetId": first}))
    assert drive(verb(), task())["verb"] == "score"
    asked = [call.parameters["SubnetId"] for call in actions(aws, "RunInstances")]
    assert asked[-1] == second


def test_all_zones_are_asked_again_later(aws, task):
    aws.faults.add(Rule("capacity", action="RunInstances", times=10))
    assert drive(verb(), task())["verb"] == "score"


@pytest.mark.parametrize("machine", [{"capacity_hours": 0.0001}])
def test_capacity_is_not_waited_for_without_end(aws, task):
    aws.faults.add(Rule("capacity", action="RunInstances"))
    with pytest.raises(AirflowFailException, match=r"no zone had 1 x p4d\.24xlarge for"):
        drive(verb(), task())


def test_throttling_of_any_call_is_lived_through(aws, task):
    aws.faults.add(Rule("throttle", probability=0.25))
    assert drive(verb("lines:20"), task())["verb"] == "score"


@pytest.mark.parametrize(
    ("service", "action", "says"),
    [
        ("ec2", "RunInstances", "docs/aws/airflow-policy.json"),
        ("ssm", "SendCommand", "docs/aws/airflow-policy.json"),
    ],
)
def test_a_right_that_is_missing_is_named_and_costs_nothing(aws, task, service, action, says):
    aws.faults.add(Rule("deny", service, action, caller="airflow"))
    with pytest.raises(AirflowFailException, match=says):
        drive(verb(), task())


@pytest.mark.parametrize("machine", [{"ami": "ami-0123456789abcdef0"}])
def test_an_image_that_is_not_there_is_named(aws, task):
    with pytest.raises(AirflowFailException, match=r"ami-0123456789abcdef0.*LUMOS_CLOUD"):
        drive(verb(), task())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LUMOS_CLOUD", "", "LUMOS_PLATFORM=aws needs LUMOS_CLOUD"),
        ("LUMOS_LAKE", "/tmp/lake", "is on this host alone"),
        ("MLFLOW_TRACKING_URI", "sqlite:////tmp/m.db", "cannot be reached from a rented machine"),
        ("MLFLOW_TRACKING_URI", "http://me:word@host", "holds a password"),
    ],
)
def test_what_a_machine_could_not_reach_is_refused_before_it_costs(
    aws, task, monkeypatch, name, value, says
):
    monkeypatch.setenv(name, value)
    with pytest.raises(AirflowFailException, match=says) as caught:
        drive(verb(), task())
    assert "word" not in str(caught.value).replace("password", "").replace("PASSWORD", "")
    assert aws.instances() == []


# -- time, kills, and nobody left to look


def test_a_verb_out_of_time_saves_and_is_not_tried_again(aws, task):
    with pytest.raises(AirflowFailException, match=r"not done after 0\.001 h"):
        drive(verb("work", hours=0.001), task())
    assert len(aws.instances()) == 1


def test_killing_a_deferred_task_ends_its_machine_and_all_that_ran_there(aws, task):
    waiting = running(verb("hang"), task())
    (instance,) = aws.alive()
    eventually(lambda: aws.most_running("-m lumos score"))
    asyncio.run(waiting.trigger.on_kill())
    assert eventually(lambda: not aws.processes(instance.id))
    assert instance.why == "TerminateInstances"


def test_killing_a_task_amid_a_step_ends_its_machine(aws, task):
    deferred(verb("hang"), task())
    operator = verb("hang")()
    with pytest.raises(TaskDeferred):
        operator.execute(context(task(), operator))
    operator.on_kill()


def test_a_machine_that_nobody_asks_for_any_more_switches_itself_off_after_its_verb(aws, task):
    running(verb("lines:3"), task())
    (instance,) = aws.alive()
    eventually(lambda: instance.state == "terminated")
    assert instance.why == "shutdown"


def test_a_machine_whose_agent_is_gone_switches_itself_off(aws, task):
    aws.minute_seconds = 0.2
    waiting = running(verb("hang"), task())
    (instance,) = aws.alive()
    eventually(lambda: aws.most_running("-m lumos score"))
    aws.client("ssm").cancel_command(CommandId=waiting.trigger.record.command_id)
    eventually(lambda: instance.state == "terminated")
    assert instance.why == "shutdown"


def test_a_machine_that_nobody_ever_used_switches_itself_off(aws, task):
    aws.minute_seconds = 0.05
    deferred(verb(), task())
    (instance,) = aws.instances()
    eventually(lambda: instance.state == "terminated")
    assert instance.why == "shutdown"


# -- the code


def test_a_wheel_that_was_changed_on_its_way_is_refused(aws, task):
    def tamper(waiting: TaskDeferred) -> None:
        (shipped,) = waiting.trigger.record.wheels
        key = shipped.uri.removeprefix(f"s3://{BUCKET}/")
        aws.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"something else")

    with pytest.raises(AirflowFailException, match=r"has SHA-256 .* and the job names"):
        drive(verb(), task(), at_defer=tamper)


def test_an_image_of_another_lock_is_refused(aws, task, tmp_path):
    def change(_: TaskDeferred) -> None:
        (tmp_path / "requirements.txt").write_text("numpy==0")

    with pytest.raises(AirflowFailException, match="the image was made from another"):
        drive(verb(), task(), at_defer=change)


@pytest.mark.parametrize("machine", [{"nodes": 2, "processes": 1}])
def test_several_nodes_train_as_one(aws, task):
    report = drive(verb(kind=TorchrunEc2Operator, name="train"), task())
    assert report["ranks"] == "2"
    assert len(aws.instances()) == 2


def test_a_restart_of_the_triggerer_neither_loses_nor_repeats_a_line(aws, task, capsys):
    waiting = running(verb("lines:30", "work"), task())
    arguments = waiting.trigger.serialize()[1]
    first = LaunchTrigger(**arguments)
    (instance,) = aws.alive()
    eventually(lambda: is_working(aws, instance.id), 30)
    assert first.look() is None
    assert LaunchTrigger(**arguments).look() is None
    assert capsys.readouterr().out.count("stand-in: working") == 1
    asyncio.run(first.on_kill())


def test_the_deployment_next_door_is_left_alone(aws, task, tmp_path):
    waiting = running(verb("hang"), task())
    own = read_cloud(Path(tmp_path / "cloud.toml"))
    other = TorchrunEc2Hook(own.model_copy(update={"prefix": "other"}))
    assert other.find({}) == []
    other.end(waiting.trigger.record.but(instance_ids=()))
    assert len(aws.alive()) == 1
    asyncio.run(waiting.trigger.on_kill())


def test_the_deadline_is_the_first_try_s(aws, task):
    first = deferred(verb("hang"), task()).trigger.record.deadline
    again = deferred(verb("hang"), task(try_number=2)).trigger
    assert again.record.deadline == first > dt.datetime.now(dt.UTC)
    asyncio.run(again.on_kill())
