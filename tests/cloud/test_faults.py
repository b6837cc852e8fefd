"""What a test plans goes wrong, as it does at AWS."""

from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.cloud.asking import PATIENT, code, launch, request, result, send
from tests.cloud.aws import Aws
from tests.cloud.faults import AIRFLOW, Faults, Rule


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
        found = result(aws, send(aws, instance, *PATIENT, f'python -c "{put}"'))
        assert "AccessDenied" in found["StandardErrorContent"]
        aws.client("s3", caller=AIRFLOW).put_object(Bucket="lake", Key="k", Body=b"")
    assert seen == [f"{instance.id} PutObject", "airflow PutObject"]
