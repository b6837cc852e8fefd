"""Long-running processes that cannot outlive the one that started them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from demo.client import AirflowError
from lumos.settings import REPOSITORY

# The same guard as around every verb: it ends all that its command started, also when the
# process that asked for it is killed with -9.
_GUARD = REPOSITORY / "lumos" / "host" / "guard.py"
# The scheduler's own children are tasks, which need a moment to end their verbs.
_GRACE_SECONDS = {"scheduler": "10", "triggerer": "2", "postgres": "20"}


class PortTaken(Exception):
    """The port that was asked for is in use; the message names the remedy."""


def free_port(wanted: int | None = None, *, preferred: int | None = None) -> int:
    """A port on 127.0.0.1 that can be listened on now.

    Args:
        wanted: This one and no other.
        preferred: This one if it is free.

    Raises:
        PortTaken: ``wanted`` is in use.
    """
    for port in (wanted, preferred):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if port != wanted:
                    continue
                msg = (
                    f"port {port} is taken ({error.strerror}); give another one with --port, "
                    "or none to let a free one be found"
                )
                raise PortTaken(msg) from error
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Component:
    """One guarded process with a log file and, beside it, a file with its pid."""

    def __init__(
        self, name: str, argv: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._pid_path = folder / f"{name}.pid"
        with self.log_path.open("ab") as log:
            self._guard = subprocess.Popen(
                [
                    sys.executable,
                    str(_GUARD),
                    _GRACE_SECONDS.get(name, "5"),
                    str(os.getpid()),
                    *argv,
                ],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid_path.write_text(f"{self._guard.pid}\n")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._guard.poll() is None

    def terminate(self) -> None:
        """Ask it, and all that it started, to end; returns at once."""
        if self.is_running:
            self._guard.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started with -9, as a crash of its host would."""
        guard = psutil.Process(self._guard.pid)
        for process in guard.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.join()

    def join(self) -> None:
        """Wait until nothing of it is left, which the guard sees to."""
        self._guard.wait()
        self._pid_path.unlink(missing_ok=True)

    def last_lines(self, number: int = 15) -> str:
        """The end of its log."""
        return last_lines(self.log_path, number)


def last_lines(path: Path, number: int) -> str:
    """The end of a text file, as much of it as there is."""
    if not path.exists():
        return f"(no log at {path})"
    return "\n".join(path.read_text(errors="replace").splitlines()[-number:])


class PidFile:
    """Who runs the Airflow of this home; the start time tells a pid from its reuse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **facts: object) -> None:
        """Enter this process."""
        own = psutil.Process()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"pid": own.pid, "started": own.create_time(), **facts})
        partial = self.path.with_suffix(".new")
        partial.write_text(text)
        partial.replace(self.path)

    def read(self) -> dict[str, object] | None:
        """What the live process entered; ``None`` when there is none."""
        try:
            facts: dict[str, object] = json.loads(self.path.read_text())
            process = psutil.Process(int(str(facts["pid"])))
        # A power cut can leave an empty file.
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, psutil.NoSuchProcess):
            return None
        return facts if process.create_time() == facts["started"] else None

    def remove(self) -> None:
        """Forget the entry."""
        self.path.unlink(missing_ok=True)


def unprivileged(uid: int) -> list[str]:
    """Run a command as ``uid`` that can still enter folders of root's.

    So no folder above the home must be opened to others, and no user made. A change of user
    clears the signal that ends a child with its parent; setpriv sets it again.
    """
    remedy = (
        "PostgreSQL does not run as root, and is started as user "
        f"{uid} with setpriv: run as an ordinary user, or"
    )
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        msg = f"{remedy} install it (apt-get install util-linux)"
        raise AirflowError(msg)
    prefix = [
        *(setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--pdeathsig=keep"),
    ]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        msg = (
            f"{remedy} give the container the capabilities SETUID, SETGID and DAC_OVERRIDE "
            f"({tried.stderr.strip()})"
        )
        raise AirflowError(msg)
    return prefix
