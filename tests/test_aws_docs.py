"""The files under docs/aws can be used as they are, but for the ids in them."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lumos.cloud import EXAMPLE, Cloud, Databricks, Machine, read_cloud
from lumos.settings import REPOSITORY

FOLDER = REPOSITORY / "docs" / "aws"
POLICIES = ("airflow", "instance-role", "databricks")
# AWS's service authorization reference names no resource that these could be held to. The last
# group is Systems Manager's agent: AWS's own policy for it says "*" as well.
WITHOUT_RESOURCE = re.compile(
    r"ec2:Describe\w+|servicequotas:GetServiceQuota"
    r"|ssm:(CancelCommand|DescribeInstanceInformation|GetCommandInvocation)"
    r"|ssm:UpdateInstanceInformation|ec2messages:\w+|ssmmessages:\w+"
)


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def statements(policy: str) -> Iterator[dict[str, Any]]:
    content = json.loads((FOLDER / f"{policy}-policy.json").read_text())
    assert content["Version"] == "2012-10-17"
    yield from content["Statement"]


def test_the_example_is_a_whole_cloud() -> None:
    cloud = read_cloud(REPOSITORY / EXAMPLE)
    assert cloud.machine("train").instance_type == "p4d.24xlarge"
    assert cloud.machine("score") == cloud.machines["default"]


@pytest.mark.parametrize("part", [Cloud, Machine, Databricks])
def test_the_example_shows_every_line_that_there_can_be(part: type) -> None:
    text = (REPOSITORY / EXAMPLE).read_text()
    # Serverless compute is the other choice; the comment above the table names it.
    fields = set(part.model_fields)  # type: ignore[attr-defined]
    shown = set(re.findall(r"^(?:# )?(\w+) = ", text, re.M))
    shown |= {
        name for table in re.findall(r"^\[+([\w.]+)\]", text, re.M) for name in table.split(".")
    }
    shown |= set(re.findall(r"`(\w+)`", text))
    assert fields <= shown


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_allows_no_more_than_it_must(policy: str) -> None:
    for statement in statements(policy):
        actions = as_list(statement["Action"])
        assert not [action for action in actions if "*" in action]
        if "*" in as_list(statement["Resource"]):
            assert [a for a in actions if not WITHOUT_RESOURCE.fullmatch(a)] == []


def test_airflow_may_end_and_command_only_what_carries_its_tag() -> None:
    def guarded(action: str) -> list[bool]:
        return [
            "lumos:owner" in json.dumps(statement.get("Condition", {}))
            for statement in statements("airflow")
            if action in as_list(statement["Action"])
            and any(":instance/" in resource for resource in as_list(statement["Resource"]))
        ]

    for action in ("ec2:RunInstances", "ec2:TerminateInstances", "ssm:SendCommand"):
        assert guarded(action) == [True]


def test_a_machine_can_start_no_other() -> None:
    actions = [a for each in statements("instance-role") for a in as_list(each["Action"])]
    assert not [action for action in actions if action.startswith(("ec2:", "iam:"))]


def test_the_bucket_forgets_what_jobs_left() -> None:
    rules = json.loads((FOLDER / "bucket-lifecycle.json").read_text())["Rules"]
    days = {rule["Filter"]["Prefix"]: rule.get("Expiration", {}).get("Days") for rule in rules}
    assert days == {"lumos/jobs/": 30, "lumos/train/": 30, "lumos/code/": 365, "": None}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_that_a_shell_can_read(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111


def test_databricks_gets_the_versions_of_the_lock() -> None:
    lock = set(re.findall(r"^(\S+==\S+)", (REPOSITORY / "requirements.txt").read_text(), re.M))
    wanted = re.findall(r"^  (\S+==\S+)", (FOLDER / "databricks-init.sh").read_text(), re.M)
    assert wanted
    assert [each for each in wanted if each not in lock] == []


def test_the_guide_names_every_file_that_it_comes_with() -> None:
    guide = (REPOSITORY / "docs" / "aws.md").read_text()
    files = [path.name for path in FOLDER.iterdir()]
    assert [name for name in files if name not in guide] == []
