"""A deployment on the executing AWS: its file, its bucket, its wheels, and tasks driven by hand."""

import asyncio
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from lumos_airflow.hooks.torchrun_ec2 import shared_client

from lumos.settings import REPOSITORY
from tests.cloud.aws import Aws

BUCKET = "acme-lumos"
DATE = "2024-05-10"
POLL_SECONDS = 0.3


def build_wheel(folder: Path) -> Path:
    """The project's own, as ``make wheel`` makes it; from a copy, for building leaves files."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("lumos", "include"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "requirements.in", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "build", "--quiet", "--wheel", "--offline"),
            *("--no-build-isolation", "--python", sys.executable, "--out-dir", folder, source),
        ],
        check=True,
    )
    return next(folder.glob("lumos-*.whl"))


def wheel_around(name: str, other: str, wheel: Path, folder: Path) -> Path:
    """The project's wheel, the file ``lumos/NAME`` of it replaced by ``tests/cloud/OTHER``."""
    found = folder / wheel.name
    with zipfile.ZipFile(wheel) as real, zipfile.ZipFile(found, "w") as changed:
        for item in real.infolist():
            if item.filename != f"lumos/{name}":
                changed.writestr(item, real.read(item))
        changed.write(Path(__file__).with_name(other), f"lumos/{name}")
    return found


def folder_wheel(source: Path, found: Path) -> Path:
    """A package of someone's own recipes."""
    with zipfile.ZipFile(found, "w") as wheel:
        for path in sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                wheel.write(path, str(path.relative_to(source.parent)))
    return found


def cloud_file(
    aws: Aws,
    folder: Path,
    wheels: list[Path],
    *,
    machine: dict[str, Any] | None = None,
    prefix: str = "lumos",
) -> Path:
    """``LUMOS_CLOUD`` of this AWS; another prefix is another deployment."""
    network = aws.network()
    lock = folder / "requirements.txt"
    shutil.copy(REPOSITORY / "requirements.txt", lock)
    default = {
        "instance_type": "p4d.24xlarge",
        "ami": network["ami"],
        "subnets": network["subnets"],
        "security_groups": [network["security_group"]],
        "instance_profile": network["instance_profile"],
        "hourly_usd": 21.96,
        "poll_seconds": POLL_SECONDS,
        "python": sys.executable,
        "lock": str(lock),
        # Each of the emulator's machines has a home of its own, and they share one disk.
        "home": "~/lumos",
        **(machine or {}),
    }
    lines = [
        'region = "us-east-1"',
        f'bucket = "{BUCKET}"',
        f'prefix = "{prefix}"',
        f"wheels = {json.dumps([str(wheel) for wheel in wheels])}",
        f'lock = "{lock}"',
        "[databricks]",
        "poll_seconds = 0.5",
        "[databricks.cluster]",
        'spark_version = "17.3.x-scala2.13"',
        "num_workers = 1",
        "[machines.default]",
        *(f"{name} = {json.dumps(value)}" for name, value in default.items()),
    ]
    path = folder / "cloud.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class TaskInstance:
    """What the operator asks of Airflow about the task that runs."""

    try_number: int = 1
    max_tries: int = 2
    run_id: str = "manual__1"
    dag_id: str = "retraining"
    task_id: str = "train"
    map_index: int = -1
    pushed: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def context(ti: TaskInstance, operator: Any) -> dict[str, Any]:
    return {"ti": ti, "task": operator, "run_id": ti.run_id, "outlet_events": {}}


def fire(deferred: TaskDeferred, seconds: float = 100) -> dict[str, Any]:
    """Run a trigger as the triggerer does, from its serialised form; gives its event."""
    path, arguments = deferred.trigger.serialize()
    trigger = type(deferred.trigger)(**json.loads(json.dumps(arguments)))
    assert path == f"{type(trigger).__module__}.{type(trigger).__qualname__}"

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))
        raise AssertionError

    return asyncio.run(asyncio.wait_for(first(), timeout=seconds))


def drive(
    make: Callable[[], Any],
    ti: TaskInstance,
    *,
    at_defer: Callable[[TaskDeferred], None] | None = None,
    seconds: float = 100,
) -> dict[str, Any]:
    """Take a task through workers and triggerer to its end; each step has a fresh operator."""
    operator = make()
    step = lambda: operator.execute(context(ti, operator))  # noqa: E731
    while True:
        try:
            return step()
        except TaskDeferred as deferred:
            if at_defer is not None:
                at_defer(deferred)
            event = fire(deferred, seconds)
            operator = make()
            step = lambda: operator.resume(context(ti, operator), event)  # noqa: B023, E731


@contextmanager
def entered(aws: Aws, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """This process as a worker of the deployment."""
    aws.client("s3").create_bucket(Bucket=BUCKET)
    for name, value in {
        **aws.environment,
        "LUMOS_PLATFORM": "aws",
        "LUMOS_CLOUD": str(path),
        "LUMOS_RECIPE": "complete_journey",
        "LUMOS_LAKE": f"s3://{BUCKET}/lake",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    shared_client.cache_clear()  # of a server that another test had
    yield SimpleNamespace(aws=aws, cloud=path)
