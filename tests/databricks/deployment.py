"""A deployment on the emulated workspace: its file, its wheels, and tasks driven by hand."""

import asyncio
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import TaskDeferred
from lumos_airflow.operators.databricks import DatabricksVerbOperator

from lumos.settings import REPOSITORY
from tests.databricks.workspace import Workspace

BUCKET, PREFIX, DATE = "acme-lumos", "lumos", "2024-05-10"
CLUSTER = {"spark_version": "17.3.x-scala2.13", "node_type_id": "m6i.xlarge", "num_workers": 2}
_NAME = "lumos-0.1.0-py3-none-any.whl"


def stand_in_wheel(folder: Path, *, entry_point: str = "lumos.job:main") -> Path:
    """A package ``lumos`` with the real entry point around a stand-in of the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    found, source = folder / _NAME, REPOSITORY / "lumos"
    with zipfile.ZipFile(found, "w") as wheel:
        for name in ("__init__.py", "job.py", "compute.py", "frozen.py"):
            wheel.write(source / name, f"lumos/{name}")
        wheel.write(Path(__file__).with_name("stand_in.py"), "lumos/cli.py")
        info = "lumos-0.1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lumos\nVersion: 0.1.0\n")
        wheel.writestr(
            f"{info}/entry_points.txt", f"[console_scripts]\nlumos-job = {entry_point}\n"
        )
    return found


def cloud_file(
    folder: Path,
    wheels: Sequence[Path],
    *,
    databricks: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """``LUMOS_CLOUD``."""
    given = databricks or {"cluster": CLUSTER}
    inline = [f"{name} = {_toml(value)}" for name, value in given.items()]
    lines = [
        'region = "us-east-1"',
        f'bucket = "{BUCKET}"',
        f'prefix = "{PREFIX}"',
        f"wheels = {json.dumps([str(wheel) for wheel in wheels])}",
        f'lock = "{REPOSITORY / "requirements.txt"}"',
        "[environment]",
        *(f"{name} = {json.dumps(value)}" for name, value in (environment or {}).items()),
        "[databricks]",
        *inline,
        "[machines.default]",
        'instance_type = "p4d.24xlarge"',
        'ami = "ami-01234567"',
        'subnets = ["subnet-01234567"]',
        'security_groups = ["sg-01234567"]',
        'instance_profile = "lumos"',
        "hourly_usd = 21.96",
    ]
    path = folder / "cloud.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value)


class Store(dict[str, Any]):
    """``context["task_state_store"]``: JSON, and nothing else."""

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self[key] = json.loads(json.dumps(value))


@dataclass
class Task:
    """One task instance, and how Airflow takes it through its tries.

    Attributes:
        does: What the stand-in is asked for, ``KEY=VALUE``.
        arguments: Further ones of the operator.
        store: What survives its tries.
    """

    does: Sequence[str] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    verb: str = "sequences"
    retries: int = 2
    try_number: int = 1
    max_tries: int = 2
    run_id: str = "scheduled__1"
    dag_id: str = "daily_aggregation"
    task_id: str = "sequences"
    map_index: int = -1
    store: Store = field(default_factory=Store)
    pushed: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def clear(self) -> None:
        """As the API does: it may be tried as often again."""
        self.max_tries = self.try_number + self.retries
        self.try_number += 1

    def operator(self) -> DatabricksVerbOperator:
        given = {
            "verb": self.verb,
            "date": DATE,
            "recipe": "complete_journey",
            "options": {"does": json.dumps(list(self.does))},
            "overrides": "[]",
            "retries": self.retries,
            **self.arguments,
        }
        return DatabricksVerbOperator(task_id=self.task_id, **given)

    def context(self, operator: DatabricksVerbOperator) -> Any:
        return {
            "ti": self,
            "task": operator,
            "task_state_store": self.store,
            "outlet_events": {},
        }

    def start(self) -> TaskDeferred | dict[str, Any]:
        """The first step of a try, on a worker."""
        operator = self.operator()
        try:
            return operator.execute(self.context(operator))
        except TaskDeferred as deferred:
            return deferred

    def go_on(self, event: Mapping[str, Any]) -> TaskDeferred | dict[str, Any]:
        """The step after a trigger's event, on another worker."""
        operator = self.operator()
        try:
            return operator.resume(self.context(operator), event)
        except TaskDeferred as deferred:
            return deferred

    def run(self, at_defer: Callable[[TaskDeferred], None] | None = None) -> dict[str, Any]:
        """One try, to its end."""
        found = self.start()
        while isinstance(found, TaskDeferred):
            if at_defer is not None:
                at_defer(found)
            found = self.go_on(fire(found))
        return found


def runs_of(workspace: Workspace, task: Task) -> list[dict[str, Any]]:
    """The runs of one task, oldest first."""
    return [run for run in workspace.runs() if task.run_id in run["request"]["run_name"]]


def again(deferred: TaskDeferred, **changes: Any) -> Any:
    """The trigger as a triggerer makes it from what is stored, quicker."""
    path, arguments = deferred.trigger.serialize()
    kind = type(deferred.trigger)
    assert path == f"{kind.__module__}.{kind.__qualname__}"
    return kind(**{**json.loads(json.dumps(arguments)), "poll_seconds": 0.1, **changes})


def fire(deferred: TaskDeferred, seconds: float = 60, **changes: Any) -> dict[str, Any]:
    """Run a trigger to its event."""
    trigger = again(deferred, **changes)

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            found: dict[str, Any] = json.loads(json.dumps(event.payload))
            return found
        raise AssertionError

    return asyncio.run(asyncio.wait_for(first(), timeout=seconds))
