"""Start verbs as forks of a process that has imported what verbs import; locally only.

Importing torch, MLflow and Great Expectations takes up to six seconds of a processor, in each of
the dozen processes of a morning. ``python -m lumos.host.warm FOLDER`` imports them once and answers
on a Unix socket in ``FOLDER``. A task (:mod:`lumos.host.process`) sends the arguments of
``python -m MODULE ARGUMENTS``, the environment, and the files for stdout and stderr. A fork of this
process becomes the guard of another one, in which the module runs as ``__main__``. The guard's
rules are those of :mod:`lumos.host.guard`; the end of the connection is the end of the task.

No module of LUMOS or of an adopter is kept: a fork imports them itself, as an own process would.
What libraries read of the environment when they are imported must be equal, or the answer is no.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import select
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lumos import compute
from lumos.host import guard
from lumos.sockets import bound, connected

# What verbs import and LUMOS does not own, by the seconds that it costs.
_MODULES = (
    "mlflow",
    "torch",
    "great_expectations.expectations",
    "pandas",
    "pyspark.sql",
    "pyarrow.dataset",
    "deltalake",
)
# Read when a library is loaded, or when Python starts.
_READ_AT_IMPORT = re.compile(
    r"(PYTHON|LD_|MALLOC_|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|TORCH|CUDA_|MLFLOW_).*"
)
# They hold no lock in a fork: jemalloc (of pyarrow and delta-rs) asks to be told of one.
_SAFE_THREADS = {"jemalloc_bg_thd"}
_LONGEST_REQUEST = 2**20
_PATIENCE_SECONDS = 5.0  # for a client amid its request
_READY, _NO, _GO = b"ready ", b"no\n", b"go\n"


class Warm:
    """The client's end of one running command; as :class:`subprocess.Popen`, as far as needed."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._code: int | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        files: tuple[int, int],
        grace_seconds: float,
    ) -> "Warm | None":
        """Start ``python -m MODULE ...``; ``None`` if no warm process can.

        Args:
            folder: Where it listens.
            argv: The whole command.
            environment: All of it.
            files: Descriptors of stdout and stderr.
            grace_seconds: As of :mod:`lumos.host.guard`.
        """
        if list(argv[:2]) != [sys.executable, "-m"]:
            return None
        request = {
            "argv": argv[2:], "environment": dict(environment), "folder": str(Path.cwd()),
            "grace_seconds": grace_seconds,
        }  # fmt: skip
        try:
            # It may still be importing: to wait is no slower than to import oneself.
            connection = connected(folder, patience_seconds=60)
        except OSError:
            return None
        try:
            socket.send_fds(connection, [b"\0"], files)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = _line(connection)
            if answer.startswith(_READY):
                connection.sendall(_GO)
                connection.settimeout(None)
                return cls(connection, int(answer.removeprefix(_READY)))
        except OSError:
            pass
        connection.close()
        return None

    def poll(self) -> int | None:
        """The exit code if it has ended."""
        if self._code is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self._code

    def wait(self) -> int:
        """The exit code, 128 + its number after a signal; 137 if its guard was killed."""
        if self._code is None:
            with self._connection:
                said = _line(self._connection)
            self._code = int(said) if said else 128 + signal.SIGKILL
        return self._code

    def terminate(self) -> None:
        """Have the guard end everything below it; returns at once."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)


def _line(connection: socket.socket) -> bytes:
    """Up to the end of a line, or what there is of one when the other side is gone."""
    found = bytearray()
    while not found.endswith(b"\n"):
        try:
            piece = connection.recv(65536)
        except ConnectionError:
            piece = b""
        if not piece:
            return b""
        found += piece
        if len(found) > _LONGEST_REQUEST:
            raise OSError("the line is too long")
    return bytes(found)


def serve(folder: Path) -> NoReturn:
    """Import, then answer until SIGTERM.

    Raises:
        PermissionError: Others than this user can reach the folder.
    """
    listening = bound(folder)
    listening.listen()
    given = dict(os.environ)
    compute.set_up()  # OpenMP reads its variables once
    _import()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards end by themselves
    while True:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError, ValueError, KeyError):
            _answer(connection, listening, given)


def _import() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lumos"]:
        del sys.modules[name]
    if others := _threads() - _SAFE_THREADS:
        msg = f"threads that an import started ({', '.join(sorted(others))}) make a fork unsafe"
        raise RuntimeError(msg)
    gc.collect()
    gc.freeze()  # so that no collection of a fork copies what all share


def _threads() -> set[str]:
    tasks = Path("/proc/self/task")
    own = str(os.getpid())
    return {(task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != own}


def _answer(connection: socket.socket, listening: socket.socket, given: Mapping[str, str]) -> None:
    connection.settimeout(_PATIENCE_SECONDS)
    _, files, _, _ = socket.recv_fds(connection, 1, 2)
    try:
        request = json.loads(_line(connection) or "null")
        if request is None:
            return
        if _at_import(given) != _at_import(request["environment"]) or len(files) != 2:
            connection.sendall(_NO)
        elif os.fork() == 0:
            listening.close()
            _guarded(connection, request, files)
            os._exit(0)
    finally:
        for number in files:
            os.close(number)


def _at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if _READ_AT_IMPORT.fullmatch(k)}


def _guarded(connection: socket.socket, request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Be the guard of one command: :func:`lumos.host.guard.main` with a connection for a parent."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    guard.heed_signals()
    code = -signal.SIGTERM
    try:
        guard.prctl(guard.PR_SET_CHILD_SUBREAPER, 1)
        connection.sendall(_READY + b"%d\n" % os.getpid())
        # Who has waited for too long has started it by itself.
        if _line(connection) != _GO:
            return
        connection.settimeout(None)
        child = os.fork()
        if child == 0:
            raise _become(request, files)
        for number in files:
            os.close(number)
        ended = os.pidfd_open(child)
        # The connection says nothing more: its end is that of the task, or the task's wish.
        if ended in select.select([ended, connection.fileno()], [], [])[0]:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except guard.Terminated:
        pass
    guard.ignore_signals()
    guard.end_all(request["grace_seconds"])
    connection.sendall(b"%d\n" % guard.exit_code(code))


def _become(request: Mapping[str, Any], files: Sequence[int]) -> "_Command":
    """Make this process what ``python -m`` would start, but for the module itself."""
    import setproctitle  # not where verbs only ask: machines on EC2 have the standard library

    guard.die_with_guard()
    guard.on_signals(signal.SIG_DFL)
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in zip((nothing, *files), (0, 1, 2), strict=True):
        os.dup2(number, target)
    os.close(nothing)
    module, *arguments = request["argv"]
    # First, because it finds its place between what was the environment.
    setproctitle.setproctitle(shlex.join([sys.executable, "-m", module, *arguments]))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = arguments
    return _Command(module)


class _Command(BaseException):
    """Leaves all that serving has on the stack, so that Python ends as it always does."""


def main() -> None:
    """Serve the folder that is named; in a fork, run what was asked for."""
    try:
        serve(Path(sys.argv[1]))
    except _Command as command:
        module = str(command)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
