"""A small stand-in for Airflow's scheduler, to fly the DAG's real tasks through a hundred storms.

Each step of a task is a process that can be killed with -9 between any two calls, as a worker or a
triggerer can. The rules are Airflow's: a step that vanished or failed is tried again as long as
there are tries, ``AirflowFailException`` is not, what follows a failed task does not run, and the
teardown runs whatever happened. ``test_retraining`` flies the same DAG through the real one.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cloud import steps
from tests.cloud.faults import AIRFLOW, Call

_PATIENCE_SECONDS = 400.0  # two storms and a suite share the cores
_RETRY_SECONDS = 0.2
KILLED_WORKER, KILLED_TRIGGER = "worker killed", "trigger killed"
TWICE, WRONG_CLOCK = "step delivered twice", "wrong clock"


@dataclass
class Storm:
    """What happens to the processes of one run; calls are counted from 1 over the run.

    Attributes:
        kill_worker_at: Numbers of calls by workers, each of which its worker does not survive.
        after: Whether the call is executed before its worker dies.
        kill_trigger_after: Seconds after which a trigger is killed and started anew, once each.
        twice: Tasks whose first step is delivered twice.
        skew_seconds: How wrong the clocks of workers and triggerer go.
    """

    kill_worker_at: frozenset[int] = frozenset()
    after: bool = False
    kill_trigger_after: list[float] = field(default_factory=list)
    twice: frozenset[str] = frozenset()
    skew_seconds: tuple[float, float] = (0.0, 0.0)


class Pilot:
    """Flies runs of one DAG; the environment of this process is that of its workers.

    Args:
        folder: For outcomes and logs of the steps.
        dag_id: Whose tasks.
        skipped: Tasks that are not flown (a wait for a table).
        rendered: The values of template fields.

    Attributes:
        struck: How often each kind of the storm did in the newest run.
    """

    def __init__(
        self, folder: Path, dag_id: str, *, skipped: tuple[str, ...], rendered: Mapping[str, Any]
    ) -> None:
        self.folder, self.dag_id, self.skipped = folder, dag_id, skipped
        self.rendered = dict(rendered)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.cloud.warm"])
        self._tasks = list(steps.tasks(dag_id).values())
        self._storm, self._calls = Storm(), 0
        self.struck = Counter[str]()
        self._workers: dict[int, Any] = {}

    def meet(self, call: Call, *, executed: bool) -> None:
        """Called with each call to AWS: the moment to kill its worker, as the storm says."""
        if call.caller != AIRFLOW or executed != self._storm.after:
            return
        workers = [each for each in self._workers.values() if each.is_alive()]
        if not workers:
            return  # the triggerer's
        self._calls += 1
        if self._calls in self._storm.kill_worker_at:
            self.struck[KILLED_WORKER] += 1
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)

    def fly(self, run_id: str, storm: Storm) -> dict[str, dict[str, Any]]:
        """One run of the DAG; gives each task's last outcome."""
        self._storm, self._calls = storm, 0
        self.struck = Counter()
        outcomes: dict[str, dict[str, Any]] = {}
        failed = False
        for task in self._tasks:
            if task.task_id in self.skipped:
                continue
            if failed and not task.is_teardown:
                outcomes[task.task_id] = {"state": "upstream_failed"}
                continue
            outcomes[task.task_id] = self._task(task, run_id)
            failed = failed or outcomes[task.task_id]["state"] != "success"
        return outcomes

    def _task(self, task: Any, run_id: str) -> dict[str, Any]:
        folder = self.folder / run_id.replace("/", "_") / task.task_id
        folder.mkdir(parents=True)
        outcome: dict[str, Any] = {}
        for number in range(1, task.retries + 2):
            outcome = self._try(task, run_id, number, folder)
            outcome["try_number"] = number
            if outcome["state"] in ("success", "failed", "skipped"):
                return outcome
            time.sleep(_RETRY_SECONDS)
        return {**outcome, "state": "failed"}

    def _try(self, task: Any, run_id: str, number: int, folder: Path) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE_SECONDS
        event, method, count = None, "", 0
        while time.monotonic() < until:
            given = {
                "dag_id": self.dag_id,
                "task_id": task.task_id,
                "run_id": run_id,
                "try_number": number,
                "rendered": self.rendered,
                "params": {},
                "event": event,
                "method": method,
                "skew_seconds": self._storm.skew_seconds[0],
            }
            copies = 2 if task.task_id in self._storm.twice and event is None else 1
            outcome = self._work(given, folder, f"{number}-{count}", copies)
            if outcome is None:
                return {"state": "vanished"}
            if outcome["state"] != "deferred":
                return outcome
            method = outcome["method"]
            event = self._watch(outcome, folder / f"{number}-{count}.event", until)
            count += 1
        return {"state": "late"}

    def _work(
        self, given: dict[str, Any], folder: Path, name: str, copies: int
    ) -> dict[str, Any] | None:
        """Do a step, as often as it is delivered; the first delivery's outcome counts."""
        self.struck[TWICE] += copies > 1
        self.struck[WRONG_CLOCK] += given["skew_seconds"] != 0
        outs = [folder / f"{name}-{number}.json" for number in range(copies)]
        workers = [self._processes.Process(target=steps.work, args=(given, out)) for out in outs]
        for worker in workers:
            worker.start()
            self._workers[worker.pid] = worker
        for worker in workers:
            worker.join(_PATIENCE_SECONDS)
            del self._workers[worker.pid]
        return json.loads(outs[0].read_text()) if outs[0].exists() else None

    def _watch(self, outcome: dict[str, Any], out: Path, until: float) -> Any:
        kills = self._storm.kill_trigger_after
        while True:
            self.struck[WRONG_CLOCK] += self._storm.skew_seconds[1] != 0
            arguments = (outcome["path"], outcome["arguments"], self._storm.skew_seconds[1], out)
            process = self._processes.Process(target=steps.watch, args=arguments)
            process.start()
            is_planned = bool(kills)
            process.join(kills.pop() if is_planned else max(0.0, until - time.monotonic()))
            if out.exists():
                return json.loads(out.read_text())
            self.struck[KILLED_TRIGGER] += is_planned and process.is_alive()
            process.kill()
            process.join()
            if time.monotonic() > until:
                log = out.with_suffix(".log")
                msg = f"no event in time: {log.read_text()[-3000:] if log.exists() else ''}"
                raise AssertionError(msg)


def storm_of(seed: int) -> Storm:
    """Some of everything."""
    dice = random.Random(seed)
    return Storm(
        kill_worker_at=frozenset(dice.sample(range(1, 60), dice.choice((0, 0, 1, 2)))),
        after=dice.random() < 0.5,
        kill_trigger_after=[dice.uniform(0.3, 3.0) for _ in range(dice.choice((0, 0, 1, 3)))],
        twice=frozenset(dice.sample(["train", "evaluate"], dice.choice((0, 0, 1)))),
        skew_seconds=(dice.choice((0, 0, -600, 600)), dice.choice((0, 0, -600, 600))),
    )
