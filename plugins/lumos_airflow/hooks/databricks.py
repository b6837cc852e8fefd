"""The calls to Databricks that a verb's run takes, and no decisions; errors come as sentences.

The provider's hook makes the requests and repeats those that are throttled. Its operators are not
used: they return an old run's failure on a retry, and raise although a repair has succeeded.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
)

from lumos_airflow.hooks.code import Shipped

_ENDED = {"TERMINATED", "SKIPPED", "INTERNAL_ERROR"}
_GET, _ME = ("GET", "2.2/jobs/runs/get"), ("GET", "2.0/preview/scim/v2/Me")
_MAKE_FOLDER, _IMPORT = ("POST", "2.0/workspace/mkdirs"), ("POST", "2.0/workspace/import")
_MOST_SAID = 1000
_ENOUGH_LATER = ("QUOTA", "LIMIT", "EXHAUSTED", "TEMPORARILY", "MAX_ACTIVE")


class RunGone(AirflowException):
    """Databricks does not know the run: it keeps one-time runs for 60 days."""


@dataclass(frozen=True)
class Run:
    """A run of one task, as ``runs/get`` shows it.

    Attributes:
        run_id: Of the run.
        url: Of its page.
        life: ``life_cycle_state`` of the run and all its repairs.
        task_run_id: Of the task's newest attempt, whose output is the verb's.
        result: ``result_state`` of that attempt. The run's own cannot tell the verb's fault from
            Databricks': it is INTERNAL_ERROR when a task failed for whatever reason.
        code: Its termination code, such as ``CLUSTER_ERROR``.
        kind: The type of that code, such as ``CLOUD_FAILURE``.
        message: What Databricks has to say, for people.
        repair_ids: Of its repairs, oldest first.
        is_repair_over: Whether the newest repair has an end, if there is one.
    """

    run_id: int
    url: str
    life: str
    task_run_id: int | None
    result: str
    code: str
    kind: str
    message: str
    repair_ids: tuple[int, ...]
    is_repair_over: bool

    @property
    def is_over(self) -> bool:
        """Nothing of it runs any more, and nothing will."""
        return self.life in _ENDED and self.is_repair_over


def read_run(answer: Mapping[str, Any]) -> Run:
    """Make a :class:`Run` of the answer of ``runs/get``."""
    state = answer["state"]
    attempts = [task for task in answer.get("tasks", ()) if task.get("run_id")]
    # A repair leaves the attempts before it in the list.
    task = max(attempts, key=lambda each: (each.get("start_time", 0), each["run_id"]), default={})
    of_task = task.get("state", {})
    told = (task.get("status") or {}).get("termination_details")
    told = told or (answer.get("status") or {}).get("termination_details") or {}
    repairs = [item for item in answer.get("repair_history", ()) if item.get("type") == "REPAIR"]
    messages = (of_task.get("state_message"), told.get("message"), state.get("state_message"))
    is_lost = of_task.get("life_cycle_state") == "INTERNAL_ERROR" or (
        not of_task and state["life_cycle_state"] == "INTERNAL_ERROR"
    )
    return Run(
        run_id=answer["run_id"],
        url=answer.get("run_page_url", ""),
        life=state["life_cycle_state"],
        task_run_id=task.get("run_id"),
        result=of_task.get("result_state") or state.get("result_state") or "",
        code=told.get("code") or ("INTERNAL_ERROR" if is_lost else ""),
        kind=told.get("type") or ("INTERNAL_ERROR" if is_lost else ""),
        message=next((said for said in messages if said), "")[:_MOST_SAID],
        repair_ids=tuple(item["id"] for item in repairs),
        # Asked right after a repair, the run may still show the end before it.
        is_repair_over=not repairs
        or repairs[-1].get("state", {}).get("life_cycle_state") in _ENDED,
    )


class Runs:
    """One-time runs by the Airflow connection ``conn_id``; every call may raise a sentence."""

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id

    @cached_property
    def _hook(self) -> Any:  # noqa: ANN401 - not at parse: it takes its time
        from airflow.providers.databricks.hooks.databricks import DatabricksHook

        return DatabricksHook(self.conn_id, caller="Lumos")

    def submit(self, request: Mapping[str, Any]) -> int:
        """Start a run, or find the one that the same ``idempotency_token`` started already."""
        with self._sentences("submit the run", is_ours=True):
            return int(self._hook.submit_run(dict(request)))

    def look(self, run_id: int) -> Run:
        """What Databricks says of a run now.

        Raises:
            RunGone: Nothing.
        """
        with self._sentences(f"look at run {run_id}"):
            request = {"run_id": run_id, "include_history": "true"}
            return read_run(self._hook._do_api_call(_GET, request))

    def output(self, task_run_id: int) -> dict[str, Any]:
        """``logs`` (their last 5 MB), ``error``, ``error_trace`` of an attempt that is over."""
        with self._sentences(f"read the output of run {task_run_id}"):
            return dict(self._hook.get_run_output(task_run_id))

    def cancel(self, run_id: int) -> None:
        """Ask for a run to end; it takes a while."""
        with self._sentences(f"cancel run {run_id}"):
            self._hook.cancel_run(run_id)

    def repair(self, run: Run) -> int:
        """Run its task again, as a part of the same run; gives the repair's id."""
        request: dict[str, Any] = {"run_id": run.run_id, "rerun_all_failed_tasks": True}
        if run.repair_ids:
            request["latest_repair_id"] = run.repair_ids[-1]
        with self._sentences(f"repair run {run.run_id}"):
            return int(self._hook.repair_run(request))

    def ship(self, shipped: Sequence[Shipped], files: Sequence[Path]) -> list[str]:
        """Put files into the home folder of the connection's user, unless they are there.

        Serverless compute installs from there and from volumes, not from S3; and of all folders
        only this one is surely not open to others.
        """
        with self._sentences("put the code into the workspace"):
            me = self._hook._do_api_call(_ME)["userName"]
            paths = []
            for each, path in zip(shipped, files, strict=True):
                folder = f"/Users/{me}/lumos/code/{each.sha256}"
                self._hook._do_api_call(_MAKE_FOLDER, {"path": folder})
                self._put(f"{folder}/{each.name}", path.read_bytes(), each.sha256)
                paths.append(f"/Workspace{folder}/{each.name}")  # as compute sees it
            return paths

    def _put(self, path: str, data: bytes, sha256: str) -> None:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise AirflowException(f"{path.rsplit('/', 1)[1]} was changed while it was shipped")
        content = base64.b64encode(data).decode()
        request = {"path": path, "format": "AUTO", "content": content, "overwrite": False}
        try:
            self._hook._do_api_call(_IMPORT, request)
        except AirflowException as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error):
                raise

    @contextmanager
    def _sentences(self, what: str, *, is_ours: bool = False) -> Iterator[None]:
        """Say what Databricks refused, and who can mend it; ``is_ours``: the request is at fault.

        Raises:
            AirflowFailException: A person must change something.
            AirflowException: It may go another time.
            RunGone: The run is not known.
        """
        from airflow.providers.databricks.exceptions import DatabricksApiError

        cannot = f"cannot {what} by the Airflow connection {self.conn_id}"
        try:
            yield
        except AirflowNotFoundException as error:
            msg = (
                f"cannot {what}: there is no Airflow connection {self.conn_id}. Make it: `airflow "
                f"connections add {self.conn_id} --conn-type databricks --conn-host "
                "https://WORKSPACE.cloud.databricks.com --conn-password TOKEN`"
            )
            raise AirflowFailException(msg) from error
        except DatabricksApiError as error:
            raise _refusal(error, cannot, is_ours=is_ours) from error
        except ValueError as error:  # it lacks a user or a password
            msg = f"{cannot}: {error}. Give it a token as its password"
            raise AirflowFailException(msg) from error
        except AirflowException as error:
            raise AirflowException(f"{cannot}: {error}") from error


def _refusal(error: Any, cannot: str, *, is_ours: bool) -> AirflowException:  # noqa: ANN401
    """What a status other than 2xx means; throttling and 5xx were repeated before."""
    code, said = _said(error)
    status, msg = error.http_status_code, f"{cannot} ({code}: {said})"
    if "does not exist" in said.lower() and "run" in said.lower() and not is_ours:
        return RunGone(msg)
    if status == 401:
        return AirflowFailException(f"{msg}: its token is wrong or has expired; renew it")
    if status == 403:
        remedy = "allow its user to create clusters and runs there, or take another user"
        return AirflowFailException(f"{msg}: {remedy}")
    if any(word in code or word in said.upper() for word in _ENOUGH_LATER):
        return AirflowException(f"{msg}: ask for a higher quota, or run fewer tasks at once")
    if is_ours and status in (400, 404):
        return AirflowFailException(f"{msg}: correct [databricks] in LUMOS_CLOUD")
    return AirflowException(msg)


def _said(error: Any) -> tuple[str, str]:  # noqa: ANN401 - DatabricksApiError
    """The error's code and message, by Databricks."""
    try:
        answer = error.__cause__.response.json()
        return str(answer["error_code"]), str(answer["message"])[:_MOST_SAID]
    except (AttributeError, KeyError, TypeError, ValueError):
        return f"HTTP {error.http_status_code}", str(error)[:_MOST_SAID]
