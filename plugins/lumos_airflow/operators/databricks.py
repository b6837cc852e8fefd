"""A verb as a one-time run on Databricks: submitted, waited for without a worker, concluded.

Databricks is asked for one run by an idempotency token, which names the task, its *generation*
(another one once it was cleared) and the attempt. So a worker may die at any moment: the retry
finds the run. A run that ended by a fault is left behind, and the next try is another attempt.
"""

import datetime as dt
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lumos.cloud import Cloud, read_cloud
from lumos.codes import BAD_INPUT, REFUSED
from lumos.host.process import Ended
from lumos.job import MARK, End, find_end
from lumos.settings import Settings
from lumos_airflow.hooks.code import ship
from lumos_airflow.hooks.databricks import Run, RunGone, Runs
from lumos_airflow.links.databricks import RUN_PAGE_URL, DatabricksRunLink
from lumos_airflow.operators.killed import aside
from lumos_airflow.operators.verb import VerbOperator
from lumos_airflow.reach import DATABRICKS, verb_environment
from lumos_airflow.record import task_of
from lumos_airflow.triggers.databricks import DatabricksRunTrigger
from lumos_airflow.wheel_task import (
    is_serverless,
    judge,
    sentence,
    submission,
    token,
)

_STEP_MINUTES = 30  # a worker only takes steps; the waits are the trigger's
_SPARE = dt.timedelta(minutes=30)  # Databricks ends a run by itself where Airflow is gone
_STORED = "databricks_runs"
_FINAL = (0, BAD_INPUT, REFUSED)
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


@dataclass(frozen=True)
class Attempt:
    """Which run is this task's now; ``deadline`` is ISO time with zone."""

    number: int = 0
    run_id: int | None = None
    deadline: str = ""


class DatabricksVerbOperator(VerbOperator):
    """``lumos-job VERB`` as a ``python_wheel_task`` of a run of its own; always deferred.

    Args:
        hours: When the run is cancelled, from its submission.
        needs_spark: Whether it gets ``databricks.cluster`` or ``databricks.small``.
    """

    ui_color = "#f7e4e0"
    operator_extra_links = (DatabricksRunLink(),)

    def __init__(
        self,
        *,
        hours: float = 2,
        needs_spark: bool = True,
        **kwargs: Any,  # noqa: ANN401 - VerbOperator's own
    ) -> None:
        kwargs.setdefault("execution_timeout", dt.timedelta(minutes=_STEP_MINUTES))
        super().__init__(**kwargs)
        self.hours = hours
        self.needs_spark = needs_spark
        self._run_id: int | None = None
        self._request: dict[str, Any] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit a run, or go on with the one of an earlier try.

        Raises:
            AirflowFailException: What a retry cannot mend, in a sentence.
            AirflowException: A fault worth a retry.
        """
        self.log.info("business date %s, recipe %s", self.date, self.recipe)
        return self._begin(context)

    def _begin(self, context: Context) -> dict[str, Any]:
        self._end_earlier(context)
        attempt = self._recall(context)
        run = self._found(attempt) if attempt.run_id is not None else None
        if attempt.run_id is not None and (run is None or self._is_spent(run)):
            self.log.info("run %s of an earlier try ended by a fault: another", attempt.run_id)
            attempt, run = Attempt(attempt.number + 1), None
        while run is None:
            attempt, run = self._submit(context, attempt)
            # What this try knows of earlier ones may be lost; their tokens are not.
            if self._is_spent(run) and attempt.number + 1 < context["ti"].try_number:
                attempt, run = Attempt(attempt.number + 1), None
        return self._walk(context, attempt, run)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Called when the trigger saw something."""
        attempt = self._recall(context)
        if event["run_id"] != attempt.run_id:  # of before the task was cleared
            return self._begin(context)
        self._run_id = attempt.run_id
        if event["what"] == "refused":
            raise AirflowException(event["why"])
        run = self._runs.look(event["run_id"])
        if event["what"] == "timeout" and (not run.is_over or run.result != "SUCCESS"):
            msg = f"run {run.run_id} of lumos {self.verb} took longer than {self.hours:g} h"
            raise AirflowException(f"{msg} and was cancelled: {event['why']}; see {run.url}")
        return self._walk(context, attempt, run)

    def on_kill(self) -> None:
        """Marked failed, cleared or terminated while a step is taken: end the run."""
        aside(self._cancel)

    def _cancel(self) -> None:
        if self._run_id is None and self._request is not None:
            # Killed while it was submitted: asking again tells the id, and starts no second one.
            self._run_id = self._runs.submit(self._request)
        if self._run_id is not None:
            self.log.warning("killed: cancelling run %d", self._run_id)
            self._runs.cancel(self._run_id)

    def code_uris(self) -> list[str]:
        """Where the compute finds the wheels, which are put there unless they are there."""
        shipped = ship(self._cloud, self._cloud.wheels)
        if is_serverless(self._cloud.databricks, needs_spark=self.needs_spark):
            return self._runs.ship(shipped, self._cloud.wheels)
        return [each.uri for each in shipped]

    @cached_property
    def _cloud(self) -> Cloud:
        try:
            return read_cloud(Settings.from_environment().cloud)
        except ValueError as error:
            raise AirflowFailException(str(error)) from error

    @cached_property
    def _runs(self) -> Runs:
        return Runs(self._cloud.databricks_conn_id)

    # -- one step

    def _submit(self, context: Context, attempt: Attempt) -> tuple[Attempt, Run]:
        environment = verb_environment(
            Settings.from_environment(),
            self._cloud,
            DATABRICKS,
            self.actor,
            LUMOS_HOME="/tmp/lumos",
        )
        task = task_of(context)
        budget = dt.timedelta(hours=self.hours)
        self._request = {
            **submission(
                self._cloud,
                self.arguments,
                environment=environment,
                wheels=self.code_uris(),
                needs_spark=self.needs_spark,
            ),
            "run_name": f"{task.dag_id}.{task.task_id} {self.date} {task.run_id}"[:4000],
            "idempotency_token": token(f"{self._cloud.root} {task.key}", attempt.number),
            "timeout_seconds": int((budget + _SPARE).total_seconds()),
        }
        self._run_id = None  # on_kill must not take an earlier attempt for it
        self._run_id = self._runs.submit(self._request)
        deadline = dt.datetime.now(dt.UTC).replace(microsecond=0) + budget
        attempt = replace(attempt, run_id=self._run_id, deadline=deadline.isoformat())
        self._remember(context, attempt)
        run = self._runs.look(self._run_id)
        self.log.info("lumos %s is run %d: %s", self.verb, run.run_id, run.url)
        self.log.info("Databricks hands out a run's log at its end; read it live on that page")
        return attempt, run

    def _walk(self, context: Context, attempt: Attempt, run: Run) -> dict[str, Any]:
        """Wait while it runs; repair it where Databricks was at fault; or conclude."""
        self._run_id = run.run_id
        for key in (RUN_PAGE_URL, DatabricksRunLink().xcom_key):
            context["ti"].xcom_push(key, run.url)
        if not run.is_over:
            self._wait(attempt, run)
        end, lines, error = self._output(run)
        for line in lines:
            level = _LEVEL.search(line[:40])
            self.log.log(logging.getLevelName(level.group()) if level else logging.INFO, line)
        verdict, why = judge(run, end), sentence(run, self.verb, error)
        if verdict == "theirs" and len(run.repair_ids) < self._cloud.databricks.repairs:
            self.log.warning("%s; repairing it", why)
            self._repair(attempt, run)
        if verdict == "done" and end is not None:
            return self.conclude(context, Ended(end.code, end.last_line, end.last_error))
        if verdict == "done":
            msg = (
                f"run {run.run_id} of lumos {self.verb} says success, but its output has no report"
            )
            raise AirflowFailException(f"{msg} of this verb, recipe and date; see {run.url}")
        kind = AirflowFailException if verdict == "ours" else AirflowException
        raise kind(f"{why}; see {run.url}")

    def _repair(self, attempt: Attempt, run: Run) -> None:
        """Run it again as a part of itself; where that is refused, the next try is another run."""
        try:
            repair_id = self._runs.repair(run)
        except AirflowException as error:
            self.log.warning("%s", error)
            return
        self._wait(attempt, run, repair_id=repair_id)

    def _wait(self, attempt: Attempt, run: Run, *, repair_id: int | None = None) -> NoReturn:
        self.defer(
            trigger=DatabricksRunTrigger(
                conn_id=self._cloud.databricks_conn_id,
                run_id=run.run_id,
                repair_id=repair_id,
                poll_seconds=self._cloud.databricks.poll_seconds,
                deadline=attempt.deadline,
            ),
            method_name="resume",
        )
        raise AssertionError  # defer() never returns

    # -- what is known

    def _output(self, run: Run) -> tuple[End | None, list[str], str]:
        """What the verb said at its end, if it did; the lines of its log; Databricks' error."""
        if run.task_run_id is None:
            return None, [], ""
        output = self._runs.output(run.task_run_id)
        logs, error = output.get("logs") or "", output.get("error") or ""
        arguments = self.arguments
        end = find_end(logs, arguments) or find_end(error, arguments)
        lines = [line for line in logs.splitlines() if line.strip() and MARK not in line]
        if output.get("logs_truncated"):
            lines = ["(the beginning is cut: Databricks keeps the last 5 MB)", *lines]
        return end, lines, error

    def _found(self, attempt: Attempt) -> Run | None:
        assert attempt.run_id is not None
        try:
            return self._runs.look(attempt.run_id)
        except RunGone:
            return None

    def _is_spent(self, run: Run) -> bool:
        """Whether it is over, and nothing can be had of it but another run."""
        if not run.is_over:
            return False
        end, _, _ = self._output(run)
        return judge(run, end) in ("fault", "theirs") or (
            end is not None and end.code not in _FINAL
        )

    def _end_earlier(self, context: Context) -> None:
        """Wait for what still runs of before the task was cleared: two would write one table.

        Airflow ends it by the trigger's ``on_kill``, but not where the trigger was not yet at work.
        """
        mine = str(task_of(context).generation)
        for generation, known in self._known(context).items():
            attempt = Attempt(**known)
            run = self._found(attempt) if generation != mine else None
            if run is not None and not run.is_over:
                self.log.info("run %d of before the task was cleared: ending it", run.run_id)
                self._wait(replace(attempt, deadline=dt.datetime.now(dt.UTC).isoformat()), run)

    def _known(self, context: Context) -> dict[str, Any]:
        """By generation."""
        known = context["task_state_store"].get(_STORED)
        return dict(known) if isinstance(known, dict) else {}

    def _recall(self, context: Context) -> Attempt:
        known = self._known(context).get(str(task_of(context).generation))
        return Attempt(**known) if known else Attempt()

    def _remember(self, context: Context, attempt: Attempt) -> None:
        known = self._known(context) | {str(task_of(context).generation): asdict(attempt)}
        context["task_state_store"].set(_STORED, known)
