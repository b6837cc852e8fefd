"""All of the cloud on this machine: AWS that executes, Databricks, MLflow's server, an Airflow."""

import contextlib
import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from demo.airflow import LocalAirflow
from demo.processes import Component, free_port
from lumos.settings import Settings
from tests.cloud.aws import Aws
from tests.cloud.deployment import BUCKET, cloud_file
from tests.cloud.faults import Faults
from tests.databricks.workspace import Workspace

# A component that died is missed within seconds, not within Airflow's five minutes.
_IMPATIENT = {
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
}


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """MLflow's own, its artefacts behind it: an address that all machines have."""
    folder.mkdir(parents=True)
    port = free_port()
    server = Component(
        "mlflow",
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        folder=folder,
        # Without its eight workers for jobs, which no test starts.
        environment={
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
    )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 90
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                assert server.is_running, server.last_lines()
                assert time.monotonic() < until, server.last_lines()
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.join()


class Stage:
    """One deployment with ``LUMOS_PLATFORM=aws``, while the ``with`` lasts.

    Args:
        folder: For everything.
        lake: A lake on this disk, copied into the bucket.
        wheels: The code.
        recipe: Of all runs.
        machine: What differs from ``deployment.cloud_file``'s.
        variables: Further ones of Airflow.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lake: Path,
        wheels: list[Path],
        recipe: str,
        machine: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.folder = folder
        self.aws = Aws(folder / "cloud", faults=faults, boot_seconds=0.3, agent_seconds=0.3)
        self._lake, self._wheels, self._recipe = lake, wheels, recipe
        self._machine, self._variables = dict(machine or {}), dict(variables or {})
        self._exit = contextlib.ExitStack()
        self.airflow: LocalAirflow
        self.workspace: Workspace
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.aws)
            self.aws.client("s3").create_bucket(Bucket=BUCKET)
            self._upload()
            path = cloud_file(self.aws, self.folder, self._wheels, machine=self._machine)
            mlflow = stack.enter_context(tracking_server(self.folder / "mlflow"))
            self.workspace = stack.enter_context(
                Workspace(self.folder / "workspace", variables=self.aws.environment)
            )
            keys = self.aws.environment
            connection = {
                "conn_type": "aws",
                "login": keys["AWS_ACCESS_KEY_ID"],
                "password": keys["AWS_SECRET_ACCESS_KEY"],
            }
            self.environment = {
                **os.environ,
                **keys,
                **self.workspace.environment,
                "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
                "LUMOS_PLATFORM": "aws",
                "LUMOS_CLOUD": str(path),
                "LUMOS_LAKE": f"s3://{BUCKET}/lake",
                "LUMOS_RECIPE": self._recipe,
                "MLFLOW_TRACKING_URI": mlflow,
                "LUMOS_RETRY_SECONDS": "1",
                **self._variables,
            }
            self.airflow = stack.enter_context(
                LocalAirflow(
                    self.folder / "home", environment=self.environment, settings=_IMPATIENT
                )
            )
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.__exit__(*error)

    @property
    def settings(self) -> Settings:
        """As its tasks have them; to read the lake the ``AWS_*`` variables are needed as well."""
        home = self.folder / "home"
        return Settings.from_environment({**self.environment, "LUMOS_HOME": str(home)})

    def _upload(self) -> None:
        s3 = self.aws.client("s3")
        for path in self._lake.rglob("*"):
            if path.is_file():
                s3.upload_file(str(path), BUCKET, f"lake/{path.relative_to(self._lake)}")
