"""The demo as a daily operator lives it: one day by hand, then two days by backfill.

Training is the longest chain and needs one core. So what needs no model of the two next days,
their tables, checks and experiments, is backfilled beside it; all scores are backfilled after it.
"""

import datetime as dt
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from demo import picture
from demo.airflow import LocalAirflow
from demo.client import Run, TaskState
from demo.watch import Watch
from lumos.recipes import load

TABLE_DAGS = ("daily_aggregation", "data_quality", "ab_metrics")
HISTORY_DAYS = 365
NEXT_DAYS = 2
# Seven epochs of the recipe's twenty: .0015 to .008 less AUC (docs/experiments.md), for a third of
# the time. One process leaves a core to the verbs beside it.
TRAINING = ("training.epochs=7", "training.processes=1")
_PATIENCE_SECONDS = 1800
_POLL_SECONDS = 2.0


class StoryFailed(Exception):
    """A run or a verb did not end well; the message says which, and shows the end of its log."""


@dataclass(frozen=True)
class Job:
    """A verb that ran, in or beside Airflow: whose task, how long, what it reported."""

    dag_id: str
    task_id: str
    date: dt.date
    state: str
    seconds: float
    process_seconds: float | None = None
    tries: int = 1
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in one demo."""
        return f"{self.dag_id}.{self.task_id}@{self.date}"


@dataclass(frozen=True)
class Told:
    """What happened: every job, every DAG run with its state and seconds, the whole time.

    ``picture`` says why there is none of the health page; empty if there is one.
    """

    jobs: Sequence[Job]
    runs: Sequence[Mapping[str, Any]]
    total_s: float
    picture: str = ""


def tell(airflow: LocalAirflow, *, date: dt.date, recipe: str, watch: Watch) -> Told:
    """Start Airflow and play the story; Airflow is left running for the caller to stop.

    Raises:
        StoryFailed: A DAG run or a verb failed.
        AirflowError: Airflow itself did.
    """
    started = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        landing = beside.submit(_verb, airflow, "land", date, watch)
        airflow.start()
        airflow.abandon_unfinished()
        story = _Story(airflow, date=date, recipe=recipe, watch=watch)
        story.jobs.append(landing.result())
        story.scores(after=story.tables())
        # Before the report, which shows it.
        why_not = picture.take(airflow, load(recipe).name, story.last)
        story.jobs.append(_verb(airflow, "report", story.last, watch))
    seconds = time.monotonic() - started
    return Told(story.collect(), story.run_facts(), seconds, why_not)


class _Story:
    def __init__(self, airflow: LocalAirflow, *, date: dt.date, recipe: str, watch: Watch) -> None:
        self.airflow, self.date, self.recipe, self.watch = airflow, date, recipe, watch
        self.last = date + dt.timedelta(days=NEXT_DAYS)
        self.jobs: list[Job] = []
        self.runs: list[Run] = []
        self._over: dict[Run, list[TaskState]] = {}

    def tables(self) -> Run:
        """Train on a year; beside it all of three days that needs no model. Gives the training."""
        aggregation = self._trigger("daily_aggregation", days=HISTORY_DAYS)
        # It waits for the tables by itself.
        retraining = self._trigger("retraining", settings=list(TRAINING))
        # Spark verbs beside the one that training waits for would make it slower.
        self._until([aggregation])
        self._trigger("data_quality")
        self._trigger("ab_metrics")
        self.jobs.append(_verb(self.airflow, "land", self.last, self.watch, f"--days={NEXT_DAYS}"))
        for dag_id in TABLE_DAGS:
            self._backfill(dag_id, self.date + dt.timedelta(days=1))
        return retraining

    def scores(self, *, after: Run) -> None:
        """Of all three days, for only now is there a champion."""
        self._until([after])
        self._backfill("batch_scoring", self.date)
        self._until(self.runs)

    def _backfill(self, dag_id: str, first: dt.date) -> None:
        """The days up to the last one, as an operator would catch up after a night off."""
        self.watch.say(f"backfill {dag_id} from {first} to {self.last}")
        self.runs += self.airflow.backfill(dag_id, first, self.last)

    def _trigger(self, dag_id: str, **conf: int | list[str]) -> Run:
        self.watch.say(f"trigger {dag_id} for {self.date} {json.dumps(conf) if conf else ''}")
        run = self.airflow.trigger(dag_id, date=self.date, conf={"recipe": self.recipe, **conf})
        self.runs.append(run)
        return run

    def _until(self, runs: Sequence[Run]) -> None:
        """Watch all runs until these have ended; stop at the first that failed."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            self.airflow.check_alive()
            tasks = self._tasks()
            self.watch.show(tasks)
            _fail_on(self.airflow, tasks)
            mine = [task for task in tasks if task.run in set(runs)]
            if mine and all(task.is_over for task in mine):
                return
            time.sleep(_POLL_SECONDS)
        msg = f"the DAG runs did not end within {_PATIENCE_SECONDS} s; see {self.airflow.url}"
        raise StoryFailed(msg)

    def _tasks(self) -> list[TaskState]:
        """All tasks; runs that have ended are not asked for again, which costs Airflow a query."""
        found = []
        for run in self.runs:
            tasks = self._over.get(run) or self.airflow.tasks([run])
            if tasks and all(task.is_over for task in tasks):
                self._over[run] = tasks
            found += tasks
        return found

    def collect(self) -> list[Job]:
        """All jobs with what they reported."""
        return [*self.jobs, *(self._job(task) for task in self.airflow.tasks(self.runs))]

    def _job(self, task: TaskState) -> Job:
        report, seconds = None, None
        if task.state == "success":
            report = self.airflow.xcom(task.run, task.task_id)
            if isinstance(report, dict) and "verb" in report:
                seconds = self.airflow.xcom(task.run, task.task_id, "process_seconds")
        return Job(
            dag_id=task.run.dag_id,
            task_id=task.task_id,
            date=task.run.date,
            state=task.state,
            seconds=round(task.seconds or 0.0, 2),
            process_seconds=seconds,
            tries=task.try_number,
            report=report if isinstance(report, dict) else {},
        )

    def run_facts(self) -> list[dict[str, Any]]:
        """State and seconds of every DAG run."""
        return [
            {
                "dag_id": run.dag_id,
                "date": run.date.isoformat(),
                "run_id": run.run_id,
                **self.airflow.run_times(run),
            }
            for run in self.runs
        ]


def _fail_on(airflow: LocalAirflow, tasks: Sequence[TaskState]) -> None:
    for task in tasks:
        if task.state == "failed":
            path, lines = airflow.log(task)
            msg = (
                f"task {task.task_id} of {task.run.dag_id} failed for {task.run.date}. "
                f"Its log: {path}\n" + "\n".join(f"  {line}" for line in lines[-15:])
            )
            raise StoryFailed(msg)


def _verb(airflow: LocalAirflow, verb: str, date: dt.date, watch: Watch, *options: str) -> Job:
    """A verb at the command line, as a person would, beside Airflow."""
    arguments = [verb, f"--date={date}", *options]
    watch.say(f"lumos {' '.join(arguments)}")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lumos", *arguments],
        env=airflow.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = round(time.monotonic() - started, 2)
    if done.returncode:
        end = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-15:])
        msg = f"lumos {verb} --date {date} ended with exit code {done.returncode}:\n{end}"
        raise StoryFailed(msg)
    report = json.loads(done.stdout.splitlines()[-1])
    return Job("(command line)", verb, date, "success", seconds, seconds, report=report)
