"""What a process opens, imports and starts, by Python's audit events and by strace."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEGIN, END = "_watch_begins", "_watch_ends"
_PATHS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.chdir", "sqlite3.connect"}
_TWO_PATHS = {"os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"}
_CHANGES = {"os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "shutil.rmtree"}
_STARTS = re.compile(
    r"subprocess\.|os\.(exec|fork|forkpty|kill|killpg|posix_spawn|spawn|system|startfile)|pty\.|"
    r"socket\.(connect|bind|getaddrinfo|sendto)|urllib\.|webbrowser\.|ctypes\.dlopen|ftplib\."
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CALL = re.compile(r"^\d+\s+(\w+)\((.*)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_THREAD = "CLONE_THREAD"


class Places:
    """Where a process may read and write.

    Args:
        own: Folders that it may change.
        code: Folders and files that it may only read.
    """

    def __init__(self, own: Sequence[str], code: Sequence[str]) -> None:
        self.own = [os.path.realpath(path) for path in own]
        # As they are called, and as they are: an interpreter's own folder may be a link.
        self.code = [*map(os.path.realpath, code), *code]

    def allow(self, path: str, *, to_write: bool) -> bool:
        """Whether a path lies in one of the folders."""
        # Not resolved: a link would have to be there already, and looking is a system call.
        whole = os.path.normpath(path)
        roots = self.own if to_write else [*self.own, *self.code]
        return any(whole == root or whole.startswith(f"{root}/") for root in roots)

    def lead_through(self, path: str) -> bool:
        """Whether a path is on the way to one of the folders."""
        begin = f"{os.path.normpath(path).rstrip('/')}/"
        return any(root.startswith(begin) for root in (*self.own, *self.code))


class Watch:
    """An audit hook that can be switched on for a moment; it cannot be removed.

    Args:
        places: Where the process may read and write.
        packages: Top-level names of what it may import.
    """

    def __init__(self, places: Places, packages: Sequence[str] = ()) -> None:
        self.places, self.packages = places, set(packages)
        self.mentioned, self.found = "", list[str]()
        self._on = False
        sys.addaudithook(self._hook)

    @contextmanager
    def of(self, mentioned: str) -> Iterator[None]:
        """Watch while something is done with a foreign text: no module it names is imported."""
        self.mentioned, self._on = mentioned, True
        try:
            yield
        finally:
            self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        self._on = False  # what judging opens is not judged
        try:
            if self._is_escape(event, arguments):
                self.found.append(f"{event} {arguments!r:.200}")
        finally:
            self._on = True

    def _is_escape(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "import":
            name = str(arguments[0])
            is_named = len(name) > 3 and name in self.mentioned and "." in name
            return is_named or name.partition(".")[0] not in self.packages
        if event in _TWO_PATHS:
            return not all(self._may(each, to_write=True) for each in arguments[:2])
        if event in _CHANGES:
            return not self._may(arguments[0], to_write=True)
        if event in _PATHS:
            is_open, is_made = event == "open", event == "os.mkdir"
            to_write = is_made or (is_open and bool((arguments[2] or 0) & _WRITES))
            return not self._may(arguments[0], to_write=to_write)
        return bool(_STARTS.match(event))

    def _may(self, path: str | bytes | int | None, *, to_write: bool) -> bool:
        if path is None or isinstance(path, int):  # a file that is open already
            return True
        return self.places.allow(os.fsdecode(path), to_write=to_write)


@contextmanager
def marked(home: Path) -> Iterator[None]:
    """Tell a tracer that the watched part begins and ends, by looking for two files."""
    (home / BEGIN).exists()
    try:
        yield
    finally:
        (home / END).exists()


def escapes_in(trace: Path, places: Places) -> list[str]:
    """System calls between the marks that name another place or start a process."""
    found, is_on = [], False
    with trace.open(errors="replace") as lines:
        for line in lines:
            if BEGIN in line or END in line:
                is_on = BEGIN in line
                continue
            match = _CALL.match(line) if is_on else None
            if match and _is_escape(match[1], match[2], places):
                found.append(line.strip()[:200])
    return found


def _is_escape(call: str, rest: str, places: Places) -> bool:
    if call.startswith(("exec", "fork", "vfork", "clone")):
        return _THREAD not in rest
    if call in ("exit", "exit_group", "wait4", "waitid", "kill", "tgkill"):
        return False
    to_write = bool(re.search(r"O_(WRONLY|RDWR|CREAT)", rest)) or call.startswith(
        ("unlink", "rename", "mkdir", "rmdir", "link", "symlink", "chmod", "chown", "truncate")
    )
    paths = [text.encode().decode("unicode_escape") for text in _QUOTED.findall(rest)]
    is_look = "stat" in call or call.startswith(("readlink", "access", "faccessat"))
    return any(
        path.startswith("/")
        and not places.allow(path, to_write=to_write)
        and not (is_look and places.lead_through(path))
        for path in paths
    )
