"""One lock for the tables of a recipe: verbs share it, and `erase` holds it alone.

A verb that writes reads versions and adds files; `erase` removes every version and file that the
newest version does not need, so it must never run beside one. Each holder writes a mark into
``LAKE/RECIPE/_locks`` and only then looks for the marks of others: of two that meet, at least one
sees the other. Who would share it takes its mark away while it waits, or the two would wait for
each other. That needs only that a listing shows what was written before it, which disks and S3 both
promise. Marks are renewed every minute, and one that was not for ten is ignored, so that a process
that died holds nobody up; on its own host it is ignored at once.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyarrow import fs

from lumos.accio.storage import filesystem_of
from lumos.verbs import Request

SHARED, EXCLUSIVE = "shared", "exclusive"
FOLDER = "_locks"
RENEW_SECONDS, STALE_SECONDS = 60.0, 600.0
PATIENCE_SECONDS = 600.0  # longer than a verb of a daily run; an erasure takes minutes
_LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Locked(RuntimeError):
    """Others hold the lock for too long; a retry may help."""


@dataclass(frozen=True)
class _Mark:
    """A holder's file.

    Attributes:
        name: In the folder: the kind and a number of its own.
        renewed: By the clock of the store, in nanoseconds.
        holder: What it says of the process; empty while it is being written.
    """

    name: str
    renewed: int
    holder: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    def __str__(self) -> str:
        if not self.holder:
            return self.name
        return "`{verb}` (host {host}, process {pid})".format(**self.holder)


class _Marks:
    """The marks of a recipe's lock."""

    def __init__(self, request: Request) -> None:
        root = f"{request.settings.lake}/{request.recipe.name}/{FOLDER}"
        self._system, prefix = filesystem_of(root)
        self._folder = root.removeprefix(prefix)
        self._holder = {"verb": request.verb, "date": str(request.date), **_process()}

    def write(self, name: str) -> None:
        if isinstance(self._system, fs.LocalFileSystem):
            self._system.create_dir(self._folder)
        with self._system.open_output_stream(f"{self._folder}/{name}") as stream:
            stream.write(json.dumps(self._holder).encode())

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(f"{self._folder}/{name}")

    def others(self, own: str) -> list[_Mark]:
        """Marks of holders that live, as far as can be told; those of others are removed."""
        found = self._system.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        renewed = {info.base_name: info.mtime_ns for info in found}
        alive = []
        for name in renewed.keys() - {own}:
            mark = _Mark(name, renewed[name], self._read(name))
            # Both by the clock of the store: those of two hosts may differ.
            age = (renewed.get(own, mark.renewed) - mark.renewed) / 1e9
            if age > STALE_SECONDS or _is_dead(mark.holder):
                log.info("the lock of %s is ignored: it died", mark)
                self.remove(name)
            else:
                alive.append(mark)
        return alive

    def _read(self, name: str) -> Mapping[str, Any]:
        try:
            with self._system.open_input_stream(f"{self._folder}/{name}") as stream:
                found = json.loads(stream.read())
        except (FileNotFoundError, ValueError):  # it has just ended, or is just being written
            return {}
        return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def shared(request: Request, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the lock beside other verbs; waits for an erasure to end.

    Raises:
        Locked: It has not ended in time.
    """
    with _held(request, SHARED, lambda mark: mark.kind == EXCLUSIVE, patience_seconds):
        yield


@contextlib.contextmanager
def exclusive(request: Request, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the lock alone: verbs that begin now wait, and those that run are waited for.

    Raises:
        Locked: Another one has it or waits for it, or a verb has not ended in time.
    """
    with _held(request, EXCLUSIVE, lambda mark: True, patience_seconds):
        yield


@contextlib.contextmanager
def _held(
    request: Request, kind: str, bars: Callable[[_Mark], bool], patience_seconds: float
) -> Iterator[None]:
    marks, own = _Marks(request), f"{kind}-{uuid4().hex}.json"
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(marks, own, ended), daemon=True)
    try:
        _wait(marks, own, kind, bars, patience_seconds)
        renewal.start()
        yield
    finally:
        ended.set()
        if renewal.ident is not None:
            renewal.join()
        marks.remove(own)


def _wait(
    marks: _Marks, own: str, kind: str, bars: Callable[[_Mark], bool], patience_seconds: float
) -> None:
    deadline, is_told = time.monotonic() + patience_seconds, False
    while True:
        marks.write(own)  # again each time, as the renewal of it begins later
        in_the_way = [mark for mark in marks.others(own) if bars(mark)]
        if not in_the_way:
            return
        names = ", ".join(sorted(map(str, in_the_way)))
        # Two that wait for each other would wait for ever: each gives way.
        is_rival = kind == EXCLUSIVE and any(mark.kind == EXCLUSIVE for mark in in_the_way)
        if is_rival or time.monotonic() >= deadline:
            msg = f"the tables are locked by {names}: run this again when it has ended"
            raise Locked(msg)
        if not is_told:
            log.info("waiting for %s to end", names)
            is_told = True
        if kind == SHARED:
            marks.remove(own)
        time.sleep(_LOOK_SECONDS)


def _renew(marks: _Marks, own: str, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            marks.write(own)
        except OSError as error:  # the store is down: ten minutes are enough for many more tries
            log.warning("the lock could not be renewed: %s", error)


def _process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pids": _pid_namespace(), "pid": os.getpid()}


def _pid_namespace() -> str:
    """Two containers may have one name, and then a number means another process in each."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    except OSError:
        return ""


def _is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether it ran here and does not any more; of other hosts only the age tells."""
    here = _process()
    if not here["pids"] or any(holder.get(name) != here[name] for name in ("host", "pids")):
        return False
    try:
        pid = int(holder["pid"])
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return _is_unburied(pid)


def _is_unburied(pid: int) -> bool:
    """Whether a process ended and its parent has not asked how, as some parents never do."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return False
