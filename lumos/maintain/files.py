"""Files on a disk or in a bucket: which there are, how old, and how to be rid of them."""

import datetime as dt
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from lumos.accio.storage import filesystem_of

_VERSION = re.compile(r"\.?(\d{20})\.")
LOG = "_delta_log/"


@dataclass(frozen=True)
class Found:
    """A file below a folder.

    Attributes:
        name: Below the folder.
        size: In bytes.
        written: When.
    """

    name: str
    size: int
    written: dt.datetime

    @property
    def version(self) -> int | None:
        """Of the table, if it is a file of a Delta log."""
        match = _VERSION.match(self.name)
        return int(match[1]) if match else None

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a whole checkpoint of a Delta log."""
        return self.name.endswith(".checkpoint.parquet")


def listing(root: str) -> Iterator[Found]:
    """All files below a path or URI; none where there is no such folder."""
    system, prefix = filesystem_of(root)
    base = root.removeprefix(prefix).rstrip("/")
    for info in system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True)):
        if info.type == fs.FileType.File:
            yield Found(info.path.removeprefix(f"{base}/"), info.size, info.mtime)


def delete(root: str, found: Iterable[Found]) -> None:
    """Remove files; one that is gone already is as wished."""
    system, prefix = filesystem_of(root)
    base = root.removeprefix(prefix).rstrip("/")
    for each in found:
        try:
            system.delete_file(f"{base}/{each.name}")
        except FileNotFoundError:
            continue


def left_over(files: Iterable[Found], before: dt.datetime) -> list[Found]:
    """What writers that died, and files that were removed, have left in a table's folder.

    Delta's own vacuum passes over hidden files: drafts of commits, and the checksums that Hadoop
    writes beside each file.
    """
    files = list(files)
    names = {each.name for each in files}
    kept = [
        each.version
        for each in _of_log(files)
        if each.version is not None and each.name.endswith((".json", ".checkpoint.parquet"))
    ]
    oldest = min(kept, default=0)
    found = []
    for each in files:
        folder, _, base = each.name.rpartition("/")
        if each.written >= before:
            continue
        if base.startswith(".") and base.endswith(".crc"):
            of = f"{folder}/{base[1:-4]}".lstrip("/")
            found += [each] if of not in names else []
        elif each.name.startswith(LOG):
            in_log = Found(base, each.size, each.written)
            is_draft = base.endswith(".tmp")
            is_orphan = in_log.version is not None and in_log.version < oldest
            found += [each] if is_draft or is_orphan else []
    return found


def _of_log(files: Iterable[Found]) -> Iterator[Found]:
    for each in files:
        if each.name.startswith(LOG):
            yield Found(each.name.removeprefix(LOG), each.size, each.written)


def old_folders(root: str, before: dt.datetime) -> dict[str, int]:
    """Folders right below another in which nothing was written since; with their bytes."""
    newest: dict[str, dt.datetime] = {}
    sizes: dict[str, int] = {}
    for each in listing(root):
        folder, slash, _ = each.name.partition("/")
        if slash:
            newest[folder] = max(newest.get(folder, each.written), each.written)
            sizes[folder] = sizes.get(folder, 0) + each.size
    return {folder: sizes[folder] for folder, written in newest.items() if written < before}


def delete_folder(root: str, name: str) -> None:
    """Remove a folder with all that is in it; one that is gone is as wished."""
    system, prefix = filesystem_of(root)
    try:
        system.delete_dir(f"{root.removeprefix(prefix).rstrip('/')}/{name}")
    except FileNotFoundError:
        return


def prune_empty(root: Path) -> None:
    """Remove the folders below a folder that hold no file."""
    for folder in sorted((each for each in root.rglob("*") if each.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
