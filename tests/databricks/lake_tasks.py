"""Wheel tasks for minilake, which skips them: what a cluster does, as processes of this machine.

Imported by ``lake.py`` in minilake's own interpreter. Quotes are the API reference's; "differs"
says where this is not as Databricks is.
"""

import asyncio
import contextvars
import itertools
import json
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minilake.errors import DatabricksError
from minilake.models.jobs import RunTaskInfo, Task
from minilake.services import jobs, workspace

_HERE = Path(__file__).parent
_LOG_BYTES = 5 * 1024 * 1024  # "restricts this API to return the last 5 MB of these logs"
_FAILURES = {
    "internal_error": ("CLOUD_FAILURE", "CLOUD_FAILURE", "instances were lost while starting"),
    "driver_lost": ("DRIVER_ERROR", "INTERNAL_ERROR", "could not reach the driver of cluster"),
    "library": ("LIBRARY_INSTALLATION_ERROR", "CLIENT_ERROR", "Library installation failed"),
    "cluster": ("INVALID_CLUSTER_REQUEST", "CLIENT_ERROR", "node type nope is not supported"),
}

faults: list[dict[str, Any]] = []
processes: dict[int, subprocess.Popen] = {}  # by run id
current_run: contextvars.ContextVar[int] = contextvars.ContextVar("current_run")
folder = Path(os.environ["MINILAKE_DATA_DIR"])
_numbers = itertools.count(1)


def take(key: str, matches: Any) -> dict[str, Any] | None:
    """The next planned fault of a kind, and one time less of it."""
    for fault in faults:
        if key in fault and matches(fault[key]) and fault.get("times", 1) > 0:
            fault["times"] = fault.get("times", 1) - 1
            return fault
    return None


def refuse(message: str) -> DatabricksError:
    """An answer 400."""
    return DatabricksError(error_code="INVALID_PARAMETER_VALUE", message=message, status_code=400)


def now() -> int:
    """Milliseconds of the epoch."""
    return int(time.time() * 1000)


def _library(uri: str) -> Path:
    """A wheel, from wherever a cluster may have it."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return _from_s3(parts.netloc, parts.path.lstrip("/"))
    if uri.startswith("/Workspace/"):
        # `/Workspace` is where files of the workspace are seen from compute.
        return workspace.resolve_workspace_path(uri.removeprefix("/Workspace"))
    if parts.scheme in ("", "file"):
        return Path(parts.path)
    raise refuse(f"Python wheels must be stored in ..., but the URI is '{uri}'")


def _from_s3(bucket: str, key: str) -> Path:
    """By the project's boto3: minilake's environment has none."""
    target = folder / f"{next(_numbers)}-{Path(key).name}"
    code = "import boto3,sys; boto3.client('s3').download_file(*sys.argv[1:])"
    done = subprocess.run(
        [os.environ["LAKE_PYTHON"], "-c", code, bucket, key, str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FileNotFoundError(done.stderr.strip().splitlines()[-1])
    return target


def _unpack(task: dict[str, Any], run: dict[str, Any]) -> Path:
    """Differs: unpacked beside what the interpreter has, not installed with what they require."""
    if task.get("environment_key"):
        specs = {each["environment_key"]: each["spec"] for each in run["_environments"]}
        uris = specs[task["environment_key"]]["dependencies"]
        # "libraries" is for clusters; serverless takes no S3.
        if any(uri.startswith("s3:") for uri in uris):
            raise refuse("dependencies of a serverless environment cannot be in S3")
    else:
        uris = [library["whl"] for library in task.get("libraries") or ()]
    target = folder / f"site-{next(_numbers)}"
    # Differs: what a requirement names is there already, or not at all.
    for uri in (uri for uri in uris if uri.endswith(".whl")):
        with zipfile.ZipFile(_library(uri)) as wheel:
            wheel.extractall(target)
    return target


def _environment(task: dict[str, Any], site: Path) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
    }
    kept |= {
        name: value for name, value in os.environ.items() if name.startswith(("AWS_", "JAVA_"))
    }
    extra = json.loads(os.environ.get("LAKE_EXTRA_PATH", "[]"))
    variables = (task.get("new_cluster") or {}).get("spark_env_vars") or {}
    return {**kept, **variables, "PYTHONPATH": os.pathsep.join([str(site), *extra])}


async def execute_task(task: Task, _argv: list[str]) -> RunTaskInfo:
    """Instead of minilake's, which skips wheel tasks."""
    run_id, task_run_id, started = current_run.get(), jobs._next_run_id(), now()
    run, spec = jobs._state["runs"][run_id], task.model_dump(exclude_none=True)
    running = {
        "task_key": task.task_key,
        "run_id": task_run_id,
        "start_time": started,
        "state": {"life_cycle_state": "RUNNING"},
    }
    # "runs/get" lists tasks from the start, and keeps the attempts before a repair.
    run["tasks"] = [*run["_past"], running]
    outcome = await asyncio.to_thread(_outcome, run_id, task_run_id, spec, run)
    return RunTaskInfo(
        task_key=task.task_key, run_id=task_run_id, start_time=started, end_time=now(), **outcome
    )


def _outcome(
    run_id: int, task_run_id: int, spec: dict[str, Any], run: dict[str, Any]
) -> dict[str, Any]:
    """Run it; gives its ``state`` and ``status``."""
    fault = take("run", lambda kind: kind != "driver_lost")
    if fault is not None:
        return _failed(*_FAILURES[fault["run"]], lost=_FAILURES[fault["run"]][1] != "CLIENT_ERROR")
    try:
        site = _unpack(spec, run)
    except (DatabricksError, OSError) as error:
        code, kind, _ = _FAILURES["library"]
        return _failed(code, kind, f"Library installation failed: {error}")
    said = _run_wheel(run_id, task_run_id, spec, site)
    if run["_cancel_requested"]:
        return _ended("CANCELED", "USER_CANCELED", "SUCCESS", "Run cancelled.")
    if said is None:
        return _failed(*_FAILURES["driver_lost"], lost=True)
    if said:
        message = "Workload failed, see run output for details"
        return _failed("RUN_EXECUTION_ERROR", "CLIENT_ERROR", message)
    return _ended("SUCCESS", "SUCCESS", "SUCCESS", "")


def _run_wheel(run_id: int, task_run_id: int, spec: dict[str, Any], site: Path) -> dict | None:
    """What its process said of its end; ``None`` if it was lost."""
    wheel, base = spec["python_wheel_task"], folder / f"task-{task_run_id}"
    result, output = base.with_suffix(".json"), base.with_suffix(".log")
    argv = [
        *(os.environ["LAKE_PYTHON"], os.environ["LAKE_GUARD"], "2", str(os.getpid())),
        *(os.environ["LAKE_PYTHON"], str(_HERE / "wheel_main.py"), str(result)),
        *(wheel["package_name"], wheel["entry_point"], *wheel.get("parameters", ())),
    ]
    is_lost = take("run", lambda kind: kind == "driver_lost") is not None
    with output.open("wb") as log:
        # Differs: stdout and stderr are one stream here, in the order in which they were written.
        process = processes[run_id] = _spawn(argv, log, _environment(spec, site))
    if is_lost:
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
    process.wait()
    said = json.loads(result.read_text()) if result.exists() and not is_lost else None
    text = output.read_bytes()
    outputs = jobs._state.setdefault("task_outputs", {})
    outputs[task_run_id] = {
        "logs": text[-_LOG_BYTES:].decode(errors="replace"),
        "logs_truncated": len(text) > _LOG_BYTES,
        **(said or {}),
    }
    return said


def _spawn(argv: list[str], log: Any, environment: dict[str, str]) -> subprocess.Popen:
    # Made by a thread of the executor, which asyncio keeps alive: PDEATHSIG is the thread's.
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def _ended(result: str, code: str, kind: str, message: str) -> dict[str, Any]:
    state = {"life_cycle_state": "TERMINATED", "result_state": result, "state_message": message}
    details = {"code": code, "type": kind, "message": message}
    return {"state": state, "status": {"state": "TERMINATED", "termination_details": details}}


def _failed(code: str, kind: str, message: str, *, lost: bool = False) -> dict[str, Any]:
    found = _ended("FAILED", code, kind, message)
    if lost:
        found["state"]["life_cycle_state"] = "INTERNAL_ERROR"
    return found
