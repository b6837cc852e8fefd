"""One command on one instance, executed as the Systems Manager agent executes it.

What the agent does is read from its source (aws/amazon-ssm-agent, ``agent/executers``): the
lines become a script; it waits until nothing holds the script's output any more, not only for
the script; a cancel or a time-out kills the script's process group with SIGKILL, which spares
what lives in a session or group of its own; and 137 is its own exit code for "I stopped it".
"""

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.cloud.instance import Instance, InstanceGone

OUTPUT_CHARACTERS, ERROR_CHARACTERS = 24_000, 8_000  # API reference, GetCommandInvocation
_STOPPED = 137
_PENDING_SECONDS = 0.05
_LOOK_SECONDS = 0.02


class Command:
    """An invocation.

    Attributes:
        code: Of the script, once it has ended.
        started: Monotonic time at which it was executed, or None.
        ended: The same for its end, also where the instance ended before the agent could say so.
    """

    def __init__(
        self,
        command_id: str,
        instance: Instance,
        *,
        lines: Sequence[str],
        folder: str,
        execution_seconds: float,
        delivery_seconds: float,
        comment: str,
    ) -> None:
        self.id = command_id
        self.instance_id = instance.id
        self.lines = list(lines)
        self.comment = comment
        self.code: int | None = None
        self.requested_at = time.time()
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self._instance = instance
        self._folder = folder
        self._execution_seconds = execution_seconds
        self._delivery_seconds = delivery_seconds
        self._status = self._details = "Pending"
        self._captured = ["", ""]
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def __repr__(self) -> str:
        return f"<{self.id} on {self.instance_id}: {self.status} {self.code} {self.lines[:3]}>"

    @property
    def status(self) -> str:
        """As the API names it.

        Nobody reports the end of a command whose instance has ended: it stays InProgress until
        its delivery and execution times are over, then TimedOut (user guide, "Understanding
        command statuses": the total timeout).
        """
        if self._is_lost and time.time() > self.requested_at + self._total_seconds:
            return "TimedOut"
        return self._status

    @property
    def details(self) -> str:
        """``StatusDetails`` of the API."""
        if self.status == "TimedOut" and self._status != "TimedOut":
            return "DeliveryTimedOut" if self.started is None else "ExecutionTimedOut"
        return self._details

    @property
    def output(self) -> str:
        """What the API shows of it: nothing before the end, and no more than it keeps."""
        return self._captured[0][:OUTPUT_CHARACTERS]

    @property
    def errors(self) -> str:
        """The same of standard error."""
        return self._captured[1][:ERROR_CHARACTERS]

    @property
    def _total_seconds(self) -> float:
        return self._delivery_seconds + self._execution_seconds

    @property
    def _is_lost(self) -> bool:
        is_open = self._status in ("Pending", "InProgress", "Cancelling")
        return is_open and self._instance.gone.is_set()

    def start(self) -> None:
        """Deliver it."""
        threading.Thread(target=self._deliver, daemon=True, name=self.id).start()

    def cancel(self) -> None:
        """As CancelCommand: an attempt, without effect on what has ended or is out of reach."""
        with self._lock:
            if self._status == "Pending":
                self._status = self._details = "Cancelled"
            elif self._status == "InProgress" and not self._is_lost:
                self._status = self._details = "Cancelling"
                self._cancelled.set()

    def _deliver(self) -> None:
        self._cancelled.wait(_PENDING_SECONDS)
        with self._lock:
            if self._status != "Pending":
                return
            try:
                process = self._execute()
            except InstanceGone:
                return
            except OSError as error:  # such as a working directory that is not there
                self._captured[1] = str(error)
                self._end("Failed", 1)
                return
            self.started, self.started_at = time.monotonic(), time.time()
            self._status, self._details = "InProgress", "InProgress"
        self._wait(process)

    def _execute(self) -> subprocess.Popen[bytes]:
        folder = self._instance.folder / "ssm" / self.id
        folder.mkdir(parents=True)
        script = folder / "_script.sh"
        script.write_text("\n".join(self.lines) + "\n")
        first = self.lines[0] if self.lines else ""
        # The agent runs `sh -c SCRIPT`: an interpreter that the first line names is used.
        interpreter = shlex.split(first[2:]) if first.startswith("#!") else ["/bin/sh"]
        return self._instance.start(
            [*interpreter, str(script)],
            {
                "AWS_SSM_INSTANCE_ID": self.instance_id,
                "AWS_SSM_REGION_NAME": self._instance.environment["AWS_REGION"],
            },
            cwd=self._folder or self._instance.folder,  # the agent's own is /usr/bin
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        readers = [
            threading.Thread(target=self._capture, args=(stream, place, kept), daemon=True)
            for place, (stream, kept) in enumerate(
                ((process.stdout, OUTPUT_CHARACTERS), (process.stderr, ERROR_CHARACTERS))
            )
        ]
        for reader in readers:
            reader.start()
        over = time.monotonic() + self._execution_seconds
        while process.poll() is None or any(reader.is_alive() for reader in readers):
            if self._instance.gone.is_set():
                self.ended, self.ended_at = time.monotonic(), time.time()
                return
            if self._cancelled.is_set() or time.monotonic() > over:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._end("Cancelled" if self._cancelled.is_set() else "TimedOut", _STOPPED)
                return
            time.sleep(_LOOK_SECONDS)
        if self._instance.state != "running":  # killed with it, before its agent could report
            self.code = None
            self.ended, self.ended_at = time.monotonic(), time.time()
            return
        self._report(process.returncode)

    def _report(self, code: int) -> None:
        # Of a script that a signal ended Go says -1. A script that itself exits with 137, as when
        # its last command was killed, looks to the agent as if it had stopped it.
        code = -1 if code < 0 else code
        status = {0: "Success", _STOPPED: "TimedOut"}.get(code, "Failed")
        self._end(status, code)

    def _end(self, status: str, code: int) -> None:
        self.code = code
        self.ended, self.ended_at = time.monotonic(), time.time()
        self._details = "ExecutionTimedOut" if status == "TimedOut" else status
        self._status = status

    def _capture(self, stream: IO[bytes], place: int, kept: int) -> None:
        # The rest is read and dropped, as by the agent, so that the script never blocks on it.
        captured = b""
        with (
            stream,
            (Path(self._instance.folder) / "ssm" / self.id / f"std{place}").open("wb") as f,
        ):
            while block := stream.read1(65_536):  # type: ignore[attr-defined]
                f.write(block)
                if len(captured) < 4 * kept:
                    captured += block
        self._captured[place] = captured.decode(errors="replace")[:kept]
