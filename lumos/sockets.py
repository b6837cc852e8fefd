"""Unix sockets in a folder of their own that only this user can reach."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "socket"


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """The socket in ``folder``, by a path short enough for a Unix socket (107 bytes)."""
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}/{SOCKET}"
    finally:
        os.close(number)


def is_private(folder: Path) -> bool:
    """Whether only this user can reach what is in ``folder``: its socket gives processes away."""
    found = folder.stat()
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def bound(folder: Path) -> socket.socket:
    """A socket in ``folder``, which is made if it is missing; one that a kill -9 left is replaced.

    Raises:
        PermissionError: Others than this user can reach the folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        msg = f"{folder} must belong to this user alone: chmod 700 {folder}"
        raise PermissionError(msg)
    (folder / SOCKET).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    with short_path(folder) as path:
        listening.bind(path)
    return listening


def connected(folder: Path, *, patience_seconds: float) -> socket.socket:
    """A connection to the process that listens in ``folder``.

    Raises:
        OSError: No process does, or others than this user can reach the folder.
    """
    if not is_private(folder):
        raise PermissionError(f"{folder} is open to other users")
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(patience_seconds)
    try:
        with short_path(folder) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
