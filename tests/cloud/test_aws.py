"""The AWS of the other tests runs what it is told, and fails as AWS does."""

import json
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.cloud.aws import Aws
from tests.cloud.command import Command
from tests.cloud.faults import AIRFLOW, Faults, Rule
from tests.cloud.instance import Instance
from tests.cloud.waiting import eventually

HOLD = "sleep 300"


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Aws]:
    with Aws(tmp_path, boot_seconds=0.1, agent_seconds=0.1) as aws:
        aws.minute_seconds = 1.0
        yield aws


def request(aws: Aws, **changes: Any) -> dict[str, Any]:
    network = aws.network()
    user_data = changes.pop("user_data", HOLD)
    return {
        "ImageId": network["ami"],
        "InstanceType": "p4d.24xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": network["subnets"][0],
        "SecurityGroupIds": [network["security_group"]],
        "IamInstanceProfile": {"Name": network["instance_profile"]},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "lumos:job", "Value": "a job"}]}
        ],
        "UserData": "#!/bin/bash\n" + user_data,
        **changes,
    }


def launch(aws: Aws, **changes: Any) -> Instance:
    """One that accepts commands."""
    answer = aws.client("ec2").run_instances(**request(aws, **changes))
    instance = aws.instance(answer["Instances"][0]["InstanceId"])
    eventually(lambda: instance.online or instance.state == "terminated")
    return instance


def send(aws: Aws, instance: Instance, *lines: str, seconds: float = 60) -> Command:
    parameters = {"commands": list(lines), "executionTimeout": [str(seconds)]}
    aws.client("ssm").send_command(
        InstanceIds=[instance.id], DocumentName="AWS-RunShellScript", Parameters=parameters
    )
    return aws.commands()[-1]


def result(aws: Aws, command: Command, seconds: float = 20) -> dict[str, Any]:
    """Its invocation, once it has ended."""
    ssm = aws.client("ssm")

    def ended() -> dict[str, Any] | None:
        found = ssm.get_command_invocation(CommandId=command.id, InstanceId=command.instance_id)
        is_open = found["Status"] in ("Pending", "InProgress", "Cancelling")
        return None if is_open else found

    return eventually(ended, seconds)


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_an_instance_runs_its_user_data_in_a_folder_and_an_environment_of_its_own(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "not theirs")
    answer = aws.client("ec2").run_instances(**request(aws, user_data=f"env > said\n{HOLD}"))
    (launched,) = answer["Instances"]
    assert launched["State"]["Name"] == "pending"
    (instance,) = aws.instances()
    said = instance.folder / "said"
    eventually(lambda: said.exists() and "AWS_ENDPOINT_URL" in said.read_text())
    assert f"HOME={instance.folder}" in said.read_text()
    assert "OURS" not in said.read_text()
    assert "SECRET" not in said.read_text()
    assert [process.name() for process in aws.processes(instance.id)] == ["bash", "sleep"]
    found = aws.client("ec2").describe_instances(
        Filters=[
            {"Name": "tag:lumos:job", "Values": ["a job"]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
    )
    assert found["Reservations"][0]["Instances"][0]["InstanceId"] == instance.id


def test_a_command_is_accepted_only_once_the_agent_has_reported(tmp_path: Path) -> None:
    with Aws(tmp_path, boot_seconds=0.2, agent_seconds=0.2) as aws:
        aws.client("ec2").run_instances(**request(aws))
        (instance,) = aws.instances()
        with pytest.raises(ClientError) as error:
            send(aws, instance, "true")
        assert code(error) == "InvalidInstanceId"
        ssm = aws.client("ssm")
        only = [{"Key": "InstanceIds", "Values": [instance.id]}]

        def online() -> list[Any]:
            return ssm.describe_instance_information(Filters=only)["InstanceInformationList"]

        assert not online()
        eventually(online)
        assert result(aws, send(aws, instance, "true"))["Status"] == "Success"
        without = request(aws)
        del without["IamInstanceProfile"]
        aws.client("ec2").run_instances(**without)
        eventually(lambda: aws.instances()[1].state == "running")
        assert len(online()) == 1
        assert not aws.instances()[1].online


def test_a_command_runs_torchrun_and_its_ranks_and_fails_with_their_exit_code(aws: Aws) -> None:
    instance = launch(aws)
    script = instance.folder / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            import torch.distributed as dist
            dist.init_process_group("gloo")
            print("rank", dist.get_rank(), "of", dist.get_world_size(), flush=True)
            dist.barrier()
            sys.exit(7)
            """
        )
    )
    start = f"python -m torch.distributed.run --standalone --nproc-per-node 2 {script}"
    command = send(aws, instance, "set -u", f"{start} || exit 7")
    found = result(aws, command, 40)
    assert (found["Status"], found["ResponseCode"]) == ("Failed", 7)
    assert "rank 0 of 2" in found["StandardOutputContent"]
    assert "rank 1 of 2" in found["StandardOutputContent"]
    assert aws.most_running("torch.distributed.run") == {"a job": 1}
    assert aws.most_running("train.py") == {"a job": 1}


def test_a_cancel_kills_the_group_of_the_command_and_nothing_else(aws: Aws) -> None:
    instance = launch(aws)
    lines = ["setsid sleep 301 &", "sleep 302 &", "trap '' TERM", "echo begun > begun", "wait"]
    command = send(aws, instance, *lines)
    eventually((instance.folder / "begun").exists)
    aws.client("ssm").cancel_command(CommandId=command.id)
    found = result(aws, command)
    assert (found["Status"], found["ResponseCode"]) == ("Cancelled", 137)
    ssm = aws.client("ssm")
    listed = ssm.list_command_invocations(CommandId=command.id)["CommandInvocations"]
    assert [one["Status"] for one in listed] == ["Cancelled"]
    left = [" ".join(one.cmdline()) for one in aws.processes(instance.id)]
    assert "sleep 301" in left
    assert "sleep 302" not in left


def test_a_command_that_takes_too_long_is_killed(aws: Aws) -> None:
    command = send(aws, launch(aws), "sleep 303", seconds=1)
    assert result(aws, command)["Status"] == "TimedOut"
    assert command.ended - command.started < 5


def test_a_command_lasts_as_long_as_anything_holds_its_output(aws: Aws) -> None:
    found = result(aws, send(aws, launch(aws), "(sleep 0.5; echo late) &", "exit 3"))
    assert (found["ResponseCode"], found["StandardOutputContent"]) == (3, "late\n")


def test_no_more_of_the_output_is_kept_than_aws_keeps(aws: Aws) -> None:
    many = "head -c 1000000 /dev/zero | tr '\\0' x"
    found = result(aws, send(aws, launch(aws), many, f"({many}) >&2"))
    assert found["Status"] == "Success"
    assert found["StandardOutputContent"] == "x" * 24_000
    assert found["StandardErrorContent"] == "x" * 8_000


def test_a_client_token_launches_once_in_a_zone_even_after_the_end(aws: Aws) -> None:
    ec2 = aws.client("ec2")
    first = request(aws, ClientToken="a token", MaxCount=2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ec2.run_instances(**first), range(4)))
    ids = {tuple(one["InstanceId"] for one in answer["Instances"]) for answer in answers}
    assert len(ids) == 1
    assert len(aws.instances()) == 2
    with pytest.raises(ClientError) as error:
        ec2.run_instances(**{**first, "InstanceType": "p5.48xlarge"})
    assert code(error) == "IdempotentParameterMismatch"
    ec2.terminate_instances(InstanceIds=list(*ids))
    eventually(lambda: not aws.alive())
    (again,) = {one["InstanceId"] for one in ec2.run_instances(**first)["Instances"][:1]}
    assert again in next(iter(ids))
    assert not aws.alive()
    ec2.run_instances(**{**first, "SubnetId": aws.network()["subnets"][1]})
    assert len(aws.alive()) == 2


def test_an_instance_ends_itself_after_the_delay_that_was_set_last(aws: Aws) -> None:
    begun = time.monotonic()
    instance = launch(aws, user_data=f"shutdown -h +1 first\nshutdown -h +3 lumos\n{HOLD}")
    assert result(aws, send(aws, instance, "shutdown -h +2 renewed"))["Status"] == "Success"
    eventually(instance.gone.is_set)
    assert 2 <= instance.ended - begun < 5
    assert (instance.state, instance.why) == ("terminated", "shutdown")
    assert not aws.processes(instance.id)
    kept = launch(aws, InstanceInitiatedShutdownBehavior="stop", user_data="shutdown -h +9")
    send(aws, kept, "shutdown -c", "shutdown -h now")
    eventually(lambda: kept.state == "stopped")
    assert kept in aws.alive()


def test_metadata_asks_for_a_token_and_tells_of_an_interruption(aws: Aws) -> None:
    instance = launch(aws, InstanceMarketOptions={"MarketType": "spot"})
    imds = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
    get = f"curl -s -w '\\n%{{http_code}}\\n' {imds}/meta-data"
    token = (
        f'T=$(curl -s -X PUT {imds}/api/token -H "X-aws-ec2-metadata-token-ttl-seconds: 60")',
        'H="X-aws-ec2-metadata-token: $T"',
    )
    lines = [
        f"{get}/instance-id",
        *token,
        *(f'{get}/{name} -H "$H"' for name in ("instance-id", "local-ipv4", "instance-life-cycle")),
        f'{get}/spot/instance-action -H "$H"',
    ]
    found = result(aws, send(aws, instance, *lines))["StandardOutputContent"].split()
    assert found == ["401", instance.id, "200", "127.0.0.1", "200", "spot", "200", "404"]
    aws.interrupt(instance.id, 1.5)
    notice = result(aws, send(aws, instance, *token, f'{get}/spot/instance-action -H "$H"'))
    assert json.loads(notice["StandardOutputContent"].splitlines()[0])["action"] == "terminate"
    eventually(instance.gone.is_set)
    assert (instance.state, instance.why) == ("terminated", "spot")


READS = """
import json, sys
import boto3, deltalake, pyarrow as pa
from pyarrow import fs

bucket = sys.argv[1]
boto3.client("s3").put_object(Bucket=bucket, Key="by boto3", Body=b"b")
# Only an address makes Arrow read AWS_ENDPOINT_URL; S3FileSystem() does not.
s3, folder = fs.FileSystem.from_uri(f"s3://{bucket}/")
with s3.open_output_stream(f"{bucket}/by pyarrow") as stream:
    stream.write(b"p")
deltalake.write_deltalake(f"s3://{bucket}/by-deltalake", pa.table({"a": [1]}))
print(deltalake.DeltaTable(f"s3://{bucket}/by-deltalake").version())
"""


def test_what_runs_on_an_instance_has_the_credentials_of_its_role_from_metadata(aws: Aws) -> None:
    aws.client("s3").create_bucket(Bucket="lake")
    instance = launch(aws)
    (instance.folder / "reads.py").write_text(READS)
    found = result(aws, send(aws, instance, "python reads.py lake"), 40)
    assert found["Status"] == "Success", found["StandardErrorContent"]
    written = {
        (call.caller, call.parameters["Key"].split("/")[0])
        for call in aws.calls
        if call.service == "s3" and call.parameters["Key"] and call.caller.startswith("i-")
    }
    assert written >= {(instance.id, f"by {name}") for name in ("boto3", "pyarrow")}
    assert (instance.id, "by-deltalake") in written
    assert "nobody" not in {call.caller for call in aws.calls}


def test_two_conditional_writes_of_one_object_cannot_both_succeed(aws: Aws) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="lake")

    def put(**condition: str) -> str:
        try:
            answer = s3.put_object(Bucket="lake", Key="lease", Body=b"mine", **condition)
        except ClientError as error:
            return str(error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        return answer["ETag"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: put(IfNoneMatch="*"), range(8)))
    assert answers.count("412") == 7
    (etag,) = set(answers) - {"412"}
    assert put(IfMatch='"0"') == "412"
    assert put(IfMatch=etag) == etag


@pytest.mark.parametrize(
    ("service", "action", "options", "throttle", "deny"),
    [
        ("ec2", "describe_instances", {}, "RequestLimitExceeded", "UnauthorizedOperation"),
        ("ssm", "list_commands", {}, "ThrottlingException", "AccessDeniedException"),
        ("s3", "get_object", {"Bucket": "b", "Key": "k"}, "SlowDown", "AccessDenied"),
        ("sts", "get_caller_identity", {}, "Throttling", "AccessDenied"),
    ],
)
def test_each_service_refuses_in_its_own_words(
    aws: Aws, service: str, action: str, options: dict[str, str], throttle: str, deny: str
) -> None:
    aws.faults.add(Rule("throttle", service, nth=1))
    aws.faults.add(Rule("deny", service, nth=1))
    aws.faults.add(Rule("fail", service, nth=1))
    theirs = aws.client(service, caller=AIRFLOW)
    for expected in (throttle, deny, "Internal"):
        with pytest.raises(ClientError) as error:
            getattr(theirs, action)(**options)
        assert code(error).startswith(expected)
    assert [call.fault for call in aws.calls] == ["throttle", "deny", "fail"]


def test_a_zone_without_capacity_refuses_and_the_next_has_it(aws: Aws) -> None:
    first, second = aws.network()["subnets"]
    aws.faults.add(Rule("capacity", "ec2", "RunInstances", where={"SubnetId": first}))
    theirs = aws.client("ec2", caller=AIRFLOW)
    with pytest.raises(ClientError) as error:
        theirs.run_instances(**request(aws))
    assert code(error) == "InsufficientInstanceCapacity"
    theirs.run_instances(**request(aws, SubnetId=second))
    assert [instance.subnet for instance in aws.instances()] == [second]


def test_a_lost_answer_was_executed_and_a_client_that_asks_again_gets_it(aws: Aws) -> None:
    aws.faults.add(Rule("lost-answer", "ec2", "RunInstances", nth=(1, 2)))
    with pytest.raises(ConnectionClosedError):
        aws.client("ec2", caller=AIRFLOW).run_instances(**request(aws, ClientToken="t"))
    assert len(aws.instances()) == 1
    retrying = aws.client("ec2", caller=AIRFLOW, retries=2)
    answer = retrying.run_instances(**request(aws, ClientToken="t"))
    assert [one["InstanceId"] for one in answer["Instances"]] == [aws.instances()[0].id]


def test_what_is_new_can_be_hidden_and_listings_empty(aws: Aws) -> None:
    instance = launch(aws)
    send(aws, instance, "true")
    ec2, ssm = aws.client("ec2", caller=AIRFLOW), aws.client("ssm", caller=AIRFLOW)
    hide = aws.faults.add(Rule("hide", first=2))
    for _ in range(2):
        assert not ec2.describe_instances()["Reservations"]
        assert not ssm.list_command_invocations()["CommandInvocations"]
    assert ec2.describe_instances()["Reservations"]
    assert ssm.list_command_invocations()["CommandInvocations"]
    aws.faults.remove(hide)
    aws.faults.add(Rule("empty", "ssm", "ListCommandInvocations", times=1))
    assert not ssm.list_command_invocations()["CommandInvocations"]
    assert ssm.list_command_invocations()["CommandInvocations"]


def test_a_test_can_act_at_one_call_of_one_caller(tmp_path: Path) -> None:
    seen: list[str] = []
    faults = Faults(before=lambda call: seen.append(f"{call.caller} {call.action}"))
    faults.add(Rule("deny", "s3", "PutObject", caller="instance"))
    with Aws(tmp_path, faults=faults, boot_seconds=0.1, agent_seconds=0.1) as aws:
        aws.client("s3").create_bucket(Bucket="lake")
        put = "import boto3; boto3.client('s3').put_object(Bucket='lake', Key='k', Body=b'')"
        instance = launch(aws)
        found = result(aws, send(aws, instance, f'python -c "{put}"'))
        assert "AccessDenied" in found["StandardErrorContent"]
        aws.client("s3", caller=AIRFLOW).put_object(Bucket="lake", Key="k", Body=b"")
    assert seen == [f"{instance.id} PutObject", "airflow PutObject"]


STUBBORN = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.setsid(); time.sleep(99)"


@pytest.mark.parametrize("how", ["TerminateInstances", "crash"])
def test_of_an_instance_that_ended_no_process_is_left(aws: Aws, how: str) -> None:
    instance = launch(aws)
    lines = [f"env -i $(which python) -c '{STUBBORN}' &", "sleep 304 &", "echo > begun", "wait"]
    command = send(aws, instance, *lines)
    eventually((instance.folder / "begun").exists)
    assert eventually(lambda: len(aws.processes(instance.id)) >= 5)
    if how == "crash":
        aws.crash(instance.id)
    else:
        answer = aws.client("ec2").terminate_instances(InstanceIds=[instance.id])
        change = answer["TerminatingInstances"][0]
        assert change["CurrentState"]["Name"] == "shutting-down"
        assert change["PreviousState"]["Name"] == "running"
    eventually(instance.gone.is_set)
    assert not aws.processes(instance.id)
    assert (instance.state, instance.why) == ("terminated", how)
    eventually(lambda: command.ended)
    ssm = aws.client("ssm")
    found = ssm.get_command_invocation(CommandId=command.id, InstanceId=instance.id)
    assert found["Status"] == "InProgress"
    with pytest.raises(ClientError) as error:
        send(aws, instance, "true")
    assert code(error) == "InvalidInstanceId"


def test_commands_that_run_at_once_are_counted_by_job(aws: Aws) -> None:
    instance = launch(aws)
    first = send(aws, instance, "python -c 'import time; time.sleep(1)' train")
    second = send(aws, instance, "python -c 'import time; time.sleep(1)' train")
    for command in (first, second):
        assert result(aws, command)["Status"] == "Success"
    assert aws.most_running("train") == {"a job": 2}


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with Aws(tmp_path, boot_seconds=0.1, agent_seconds=0.1) as aws:
        instance = launch(aws)
        eventually(lambda: aws.processes(instance.id))
    assert not aws.processes(instance.id)
    assert not aws.alive()
