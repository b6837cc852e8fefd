"""Instances, their metadata and the objects of the AWS that executes."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.cloud.asking import HOLD, PATIENT, code, launch, request, result, send
from tests.cloud.aws import Aws
from tests.cloud.waiting import eventually


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
    again = ec2.run_instances(**first)["Instances"]
    assert {tuple(one["InstanceId"] for one in again)} == ids
    assert {one["State"]["Name"] for one in again} == {"terminated"}
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
    found = result(aws, send(aws, instance, *PATIENT, "python reads.py lake"), 100)
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


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with Aws(tmp_path, boot_seconds=0.1, agent_seconds=0.1) as aws:
        instance = launch(aws)
        eventually(lambda: aws.processes(instance.id))
    assert not aws.processes(instance.id)
    assert not aws.alive()
