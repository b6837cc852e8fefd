"""Files and folders that no other user of this host can read or replace."""

import os
import stat
from pathlib import Path

from demo.client import AirflowError


def write_private(path: Path, text: str) -> None:
    """Readable by its owner only, from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def make_private(folder: Path) -> None:
    """A folder that only this user can enter; the folders above it as they are.

    Raises:
        AirflowError: There is one of another user's, or something that is no folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found, own = folder.lstat(), os.geteuid()
    if not stat.S_ISDIR(found.st_mode):
        msg = f"{folder} should be a folder: remove it, or set LUMOS_HOME to another one"
        raise AirflowError(msg)
    if found.st_uid != own:
        msg = (
            f"{folder} belongs to user {found.st_uid}, and this is user {own}: run as that user, "
            "or set LUMOS_HOME to another folder"
        )
        raise AirflowError(msg)
    folder.chmod(0o700)
