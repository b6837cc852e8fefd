"""Which processes of this machine belong to which pretended instance, now and at any time before.

An instance is an environment variable that everything started on it inherits, together with the
tree below whatever has it: a process in a session of its own, or an orphan, still belongs. Only one
that drops its environment and its parent between two looks, 250 ms apart, would escape.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "FAKE_INSTANCE"
SAMPLE_SECONDS = 0.25
_SETTLED_SECONDS = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")

Key = tuple[int, int]  # process id, and the tick it started at: ids are used again


@dataclass(frozen=True)
class Seen:
    """One process at one look."""

    key: Key
    parent: int
    instance_id: str
    command: str


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _marked(pid: int) -> str | None:
    start = f"{MARK}=".encode()
    for variable in _read(pid, "environ").split(b"\0"):
        if variable.startswith(start):
            return variable.removeprefix(start).decode()
    return None


class Processes:
    """Looks at ``/proc``, and remembers whose a process was when it no longer says so itself."""

    def __init__(self) -> None:
        self._owner: dict[Key, str] = {}
        self._strangers: set[Key] = set()
        self._lock = threading.Lock()

    def look(self) -> list[Seen]:
        """Every live process of every instance."""
        with self._lock:
            table = self._table()
            for key in table:
                self._claim(key)
            by_pid = {key[0]: key for key in table}
            for key in sorted(table, key=lambda key: key[1]):  # parents started before children
                parent = by_pid.get(table[key])
                if key not in self._owner and parent in self._owner:
                    self._owner[key] = self._owner[parent]
            return [
                Seen(key, parent, self._owner[key], self._command(key[0]))
                for key, parent in table.items()
                if key in self._owner
            ]

    def _claim(self, key: Key) -> None:
        if key in self._owner or key in self._strangers:
            return
        if instance_id := _marked(key[0]):
            self._owner[key] = instance_id
        elif time.clock_gettime(time.CLOCK_BOOTTIME) - key[1] / _TICKS > _SETTLED_SECONDS:
            # A younger one may be between fork and exec, with its parent's environment.
            self._strangers.add(key)

    @staticmethod
    def _table() -> dict[Key, int]:
        table = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 (often)
            if not name.isdigit():
                continue
            fields = _read(int(name), "stat").rpartition(b")")[2].split()
            if fields and fields[0] not in b"ZX":
                table[int(name), int(fields[19])] = int(fields[1])
        return table

    @staticmethod
    def _command(pid: int) -> str:
        return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()

    def of(self, instance_id: str) -> list[psutil.Process]:
        """The live processes of one instance."""
        found = []
        for seen in self.look():
            if seen.instance_id == instance_id:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(seen.key[0]))
        return found

    def command_lines(self, instance_id: str) -> list[str]:
        """Of the same; asking a process itself fails where it has ended meanwhile."""
        return [seen.command for seen in self.look() if seen.instance_id == instance_id]

    def end(self, instance_id: str, grace_seconds: float) -> None:
        """Ask, wait, then kill until nothing of the instance is left."""
        if grace_seconds and (asked := self.of(instance_id)):
            self._signal(asked, signal.SIGTERM)
            psutil.wait_procs(asked, timeout=grace_seconds)
        while left := self.of(instance_id):
            self._signal(left, signal.SIGKILL)
            psutil.wait_procs(left, timeout=0.2)

    @staticmethod
    def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class History(threading.Thread):
    """Looks four times a second, so that a test can ask what ran at the same time."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(daemon=True, name="history of processes")
        self._processes = processes
        self._samples: list[tuple[Seen, ...]] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Until ``stop``; equal looks are kept once."""
        while not self._over.wait(SAMPLE_SECONDS):
            sample = tuple(self._processes.look())
            if sample and (not self._samples or self._samples[-1] != sample):
                self._samples.append(sample)

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()

    def most_running(self, pattern: str, job_of: Mapping[str, str]) -> dict[str, int]:
        """By job, the most trees alive at once whose root's command line matches the pattern."""
        wanted = re.compile(pattern)
        most: dict[str, int] = defaultdict(int)
        for sample in self._samples:
            matching = {seen.key[0] for seen in sample if wanted.search(seen.command)}
            parents = {seen.key[0]: seen.parent for seen in sample}
            roots = Counter(
                job_of[seen.instance_id]
                for seen in sample
                if seen.key[0] in matching
                and not _below(seen.parent, matching, parents)
                and seen.instance_id in job_of  # another test may run beside this one
            )
            for job, count in roots.items():
                most[job] = max(most[job], count)
        return dict(most)


def _below(pid: int, matching: set[int], parents: Mapping[int, int]) -> bool:
    while pid in parents:
        if pid in matching:
            return True
        pid = parents[pid]
    return False
