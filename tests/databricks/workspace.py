"""A Databricks workspace on this machine: the emulator as a process, and its connection."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import lumos.host.guard
from lumos.settings import REPOSITORY

_LAKE = Path(__file__).with_name("lake.py")
_START_SECONDS = 60


def interpreter() -> Path:
    """Minilake's own, which ``make test`` has made: it pins what the project does not."""
    given = os.environ.get("LUMOS_MINILAKE")
    found = Path(given) if given else REPOSITORY / ".venv" / "minilake" / "bin" / "python"
    if not found.exists():
        raise FileNotFoundError(
            f"the emulator's {found} is missing: run `make .venv/minilake/.ready`"
        )
    return found


class Workspace:
    """Serves while the ``with`` lasts; at its end no process of any run is left.

    Args:
        folder: For its files.
        variables: Further environment variables of the emulator and of all tasks (``AWS_*``).
        path: Folders that every task's Python finds beside the wheels.
    """

    def __init__(
        self, folder: Path, *, variables: Mapping[str, str] | None = None, path: Sequence[Path] = ()
    ) -> None:
        self.folder = folder
        self.variables = dict(variables or {})
        self.path = [str(each) for each in path]
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the workspace."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What lets Airflow find it."""
        connection = {
            "conn_type": "databricks",
            "schema": "http",
            "host": "127.0.0.1",
            "port": self.port,
            "password": "a-token",
        }
        return {"AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps(connection)}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        guard = lumos.host.guard.__file__
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        environment = (
            kept
            | self.variables
            | {
                "MINILAKE_DATA_DIR": str(self.folder),
                "MINILAKE_NOTEBOOK": "0",
                "MINILAKE_JOB_EXECUTOR": "subprocess",
                "LAKE_PYTHON": sys.executable,
                "LAKE_GUARD": guard,
                "LAKE_EXTRA_PATH": json.dumps(self.path),
            }
        )
        environment.pop("PYTHONPATH", None)
        with (self.folder / "emulator.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, guard, "3", str(os.getpid())),
                    *(str(interpreter()), str(_LAKE), str(self.port)),
                ],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=60)

    def plan(self, *faults: Mapping[str, Any]) -> None:
        """Faults to come, see ``lake.py``."""
        self._ask("/test/faults", list(faults))

    def runs(self) -> list[dict[str, Any]]:
        """Every run so far, with what asked for it; oldest first."""
        found: list[dict[str, Any]] = self._ask("/test/runs")
        return found

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def _wait(self) -> None:
        for _ in range(_START_SECONDS * 10):
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                self.runs()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        log = (self.folder / "emulator.log").read_text()
        raise RuntimeError(f"the emulator does not answer:\n{log[-3000:]}")
