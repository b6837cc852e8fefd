"""The files under docs/aws can be used as they are, but for the ids in them."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lumos.cloud import EXAMPLE, Cloud, Databricks, Machine, read_cloud
from lumos.settings import REPOSITORY
from tests.cloud.iam import allows

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


CODE, LAKE = "my-lumos/lumos", "my-lake/tables"
KEEPS_OFF = [
    f"{CODE}/code/0123/lumos-0.1.0-py3-none-any.whl",
    f"{CODE}/databricks/databricks-init.sh",
    f"{CODE}/jobs/0123/record.json",
    f"{CODE}/jobs/0123/000/job.json",
    f"{CODE}/jobs/0123/000/stop",
    f"{LAKE}/raw/gym/checkins/2024.parquet",
    "my-lake/elsewhere/2024.parquet",
]


@pytest.mark.parametrize("policy", ["instance-role", "databricks"])
@pytest.mark.parametrize("key", KEEPS_OFF)
def test_a_rented_machine_can_change_neither_code_nor_records_nor_raw_tables(
    policy: str, key: str
) -> None:
    assert not allows(policy, "s3:PutObject", key)
    assert not allows(policy, "s3:DeleteObject", key)


@pytest.mark.parametrize(
    ("policy", "action", "key"),
    [
        ("instance-role", "s3:GetObject", f"{CODE}/code/0123/lumos-0.1.0-py3-none-any.whl"),
        ("instance-role", "s3:GetObject", f"{CODE}/jobs/0123/000/stop"),
        ("instance-role", "s3:PutObject", f"{CODE}/jobs/0123/000/i-0123/log-00000001"),
        ("instance-role", "s3:PutObject", f"{CODE}/train/gym/0123/state.json"),
        ("instance-role", "s3:DeleteObject", f"{CODE}/train/gym/0123/state.json"),
        ("instance-role", "s3:PutObject", f"{LAKE}/gym/forecasts/part-0.parquet"),
        ("databricks", "s3:GetObject", f"{CODE}/code/0123/lumos-0.1.0-py3-none-any.whl"),
        ("databricks", "s3:GetObject", f"{CODE}/databricks/databricks-init.sh"),
        ("databricks", "s3:GetObject", f"{LAKE}/raw/gym/checkins/2024.parquet"),
        ("databricks", "s3:PutObject", f"{LAKE}/gym/activity/part-0.parquet"),
    ],
)
def test_a_rented_machine_can_do_its_work(policy: str, action: str, key: str) -> None:
    assert allows(policy, action, key)


def test_the_bucket_forgets_what_jobs_left() -> None:
    rules = json.loads((FOLDER / "bucket-lifecycle.json").read_text())["Rules"]
    days = {rule["Filter"]["Prefix"]: rule.get("Expiration", {}).get("Days") for rule in rules}
    assert days == {"lumos/jobs/": 30, "lumos/train/": 30, "lumos/code/": 365, "": None}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_that_a_shell_can_read(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111


# What the runtime of a cluster has of its own, and a library of ours must not replace.
RUNTIME = {"pandas", "numpy", "pyspark", "py4j", "scipy", "pyarrow", "delta-spark"}
# What the Spark verbs import besides.
LIBRARIES = ("deltalake", "great-expectations", "holidays", "psutil", "pydantic", "rich")
PINNED = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==\S+ \\\n(?:    --hash=\S+(?: \\)?\n)+", re.M)


def needed(names: Iterable[str]) -> set[str]:
    """Distributions that these need, themselves included, without the runtime's."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found | RUNTIME:
            continue
        found.add(name)
        wanted = [Requirement(text) for text in requires(name) or ()]
        waiting += [each.name for each in wanted if not each.marker or each.marker.evaluate()]
    return found


def test_databricks_gets_the_lock_s_versions_with_their_hashes_and_all_that_they_need() -> None:
    lock, init = REPOSITORY / "requirements.txt", FOLDER / "databricks-init.sh"
    locked, given = (
        {canonicalize_name(match[1]): match[0] for match in PINNED.finditer(path.read_text())}
        for path in (lock, init)
    )
    # Where this fails, take these names' lines from requirements.txt.
    assert given == {name: locked[name] for name in sorted(needed(LIBRARIES))}
    assert "--no-deps --require-hashes" in init.read_text()


def test_the_guide_names_every_file_that_it_comes_with() -> None:
    guide = (REPOSITORY / "docs" / "aws.md").read_text()
    files = [path.name for path in FOLDER.iterdir()]
    assert [name for name in files if name not in guide] == []
