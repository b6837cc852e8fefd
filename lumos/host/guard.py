"""Run one command so that nothing of it outlives the Airflow task that asked for it.

Killing a process group is not enough: torchrun's ranks and Spark's Python workers live in
sessions and groups of their own, and a task killed with -9 cannot clean up at all. So this small
process stands in between. It is the sub-reaper of everything below it (orphans come back to it,
in whatever group they are), Linux tells it when the task dies, and it ends only when nothing
below it is left. Usage: ``python guard.py GRACE_SECONDS PARENT_PID COMMAND...``; exits as the
command did, or with 128 + the signal that ended it. Never imports airflow: it starts in 60 ms.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import psutil  # type: ignore[import-untyped]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


class Terminated(Exception):
    """The task wants the command gone, or is gone itself."""


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process (Linux only)."""
    if _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_guard() -> None:
    """Called in the command's process: it ends when its guard does, even by kill -9."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def heed_signals() -> None:
    """From here on a signal to end raises :class:`Terminated`."""
    on_signals(_raise_terminated)


def ignore_signals() -> None:
    """From here on nothing interrupts: what is left is to be ended."""
    on_signals(signal.SIG_IGN)


def exit_code(code: int) -> int:
    """As shells say it: 128 + the signal that ended the command."""
    return code if code >= 0 else 128 - code


def on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """What the signals that ask for an end do."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    raise Terminated(signal.Signals(number).name)


def _alive() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def end_all(grace_seconds: float) -> None:
    """Ask everything below this process to end, wait, then kill until nothing is left."""
    processes = _alive()
    _signal(processes, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=grace_seconds)
    while processes := _alive():
        _signal(processes, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=1)


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module's docstring."""
    grace_seconds, parent, command = float(argv[0]), int(argv[1]), argv[2:]
    heed_signals()
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before Linux was asked to tell us
            return 128 + signal.SIGTERM
        child = subprocess.Popen(command, process_group=0, preexec_fn=die_with_guard)
        code = child.wait()
    except Terminated:
        code = -signal.SIGTERM
    ignore_signals()
    end_all(grace_seconds)
    return exit_code(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
