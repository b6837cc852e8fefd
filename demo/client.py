"""Airflow's REST API, as much of it as a person clicking through the UI would use."""

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

_ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}
_TOKEN_SECONDS = 3600
_ANSWER_SECONDS = 120  # two busy cores can keep a request waiting


class AirflowError(Exception):
    """The local Airflow did not do what was asked; says why and where its logs are."""


@dataclass(frozen=True)
class Run:
    """One DAG run, by its two names, and the business date it works on."""

    dag_id: str
    run_id: str
    date: dt.date


@dataclass(frozen=True)
class TaskState:
    """A task of a run as Airflow sees it now; ``seconds`` is None before it started."""

    run: Run
    task_id: str
    state: str
    seconds: float | None
    try_number: int

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more by itself."""
        return self.state in _ENDED


class AirflowClient:
    """Logs in when needed; every method is one or two calls.

    Args:
        url: Such as ``http://127.0.0.1:8080``.
        password: Of the user ``admin``.
    """

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        self.password = password
        self._client: httpx.Client | None = None
        self._token_until = 0.0

    def close(self) -> None:
        """Forget the connection and the token."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, method: str, path: str, **keywords: Any) -> Any:  # noqa: ANN401 - JSON
        """One REST call below ``/api/v2``; returns the parsed answer.

        Raises:
            AirflowError: It answered with an error, or not at all.
        """
        if self._client is None or time.monotonic() > self._token_until:
            self._log_in()
        assert self._client is not None
        try:
            answer = self._client.request(method, f"/api/v2{path}", **keywords)
        except httpx.HTTPError as error:
            msg = f"{method} {path}: no answer from {self.url} ({error})"
            raise AirflowError(msg) from error
        if answer.is_error:
            msg = f"{method} {path} answered {answer.status_code}: {answer.text[:500]}"
            raise AirflowError(msg)
        return answer.json() if answer.content else None

    def trigger(self, dag_id: str, *, date: dt.date, conf: Mapping[str, Any] | None = None) -> Run:
        """Start a run by hand for a business date, as the form in the UI does."""
        body = {
            "logical_date": None,
            "conf": {"business_date": date.isoformat(), **(conf or {})},
        }
        answer = self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)
        return Run(dag_id, answer["dag_run_id"], date)

    def state(self, run: Run) -> str:
        """Of the whole run: queued, running, success or failed."""
        return str(self.call("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}")["state"])

    def tasks(self, runs: Sequence[Run]) -> list[TaskState]:
        """The tasks of some runs; by GET, for a POST of Airflow's writes to its audit log."""
        return [
            TaskState(
                run=run,
                task_id=item["task_id"],
                state=item["state"] or "waiting",
                seconds=item["duration"],
                try_number=item["try_number"],
            )
            for run in runs
            for item in self.call("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances")[
                "task_instances"
            ]
        ]

    def wait(self, runs: Sequence[Run], *, timeout_seconds: float) -> dict[Run, str]:
        """Block until all runs have ended; gives their states.

        Raises:
            AirflowError: They have not, in that time.
        """
        until = time.monotonic() + timeout_seconds
        while True:
            states = {run: self.state(run) for run in runs}
            if all(state in _ENDED for state in states.values()):
                return states
            if time.monotonic() > until:
                left = [f"{r.dag_id} {s}" for r, s in states.items() if s not in _ENDED]
                msg = f"after {timeout_seconds:g} s not ended: {', '.join(left)}"
                raise AirflowError(msg)
            time.sleep(0.5)

    def xcom(self, run: Run, task_id: str, key: str = "return_value") -> Any:  # noqa: ANN401
        """What a task left, or ``None``."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries"
        keys = [entry["key"] for entry in self.call("GET", path)["xcom_entries"]]
        if key not in keys:
            return None
        return self.call("GET", f"{path}/{key}", params={"deserialize": True})["value"]

    def run_times(self, run: Run) -> dict[str, Any]:
        """State and seconds of a run."""
        found = self.call("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}")
        return {"state": found["state"], "seconds": found["duration"]}

    def abandon_unfinished(self) -> None:
        """Mark failed what an interrupted session left, or it would go on beside the new one."""
        unfinished = {"states": ["queued", "running"], "page_limit": 1000}
        found = self.call("POST", "/dags/~/dagRuns/list", json=unfinished)["dag_runs"]
        for run in found:
            path = f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}"
            self.call("PATCH", path, json={"state": "failed"})

    def _log_in(self) -> None:
        client = httpx.Client(base_url=self.url, timeout=_ANSWER_SECONDS)
        answer = client.post("/auth/token", json={"username": "admin", "password": self.password})
        answer.raise_for_status()
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        if self._client is not None:
            self._client.close()
        self._client, self._token_until = client, time.monotonic() + _TOKEN_SECONDS
