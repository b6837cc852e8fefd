"""Commands are executed as the Systems Manager agent executes them."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cloud.asking import code, launch, request, result, send
from tests.cloud.aws import Aws
from tests.cloud.waiting import eventually


def test_a_command_is_accepted_only_once_the_agent_has_reported(tmp_path: Path) -> None:
    with Aws(tmp_path, boot_seconds=0.2, agent_seconds=2.0) as aws:
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
            import os, sys
            import torch.distributed as dist
            dist.init_process_group("gloo")
            os.write(1, b"rank %d of %d\\n" % (dist.get_rank(), dist.get_world_size()))
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
    left = aws.command_lines(instance.id)
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


def test_commands_that_run_at_once_are_counted_by_job(aws: Aws) -> None:
    instance = launch(aws)
    first = send(aws, instance, "python -c 'import time; time.sleep(1)' train")
    second = send(aws, instance, "python -c 'import time; time.sleep(1)' train")
    for command in (first, second):
        assert result(aws, command)["Status"] == "Success"
    assert aws.most_running("train") == {"a job": 2}
