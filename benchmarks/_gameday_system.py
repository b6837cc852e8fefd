"""The system on its game day: a running Airflow, a registry, ears for alerts, and the runbook.

What on-call does goes one of three ways, each only if the runbook's section says so: a command is
typed as it stands there, a task is cleared or marked failed, a component is started again.
"""

import contextlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import psutil

from benchmarks._gameday_registry import PATIENCE_SECONDS, Registry, wait_for
from benchmarks._gameday_world import NAME, TODAY, States, put
from demo.airflow import LocalAirflow
from demo.client import AirflowError, Run
from lumos.delta import read
from lumos.tables import alerts_uri
from tests.airflow.sinks import Sinks, sinks
from tests.conftest import World
from tests.runbook import commands, sections

# Shorter than in production, and nothing else: a retry after a second, a lost worker or component
# noticed after some seconds, a registry that is down asked twice.
ENVIRONMENT = {
    "LUMOS_RETRY_SECONDS": "1",
    "LUMOS_DEADLINES": "embedding=0.008",
    "LUMOS_TIMEZONE": "Europe/Berlin",
    "LUMOS_SCORES_BY": "02:30",  # today there is none
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
SETTINGS = {
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
}


class NotInTheRunbook(Exception):
    """A step was wanted that the runbook's section does not have."""


@dataclass(frozen=True)
class Told:
    """An alert of Slack's: its section in the runbook, and words that must stand in it."""

    name: str
    says: str

    def seen(self, system: "System") -> str:
        """What was said, or nothing yet."""
        found = (text for text in system.heard(self.name) if re.search(self.says, text))
        return next(found, "")


@dataclass(frozen=True)
class Unhealthy:
    """What whoever watches Airflow's host sees, at the address that docs/alerts.md names."""

    component: str

    @property
    def name(self) -> str:
        """As an alert's."""
        return f"health of the {self.component}"

    def seen(self, system: "System") -> str:
        """What was said, or nothing yet."""
        try:
            health = system.airflow.call("GET", "/monitor/health")
        except AirflowError:  # slow is not down: the next answer tells
            return ""
        status = str(health[self.component]["status"])
        return "" if status == "healthy" else f"{self.component} is {status}"


class Expected(Protocol):
    """Something that tells whoever should know."""

    @property
    def name(self) -> str:
        """Of it."""

    def seen(self, system: "System") -> str:
        """What was said, or nothing yet."""


@dataclass
class System:
    """All that runs, and what was done to it by the runbook.

    Attributes:
        broken: When the fault came, on the monotonic clock.
        done: Steps of the runbook that were taken, as `section: step`.
    """

    states: States
    airflow: LocalAirflow
    ears: Sinks
    registry: "Registry"
    broken: float = 0
    done: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    after: ExitStack = field(default_factory=ExitStack)
    _heard_before: int = 0

    def begin(self, state: str) -> None:
        """Put the world into a state, and forget what was heard."""
        self.put(self.states.make(state))
        self.done, self.runs, self.broken = [], [], time.monotonic()
        self._heard_before = len(self.ears.slack)

    def put(self, world: World) -> None:
        """Let the system work on what a world holds."""
        with self.registry.away_for(world.home):
            put(world.home, self.states.world.home)

    def breaks(self) -> None:
        """The fault is there from now on."""
        self.broken = time.monotonic()

    def start(self, dag_id: str, **conf: object) -> Run:
        """The day's run of a DAG."""
        self.runs.append(self.airflow.trigger(dag_id, date=TODAY, conf=conf))
        return self.runs[-1]

    def heard(self, name: str = "") -> list[str]:
        """What Slack was told since the world was put into its state, of one name or of all."""
        texts = [json.dumps(message) for message in self.ears.slack[self._heard_before :]]
        return [text for text in texts if f"/lumos/runbook#{name}{'|' if name else ''}" in text]

    def names_heard(self) -> list[str]:
        """The names of all alerts, in order."""
        found = (re.search(r"/lumos/runbook#([a-z-]+)\|", text) for text in self.heard())
        return [match[1] for match in found if match]

    def open_alerts(self) -> list[str]:
        """Names in the table `alerts` that nobody has closed."""
        rows = read(alerts_uri(self.states.world.settings))
        return [] if rows is None else [r["name"] for r in rows.to_pylist() if r["state"] == "open"]

    def tidy(self) -> None:
        """Undo what a fault left, and end what still runs."""
        self.airflow.abandon_unfinished()
        wait_for(lambda: not self.processes("lumos"), seconds=30)
        self.after.close()

    def is_healthy(self) -> bool:
        """Whether Airflow says so of all its components."""
        health = self.airflow.call("GET", "/monitor/health")
        return all(part["status"] == "healthy" for part in health.values())

    def state_of(self, run: Run, task_id: str) -> str:
        """Of a task, now."""
        return next(t.state for t in self.airflow.tasks([run]) if t.task_id == task_id)

    def finish(self, run: Run, *, seconds: float = PATIENCE_SECONDS) -> bool:
        """Wait for its end; whether it was a good one."""
        return self.airflow.wait([run], timeout_seconds=seconds)[run] == "success"

    # What on-call does.

    def type(self, section: str, command: str) -> None:
        """Run a command that a section of the runbook has.

        Raises:
            NotInTheRunbook: It has not.
            RuntimeError: The command failed.
        """
        known = commands(sections()[section])
        if command not in known:
            msg = f"section {section} says nothing of {command!r}; it has {known}"
            raise NotInTheRunbook(msg)
        self.done.append(f"{section}: {command}")
        program, *arguments = shlex.split(command.replace("$DATE", TODAY.isoformat()))
        assert program == "lumos", command
        self.run(*arguments)

    def run(self, *arguments: str) -> None:
        """Run a verb, as at a worker's terminal.

        Raises:
            RuntimeError: It failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "lumos", *arguments],
            env=self.airflow.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            msg = f"lumos {arguments} ended with {done.returncode}: {done.stderr[-2000:]}"
            raise RuntimeError(msg)

    def clear(self, section: str, run: Run, task_id: str, *, says: str = r"[Cc]lear\b") -> None:
        """Clear a task and what comes after it, and see the run through.

        Raises:
            NotInTheRunbook: The section does not say so.
            RuntimeError: The run failed all the same.
        """
        self.says(section, says, f"clear {task_id}")
        self.finish(run)  # an alert is faster than the end of its run
        body = {
            "dry_run": False,
            "dag_run_id": run.run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "include_downstream": True,
        }
        self.airflow.call("POST", f"/dags/{run.dag_id}/clearTaskInstances", json=body)
        self.must_finish(run)

    def mark_failed(self, section: str, run: Run, task_id: str) -> None:
        """Mark a task failed, and wait until nothing of it runs."""
        self.says(section, r"\*Mark failed\*", f"mark {task_id} failed")
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}"
        self.airflow.call("PATCH", path, json={"new_state": "failed"})

    def says(self, section: str, words: str, step: str) -> None:
        """Take a step that needs no command, if the section has it."""
        if not re.search(words, sections()[section]):
            msg = f"section {section} does not say {words!r}"
            raise NotInTheRunbook(msg)
        self.done.append(f"{section}: {step}")

    def must_finish(self, run: Run) -> None:
        """Wait for a good end.

        Raises:
            RuntimeError: It was a bad one; with the end of the log of the task at fault.
        """
        if self.finish(run):
            return
        failed = [task for task in self.airflow.tasks([run]) if task.state == "failed"]
        logs = ["\n".join(self.airflow.log(task)[1][-15:]) for task in failed[:1]]
        msg = f"{[task.task_id for task in failed]} failed again: {' '.join(logs)[-2000:]}"
        raise RuntimeError(msg)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of the world's verbs whose command line has all these words."""
        found = []
        home = str(self.states.world.home)
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if all(any(word in part for part in line) for word in words):
                with contextlib.suppress(psutil.Error):
                    if process.environ().get("LUMOS_HOME") == home and "guard.py" not in str(line):
                        found.append(process)
        return found


@contextmanager
def running(states: States, environment: Mapping[str, str]) -> Iterator[System]:
    """Everything, until the block ends."""
    world = states.world
    with ExitStack() as stack:
        (states.scratch / "ears").mkdir(exist_ok=True)
        ears = stack.enter_context(sinks(states.scratch / "ears"))
        registry = Registry(world.home)
        stack.callback(registry.kill)
        registry.start()
        whole = {
            **world.environment,
            **ears.environment,
            **environment,
            "LUMOS_RECIPE": NAME,
            "MLFLOW_TRACKING_URI": registry.uri,
        }
        airflow = LocalAirflow(world.home, environment=whole, settings=SETTINGS)
        stack.enter_context(airflow)
        yield System(states, airflow, ears, registry)
