"""The files of a raw table: one list, which is checked, digested and passed to Spark as it is.

Spark is never given a folder to list by rules of its own, so no file is counted as there and left
out, or read without a check. Delta tables are not listed: their log says what they consist of.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow.fs as pafs

from lumos.accio.storage import filesystem_of
from lumos.config import RawTable
from lumos.verbs import BadInput

# How Hive, and so Spark, writes a null into the name of a folder.
_NULL = "__HIVE_DEFAULT_PARTITION__"


class RawChanged(RuntimeError):
    """A file changed or vanished while it was read: a later run may well succeed."""


@dataclass(frozen=True)
class RawFile:
    """A file of a raw table.

    Attributes:
        path: As its file system calls it.
        name: The same below the table's folder.
        size: In bytes.
        mtime_ns: When it was written, in nanoseconds since 1970.
        base: The folder, below the table's, under which its ``key=value`` folders begin.
        keys: What those folders say, by their names.
    """

    path: str
    name: str
    size: int
    mtime_ns: int
    base: str
    keys: Mapping[str, str | None]

    def landed_on(self, table: RawTable) -> dt.date | None:
        """The landing day of all its rows, where a folder says it.

        Raises:
            BadInput: The folder's value is not a date.
        """
        value = self.keys.get(table.landed_on) if table.landed_on else None
        if value is None:
            return None
        try:
            return dt.date.fromisoformat(value)
        except ValueError as error:
            msg = (
                f"raw table {table.name}: file {self.name} lies in a folder {table.landed_on}=... "
                "whose value is not a date YYYY-MM-DD. Rename the folder"
            )
            raise BadInput(msg) from error


def is_data(name: str) -> bool:
    """Whether a file is data, by its name below the table's folder.

    Names that begin with a dot or an underscore are what writers leave beside their data, and so
    are copies that have not ended. ``_key=value`` is a folder of data.
    """
    parts = PurePosixPath(name).parts
    hidden = any(
        part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts
    )
    return not hidden and not name.endswith("._COPYING_")


def folder_keys(name: str) -> tuple[str, dict[str, str | None]]:
    """The ``key=value`` folders next to each other that are nearest to a file, and what is above.

    Args:
        name: Of the file, below the table's folder.
    """
    above = list(PurePosixPath(name).parts[:-1])
    while above and "=" not in above[-1]:
        above.pop()
    pairs: list[tuple[str, str | None]] = []
    while above and "=" in above[-1]:
        key, _, value = above.pop().partition("=")
        pairs.append((unquote(key), None if value == _NULL else unquote(value)))
    return "/".join(above), dict(reversed(pairs))


def list_files(uri: str) -> list[RawFile]:
    """All data files below a path or URI, or the one that it names, by name."""
    system, prefix = filesystem_of(uri)
    root = uri.removeprefix(prefix).rstrip("/")
    (itself,) = system.get_file_info([root])
    if itself.type == pafs.FileType.File:
        infos, root = [itself], str(PurePosixPath(root).parent)
    else:
        selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
        infos = system.get_file_info(selector)
    found = []
    for info in infos:
        name = info.path.removeprefix(f"{root}/")
        if info.type == pafs.FileType.File and is_data(name):
            base, keys = folder_keys(name)
            found.append(RawFile(info.path, name, info.size, info.mtime_ns, base, keys))
    return sorted(found, key=lambda file: file.name)


def check_unchanged(uri: str, table: RawTable, files: Iterable[RawFile]) -> None:
    """Compare files with what they were when they were listed.

    Raises:
        RawChanged: One has vanished, or was written again.
    """
    files = list(files)
    system, _ = filesystem_of(uri)
    for file, now in zip(files, system.get_file_info([f.path for f in files]), strict=True):
        if (now.size, now.mtime_ns) != (file.size, file.mtime_ns):
            raise RawChanged(changed(table, file.name))


def changed(table: RawTable, name: str) -> str:
    """What is said of a file that is not what it was when it was listed."""
    return (
        f"raw table {table.name}: file {name} changed or vanished while it was read. Nothing was "
        "written; run again once its landing is complete"
    )
