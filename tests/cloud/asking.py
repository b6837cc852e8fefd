"""The calls that nearly every test on the executing AWS makes."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from lumos.host.bootstrap import PATIENCE
from tests.cloud.aws import Aws
from tests.cloud.command import Command
from tests.cloud.instance import Instance
from tests.cloud.waiting import eventually

HOLD = "sleep 300"
# Before a command of ours that asks for credentials: what the bootstrap sets, and for its reason.
PATIENT = tuple(f"export {name}={value}" for name, value in PATIENCE.items())


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
