"""Run a verb's command for a task: its log lines live, its last stdout line as the result."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]

from lumos.host.guard import PR_SET_PDEATHSIG, prctl
from lumos.host.warm import Warm

# The task's supervisor sends SIGKILL 5 s after SIGTERM: be done before.
GRACE_SECONDS = 3.0
_GUARD = Path(__file__).with_name("guard.py")
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
# torchrun exits with 1 whatever its ranks did; it says so in this line of its own.
_RANK_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank:")


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code`` is that of the first failed rank under torchrun."""

    code: int
    last_line: str
    last_error: str

    @property
    def report(self) -> dict[str, Any]:
        """The last line of stdout, which must be one JSON object.

        Raises:
            ValueError: It is something else.
        """
        try:
            parsed = json.loads(self.last_line)
        except json.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            msg = (
                "the last line of the verb's stdout should be one JSON object, its report; "
                f"it was {self.last_line[:200]!r}"
            )
            raise ValueError(msg)
        return parsed


def child_environment(
    environment: Mapping[str, str], extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a verb may see of the task's environment: everything but what is Airflow's own.

    Its variables hold connections, the signing key of its tokens and the address of its database.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.lstrip("_").startswith("AIRFLOW")
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


@contextmanager
def die_with_supervisor() -> Iterator[None]:
    """Have Linux send this process SIGTERM, and so ``on_kill``, when its parent dies.

    The parent of a task is Airflow's worker, which records how the task ended: without it the
    task would run on unseen while the scheduler starts it again.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        yield
    finally:
        prctl(PR_SET_PDEATHSIG, 0)


class Command:
    """One guarded command; ``stop`` may be called from a signal handler while ``run`` blocks.

    Args:
        argv: The command.
        environment: All of its environment.
        warm: Folder of :mod:`lumos.host.warm`, which starts it where it can; ``None`` for never.
    """

    def __init__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], warm: Path | None = None
    ) -> None:
        self.argv = list(argv)
        self.environment = dict(environment)
        self._warm = warm
        self._guard: subprocess.Popen[bytes] | Warm | None = None

    def run(self, log: Callable[[int, str], None]) -> Ended:
        """Start it, hand every line of stderr to ``log(level, line)``, wait for the end."""
        reading, writing = os.pipe()
        with (
            tempfile.TemporaryFile("w+", errors="replace") as stdout,
            os.fdopen(reading, errors="replace") as stderr,
        ):
            try:
                guard = self._guard = self._start(stdout.fileno(), writing)
            finally:
                os.close(writing)
            try:
                rank_code, last_error = _stream(stderr, log)
                code = guard.wait()
            finally:
                self.stop()
                guard.wait()
            stdout.seek(0)
            lines = [line.rstrip("\n") for line in stdout if line.strip()]
        for line in lines[:-1]:
            log(logging.INFO, line)
        if code == 1 and rank_code is not None:
            code = rank_code if rank_code >= 0 else 128 - rank_code
        return Ended(code, lines[-1] if lines else "", last_error)

    def _start(self, stdout: int, stderr: int) -> "subprocess.Popen[bytes] | Warm":
        if self._warm is not None:
            started = Warm.start(
                self._warm,
                self.argv,
                environment=self.environment,
                files=(stdout, stderr),
                grace_seconds=GRACE_SECONDS,
            )
            if started is not None:
                return started
        return subprocess.Popen(
            [sys.executable, str(_GUARD), str(GRACE_SECONDS), str(os.getpid()), *self.argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def interrupt(self) -> None:
        """Ask the verb to save and leave; under torchrun its ranks, which would else be hurried.

        torchrun itself kills its ranks 30 s after a SIGTERM, saved or not.
        """
        if self._guard is None or self._guard.poll() is not None:
            return
        guard = psutil.Process(self._guard.pid)
        ranks = [process for process in guard.children(recursive=True) if _is_rank(process)]
        for process in ranks or guard.children():
            with suppress(psutil.NoSuchProcess):
                process.terminate()

    def stop(self) -> None:
        """Have the guard end everything below it; returns at once."""
        if self._guard is not None and self._guard.poll() is None:
            self._guard.terminate()


def _is_rank(process: psutil.Process) -> bool:
    try:
        # A rank's own children (the loader's workers) inherit its variables.
        return "-m" in process.cmdline() and "LOCAL_RANK" in process.environ()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _stream(lines: IO[str], log: Callable[[int, str], None]) -> tuple[int | None, str]:
    """Log every line as it comes; gives the first rank's exit code and the last error."""
    rank_code: int | None = None
    last_error = ""
    for raw in lines:
        line = raw.rstrip()
        if not line:
            continue
        level = _LEVEL.search(line[:40])
        number = logging.getLevelName(level.group()) if level else logging.INFO
        log(number, line)
        if number >= logging.ERROR and not _RANK_FAILED.search(line):
            last_error = line
        if rank_code is None and (found := _RANK_FAILED.search(line)):
            rank_code = int(found.group(1))
    return rank_code, last_error
