"""MLflow's own server beside the system, which can be killed; and waiting without sleeping long."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from demo.processes import Component, free_port

PATIENCE_SECONDS = 180
T = TypeVar("T")


def wait_for(what: Callable[[], T], *, seconds: float = PATIENCE_SECONDS) -> T | None:
    """The first true answer, or nothing if it takes too long."""
    until = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > until:
            return None
        time.sleep(0.1)
    return found


@dataclass
class Registry:
    """MLflow's own server, on the world's database."""

    home: Path
    port: int = field(default_factory=free_port)
    _process: Component | None = None

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        database = f"sqlite:///{self.home / 'mlflow.db'}"
        argv = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        argv += ["--host", "127.0.0.1", "--port", str(self.port), "--no-serve-artifacts"]
        argv += ["--backend-store-uri", database]
        argv += ["--default-artifact-root", (self.home / "mlartifacts").as_uri()]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = Component("mlflow", argv, folder=self.home, environment=environment)

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.uri}/health").is_success
            return False

        if not wait_for(answers, seconds=60):
            raise RuntimeError(self._process.last_lines())

    def kill(self) -> None:
        """End it with -9."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @contextmanager
    def away_for(self, home: Path) -> Iterator[None]:
        """Stop it while its database is replaced, if it is replaced by another one."""
        mine, other = self.home / "mlflow.db", home / "mlflow.db"
        is_same = mine.exists() and mine.read_bytes() == other.read_bytes()
        if not is_same:
            self.kill()
        yield
        if self._process is None:
            self.start()
