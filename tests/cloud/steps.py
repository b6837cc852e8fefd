"""One step of a task in a process of its own: what Airflow's worker and triggerer do, killable.

Preloaded by the pilot's fork server, so that a step costs milliseconds rather than the seconds
that importing Airflow takes.
"""

import asyncio
import datetime as dt
import json
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import lumos_airflow.operators.databricks
import lumos_airflow.operators.machines
import lumos_airflow.operators.torchrun_ec2
import lumos_airflow.triggers.databricks
import lumos_airflow.triggers.torchrun_ec2
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    TaskDeferred,
)

from lumos.settings import REPOSITORY
from tests.cloud.deployment import TaskInstance

_SKEWED = (
    lumos_airflow.operators.torchrun_ec2,
    lumos_airflow.operators.machines,
    lumos_airflow.triggers.torchrun_ec2,
)


class Store(dict[str, Any]):
    """``context["task_state_store"]``, kept in a file from one step to the next."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self._path = path

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self[key] = value
        write(self._path, dict(self))


class Pushed(dict[str, Any]):
    """What a task pushed is looked at by nobody here."""


@lru_cache
def tasks(dag_id: str) -> dict[str, Any]:
    """The operators of a DAG file, as the platform of this environment makes them."""
    bag = DagBag(str(REPOSITORY / "dags" / f"{dag_id}.py"))
    assert not bag.import_errors, bag.import_errors
    return {task.task_id: task for task in bag.dags[dag_id].topological_sort()}


def write(path: Path, content: Any) -> None:
    """All of it or nothing: the step may be killed at any moment."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(content))
    draft.replace(path)


def work(given: dict[str, Any], out: Path) -> None:
    """A worker's step: ``execute``, or what the trigger's event asks for."""
    _into(out)
    _skew(given["skew_seconds"])
    operator = tasks(given["dag_id"])[given["task_id"]].prepare_for_execution()
    for name, value in given["rendered"].items():
        if hasattr(operator, name):
            setattr(operator, name, value)
    ti = TaskInstance(
        try_number=given["try_number"],
        max_tries=operator.retries,
        run_id=given["run_id"],
        dag_id=given["dag_id"],
        task_id=given["task_id"],
    )
    context = {
        "ti": ti,
        "task": operator,
        "run_id": given["run_id"],
        "params": given["params"],
        "outlet_events": {asset: _Event() for asset in operator.outlets},
        "task_state_store": Store(out.with_name("store.json")),
    }
    try:
        if given["event"] is None:
            value = operator.execute(context)
        else:
            value = getattr(operator, given["method"])(context, given["event"])
    except TaskDeferred as deferred:
        path, arguments = deferred.trigger.serialize()
        content = {"state": "deferred", "path": path, "arguments": arguments}
        write(out, {**content, "method": deferred.method_name})
    except AirflowSkipException as error:
        write(out, {"state": "skipped", "why": str(error)})
    except AirflowFailException as error:
        write(out, {"state": "failed", "why": str(error)})
    except Exception as error:
        write(out, {"state": "up_for_retry", "why": f"{type(error).__name__}: {error}"})
    else:
        write(out, {"state": "success", "value": value})


def watch(path: str, arguments: dict[str, Any], skew_seconds: float, out: Path) -> None:
    """The triggerer's part: run a trigger to its event."""
    _into(out)
    _skew(skew_seconds)
    module, name = path.rsplit(".", 1)
    trigger = getattr(sys.modules[module], name)(**arguments)

    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError

    write(out, asyncio.run(first()))


class _Event:
    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}


def _into(out: Path) -> None:
    """Everything that is said goes to a file beside the outcome."""
    log = out.with_suffix(".log").open("ab", buffering=0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)


def _skew(seconds: float) -> None:
    """Let this process's clock go wrong, as far as our own code looks at it."""
    if not seconds:
        return

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + dt.timedelta(seconds=seconds)

    wrong = ModuleType("datetime")
    wrong.__dict__.update(dt.__dict__)
    wrong.__dict__["datetime"] = Clock
    for module in _SKEWED:
        module.dt = wrong  # type: ignore[attr-defined]
