"""A real local Airflow: four processes, PostgreSQL, LocalExecutor, and its REST API.

Used by ``make demo``, ``make up`` and the tests. What the settings are for stands beside them;
``docs/operate.md`` lists folders and ports.
"""

import base64
import datetime as dt
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from demo.client import AirflowClient, AirflowError, Run, TaskState
from demo.postgres import Postgres
from demo.private import write_private
from demo.processes import Component, PidFile, free_port
from lumos.compute import num_cores
from lumos.host.process import child_environment
from lumos.settings import REPOSITORY

DAGS = (
    *("daily_aggregation", "data_quality", "retraining", "batch_scoring"),
    *("embedding", "ab_metrics", "aa_calibration", "retract_scores"),
    "maintenance",
)
# What makes verbs start sooner, by the variable that tells them where it listens. Without one they
# start as they do without Airflow, so one that ends is let lie.
_HELPERS = {
    "spark-pool": ("lumos.aggregate.jvms", "LUMOS_SPARK_POOL"),
    "warm-verbs": ("lumos.host.warm", "LUMOS_WARM_VERBS"),
}
_PARALLELISM = 2
_START_SECONDS = 300  # beside a busy suite; 15 on a quiet machine
_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


class LocalAirflow(AirflowClient):
    """Start on entry, stop on exit; nothing of it outlives this process.

    Args:
        home: ``LUMOS_HOME``; Airflow's own files go to ``home/airflow``, its database's and that of
            MLflow to ``home/postgres``.
        port: Of the UI and the REST API; none: a free one.
        environment: What every component and task sees (default: this process's).
        settings: Airflow's own, by section and key, that differ from those here.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        preferred_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self.home = home.absolute()
        self.airflow_home = self.home / "airflow"
        self.run_folder = self.airflow_home / "run"
        self.postgres = Postgres(self.home)
        self.port = free_port(port, preferred=preferred_port)
        super().__init__(f"http://127.0.0.1:{self.port}", self._secret("password"))
        self.environment = self._environment(os.environ if environment is None else environment)
        self._components: list[Component] = []
        self._pid_file = PidFile(self.run_folder / "supervisor.json")

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start the database and the four components, wait until all are healthy.

        Raises:
            AirflowError: One runs on this home already, or a component did not come up.
        """
        running = self._pid_file.read()
        if running:
            msg = (
                f"an Airflow runs on {self.home} already, at {running.get('url')}: "
                "stop it with `make down`"
            )
            raise AirflowError(msg)
        self._pid_file.write(url=self.url)
        try:
            self._write_passwords()
            self._components.append(self._component(self.postgres.NAME))
            if not self.postgres.is_migrated:
                self._migrate()
            is_local = self.environment.get("LUMOS_PLATFORM", "local") == "local"
            for name in (*_COMPONENTS, *(_HELPERS if is_local else ())):
                self._components.append(self._component(name))
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def _migrate(self) -> None:
        """Bring a database of other versions of Airflow and MLflow to those installed."""
        self.command("db", "migrate")
        self._run("mlflow", "db", "upgrade", self.postgres.url("mlflow"))
        self.postgres.mark_migrated()

    def stop(self) -> None:
        """The scheduler first, so that it starts nothing new; the database last."""
        scheduler = [part for part in self._components if part.name == "scheduler"]
        database = [part for part in self._components if part.name == self.postgres.NAME]
        rest = [part for part in self._components if part not in scheduler + database]
        for together in (scheduler, rest, database):
            for component in together:
                component.terminate()
            for component in together:
                component.join()
        self._components.clear()
        self.close()
        self._pid_file.remove()

    def crash(self, name: str) -> None:
        """Kill a component with -9, and start it again as its host's supervisor would."""
        self.kill(name)
        self.restart(name)

    def kill(self, name: str) -> None:
        """Kill a component with -9, and let it lie."""
        self._components[self._place(name)].kill()

    def restart(self, name: str) -> None:
        """Start a component that has ended, by itself or killed."""
        self._components[self._place(name)] = self._component(name)

    def is_running(self, name: str) -> bool:
        """Whether a component has not ended."""
        return self._components[self._place(name)].is_running

    def _place(self, name: str) -> int:
        return [component.name for component in self._components].index(name)

    def _component(self, name: str) -> Component:
        if name == self.postgres.NAME:
            return self.postgres.start(self.run_folder)
        module, environment = ["airflow", name], self.environment
        if name in _HELPERS:
            program, variable = _HELPERS[name]
            module = [program, environment[variable]]
            environment = child_environment(environment)
        argv = [sys.executable, "-m", *module]
        return Component(name, argv, folder=self.run_folder, environment=environment)

    def check_alive(self) -> None:
        """Raise an :class:`AirflowError` if a component ended by itself."""
        for component in self._components:
            if not component.is_running and component.name not in _HELPERS:
                msg = (
                    f"{component.name} ended by itself; the end of "
                    f"{component.log_path}:\n{component.last_lines()}"
                )
                raise AirflowError(msg)

    def command(self, *arguments: str) -> str:
        """Run ``airflow ARGUMENTS`` as a person at a terminal would; returns what it printed."""
        return self._run("airflow", *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout + done.stderr
        if done.returncode:
            msg = f"{program} {' '.join(arguments)} failed:\n" + "\n".join(
                printed.splitlines()[-15:]
            )
            raise AirflowError(msg)
        return printed

    def backfill(self, dag_id: str, first: dt.date, last: dt.date) -> list[Run]:
        """Backfill the days from ``first`` to ``last``, both included, as the UI does.

        Days that were run before are run again. Returns the runs, oldest first.
        """
        self._free_from_earlier_backfills(dag_id)
        body = {
            "dag_id": dag_id,
            "from_date": f"{first}T00:00:00Z",
            "to_date": f"{last}T00:00:00Z",
            "reprocess_behavior": "completed",
        }
        self.call("POST", "/backfills", json=body)
        end = last + dt.timedelta(days=1)
        found = self.call(
            "GET",
            f"/dags/{dag_id}/dagRuns",
            params={
                "logical_date_gte": f"{first}T00:00:00Z",
                "logical_date_lt": f"{end}T00:00:00Z",
                "run_type": "backfill",
                "order_by": "logical_date",
            },
        )
        return [
            Run(dag_id, run["dag_run_id"], dt.date.fromisoformat(run["logical_date"][:10]))
            for run in found["dag_runs"]
        ]

    def log(self, task: TaskState) -> tuple[Path, list[str]]:
        """The file of a task's last try, and its lines as people read them."""
        folder = self.airflow_home / "logs" / f"dag_id={task.run.dag_id}"
        folder = folder / f"run_id={task.run.run_id}" / f"task_id={task.task_id}"
        path = folder / f"attempt={task.try_number}.log"
        if not path.exists():
            return path, []
        lines = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                entry = {"event": line}
            lines.append(f"{entry.get('level', '')} {entry.get('event', '')}".strip())
            # Airflow keeps what was raised beside the event, not in it.
            lines += [
                f"{error.get('exc_type', '')}: {error.get('exc_value', '')}"
                for error in entry.get("error_detail") or ()
            ]
        return path, lines

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        kept = {
            name: value
            for name, value in given.items()
            # Another Airflow's settings would be none of ours; its connections are.
            if not name.startswith("AIRFLOW") or name.startswith("AIRFLOW_CONN_")
        }
        paths = [str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])]
        settings = {
            "CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            # Two heavy verbs fill two cores; waits that are deferred take no slot.
            "CORE__PARALLELISM": str(_PARALLELISM),
            # LUMOS_SCHEDULE=off: no run starts by itself, so nothing need start paused.
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            # Unset, each component makes these for itself, and they disagree: a triggerer ends at
            # the first trigger that was encrypted with another one's.
            "CORE__FERNET_KEY": self._fernet_keys(),
            "API__SECRET_KEY": self._secret("session"),
            "API_AUTH__JWT_SECRET": self._secret("jwt"),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords_path),
            "DATABASE__SQL_ALCHEMY_CONN": self.postgres.url("airflow"),
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            # Without it tasks and links go to localhost:8080.
            "API__BASE_URL": self.url,
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            # Orchestration of five tasks takes 7 s at the default of 1 s; at .2 s the scheduler's
            # loop alone takes a sixth of a core.
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # On busy cores the server's first answers take longer than 5 s; without them a task is
            # given up and tried again.
            "WORKERS__EXECUTION_API_TIMEOUT": "60",
            # DAG files do not change here, and parsing them costs cores. But a callback that comes
            # while its file is at work waits for the next parse (apache/airflow#13662): so long may
            # an alert be late.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            # One that is ended, at the default of 50 s on busy cores, is not called again.
            "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
            **self._settings,
        }
        return {
            "LUMOS_SCHEDULE": "off",
            "LUMOS_POLL_SECONDS": "1",
            "LUMOS_RETRY_SECONDS": "5",
            # Of a verb: as many as it has when another one runs beside it.
            "OMP_NUM_THREADS": str(max(1, num_cores() // _PARALLELISM)),
            **kept,
            "LUMOS_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": kept.get("MLFLOW_TRACKING_URI") or self.postgres.url("mlflow"),
            **{variable: str(self.run_folder / name) for name, (_, variable) in _HELPERS.items()},
            "AIRFLOW_HOME": str(self.airflow_home),
            "PYTHONPATH": os.pathsep.join(paths),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        }

    @property
    def _passwords_path(self) -> Path:
        return self.airflow_home / "simple_auth_manager_passwords.json.generated"

    def _secret(self, name: str) -> str:
        """A random one per home, kept, so that a restart logs nobody out."""
        path = self.run_folder / "secrets" / name
        # A power cut can leave an empty one.
        if not path.exists() or not path.read_text():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text()

    def _fernet_keys(self) -> str:
        """What encrypts connections: the key of this home, and one that Airflow made earlier."""
        keys = [base64.urlsafe_b64encode(self._secret("fernet").encode()).decode()]
        configured = self.airflow_home / "airflow.cfg"
        if configured.exists():
            keys += re.findall(r"^fernet_key = (\S+)$", configured.read_text(), re.MULTILINE)
        return ",".join(dict.fromkeys(keys))

    def _write_passwords(self) -> None:
        write_private(self._passwords_path, json.dumps({"admin": self.password}))

    def _wait_until_healthy(self) -> None:
        until = time.monotonic() + _START_SECONDS
        missing = "the API"
        while time.monotonic() < until:
            self.check_alive()
            try:
                missing = self._missing()
            except (httpx.TransportError, httpx.HTTPStatusError):  # it is still starting
                missing = "the API"
            if not missing:
                return
            time.sleep(0.3)
        msg = f"Airflow was not up after {_START_SECONDS} s ({missing}); logs: {self.run_folder}"
        raise AirflowError(msg)

    def _missing(self) -> str:
        """What is not there yet, in words; empty when all is."""
        health = self.call("GET", "/monitor/health")
        for name in ("metadatabase", "scheduler", "triggerer", "dag_processor"):
            if health[name]["status"] != "healthy":
                return name
        broken = self.call("GET", "/importErrors")["import_errors"]
        if broken:
            msg = f"DAG file {broken[0]['filename']}:\n{broken[0]['stack_trace'][-1500:]}"
            raise AirflowError(msg)
        found = {dag["dag_id"] for dag in self.call("GET", "/dags")["dags"]}
        return ", ".join(sorted(set(DAGS) - found))

    def _free_from_earlier_backfills(self, dag_id: str) -> None:
        """Close backfills whose runs have ended.

        Airflow notices only after half a minute, and refuses another one until then.
        """
        found = self.call("GET", "/backfills", params={"dag_id": dag_id, "active": True})
        for backfill in found["backfills"]:
            busy = self.call(
                "GET",
                f"/dags/{dag_id}/dagRuns",
                params={"run_type": "backfill", "state": ["queued", "running"]},
            )
            if backfill["completed_at"] is None and not busy["dag_runs"]:
                self.call("PUT", f"/backfills/{backfill['id']}/cancel")
