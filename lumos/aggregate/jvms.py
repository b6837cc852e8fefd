"""Keep the Java processes of Spark verbs alive for the next verb, on the local platform only.

A verb on a few days lasts seconds, and most of them are Java: its start, and the loading and
compiling of what the first queries use. ``python -m lumos.aggregate.jvms FOLDER`` answers on a
Unix socket in ``FOLDER``. A verb (:mod:`lumos.aggregate.lease`) asks there for a Java process
with its own flags and environment, uses it while its connection is open, and says at the end that
all went well. Only then is the process kept; what a killed or failed verb leaves is ended. No two
verbs ever share one at the same time, and all that is Spark's own (context, session, settings) is
made and stopped by each verb. Imports no Spark: it waits in some 20 MB.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lumos.sockets import SOCKET, bound

WELL = b"well\n"  # what a verb says at its end; anything else, and its Java process is ended
# As many as the local Airflow runs tasks; each may grow to a verb's 2 GB, idle it holds 0.6 GB.
MAX_PROCESSES = 2
# Python does not tell Java of every object that it drops, so what earlier verbs made adds up.
_MAX_VERBS, _MAX_IDLE_SECONDS = 40, 900
_START_SECONDS, _LONGEST_REQUEST = 120, 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A Java process as a verb would start it: what two verbs must agree on to share one."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, command: Sequence[str], environment: Mapping[str, str]) -> Self:
        """From a command line and its environment."""
        return cls(tuple(command), tuple(sorted(environment.items())))

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """As :meth:`as_json` wrote it."""
        return cls.of(**json.loads(text))

    def as_json(self) -> bytes:
        """One line."""
        found = {"command": self.command, "environment": dict(self.environment)}
        return json.dumps(found).encode() + b"\n"


@dataclass
class Java:
    """A running Java process that waits for a Python process on a port of 127.0.0.1."""

    wanted: Wanted
    process: asyncio.subprocess.Process
    port: int
    secret: str
    num_verbs: int = 0
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    async def end(self) -> None:
        """Kill it: a context that still works in it has lost its verb."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()


class Pool:
    """At most ``size`` Java processes, each lent to one verb at a time."""

    def __init__(self, size: int = MAX_PROCESSES) -> None:
        self._size = size
        self._idle: list[Java] = []
        self._num_busy = 0  # lent, or being started

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lend a Java process for as long as the connection is open; ``null`` if none is free."""
        try:
            line = await reader.readline()
            if not line:
                return
            java = await self._lend(Wanted.from_json(line))
            if java is None:
                writer.write(b"null\n")
                return
            try:
                found = {"port": java.port, "secret": java.secret, "pid": java.process.pid}
                writer.write(json.dumps(found).encode() + b"\n")
                await writer.drain()
                word = await reader.read()
            except ConnectionError:
                word = b""
            await self._take_back(java, is_well=word == WELL)
        finally:
            writer.close()

    async def expire(self) -> None:
        """End processes that have been idle for too long."""
        while True:
            await asyncio.sleep(5)
            oldest = time.monotonic() - _MAX_IDLE_SECONDS
            for java in [java for java in self._idle if java.idle_since < oldest]:
                self._idle.remove(java)
                await java.end()

    async def _lend(self, wanted: Wanted) -> Java | None:
        for java in [java for java in self._idle if not java.is_running]:
            self._idle.remove(java)
        fitting = [java for java in self._idle if java.wanted == wanted]
        if not fitting and self._num_busy + len(self._idle) >= self._size:
            if not self._idle:
                return None
            await self._idle.pop(0).end()
        self._num_busy += 1
        if fitting:
            self._idle.remove(fitting[-1])
            return fitting[-1]
        started: Java | None = None
        try:
            started = await _started(wanted)
        finally:
            self._num_busy -= started is None
        return started

    async def _take_back(self, java: Java, *, is_well: bool) -> None:
        self._num_busy -= 1
        java.num_verbs += 1
        java.idle_since = time.monotonic()
        if is_well and java.is_running and java.num_verbs < _MAX_VERBS:
            self._idle.append(java)
            return
        log.info("ending Java %d after %d verbs", java.process.pid, java.num_verbs)
        await java.end()


async def _started(wanted: Wanted) -> Java | None:
    """Start Java as PySpark does; ``None``, and its last words in the log, if it does not come."""
    with tempfile.TemporaryDirectory(prefix="lumos-java-") as scratch:
        told = Path(scratch) / "connection"
        environment = {
            **dict(wanted.environment),
            "SPARK_CONNECT_MODE": "0",
            "_PYSPARK_DRIVER_CONN_INFO_PATH": str(told),
        }
        process = await asyncio.create_subprocess_exec(
            *wanted.command,
            env=environment,
            stdin=asyncio.subprocess.PIPE,  # Java ends when it closes
            stdout=sys.stderr,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        until = time.monotonic() + _START_SECONDS
        while not told.exists() and process.returncode is None and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if not told.exists():
            log.warning("Java did not start within %d s: %s", _START_SECONDS, wanted.command)
            await Java(wanted, process, 0, "").end()
            return None
        port, length = struct.unpack("!ii", (said := told.read_bytes())[:8])
        log.info("started Java %d", process.pid)
        return Java(wanted, process, port, said[8 : 8 + length].decode())


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the pool ends, however it ends."""
    death_signal_of_parent = 1
    ctypes.CDLL(None).prctl(death_signal_of_parent, signal.SIGKILL)


async def serve(folder: Path) -> None:
    """Answer on the socket in ``folder`` until SIGTERM or SIGINT.

    Raises:
        PermissionError: Others than this user can reach the folder.
    """
    listening = bound(folder)
    pool, stop = Pool(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.start_unix_server(pool.answer, sock=listening, limit=_LONGEST_REQUEST)
    expiring = asyncio.create_task(pool.expire())
    await stop.wait()
    expiring.cancel()
    (folder / SOCKET).unlink(missing_ok=True)


def main() -> int:
    """Serve the folder that is named; Linux ends all Java processes with this one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    asyncio.run(serve(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
