"""Look for users in every file of a table, whether a version still names it or not.

The scan comes first, to find the work, and last, to prove that it was done. It reads the columns
that name users of all files, once; memory holds a row group of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
from pyarrow import fs
from pyarrow.parquet import ParquetFile

from lumos.accio.storage import filesystem_of, patiently
from lumos.delta import data_files, open_table
from lumos.erase.places import Place, Users
from lumos.verbs import BadInput

LOG = "_delta_log/"
_CHECKSUM = ".crc"  # of bytes; Hadoop writes one beside each file


@dataclass(frozen=True)
class Held:
    """What the folder of a table holds of the users.

    Attributes:
        files: Rows of theirs by file, as the file is called within the table's folder; 0 where
            nobody can tell.
        logs: Files of the Delta log that name one of them, in statistics.
        names: All files of the folder.
        version: The newest one of the table; -1 where there is no table.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    logs: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    version: int = -1

    def __bool__(self) -> bool:
        """Whether it holds anything."""
        return bool(self.files or self.logs)


def listing(root: str) -> Iterator[tuple[fs.FileSystem, str, str]]:
    """All files below a path or URI: the file system, the path in it, and the path below root."""
    system, prefix = filesystem_of(root)
    base = root.removeprefix(prefix).rstrip("/")
    for info in system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True)):
        if info.type == fs.FileType.File:
            yield system, info.path, info.path.removeprefix(f"{base}/")


def scan(uri: str, place: Place, users: Users) -> Held:
    """Everything of the users in a table's folder: newest version, older ones and leftovers.

    A leftover that a writer was killed at cannot be read: it may be theirs, and counts as such,
    whatever it is called.

    Raises:
        BadInput: A file of the newest version cannot be read.
        NotPlain: The newest version has deletion vectors or column mapping.
    """
    files, logs, names = dict[str, int](), list[str](), set[str]()
    table = open_table(uri)
    live = {file.path for file in data_files(table)} if table is not None else set()
    for system, path, name in listing(uri):
        names.add(name)
        if name.endswith(_CHECKSUM):
            continue
        if name.startswith(LOG):
            if _is_said(system, path, place, users):
                logs.append(name)
        elif place.skipped is None or place.skipped not in name:
            try:
                num_rows = _count(system, path, place, users)
            except BadInput:
                if name in live:
                    raise
                files[name] = 0
            else:
                files |= {name: num_rows} if num_rows else {}
    version = table.version() if table is not None else -1
    return Held(files, tuple(logs), frozenset(names), version)


def _count(system: fs.FileSystem, path: str, place: Place, users: Users) -> int:
    num_rows = 0
    with patiently(lambda: ParquetFile(path, filesystem=system), path) as parquet:
        for number in range(parquet.num_row_groups):
            rows = parquet.read_row_group(number, list(place.columns), use_threads=False)
            num_rows += pc.sum(place.is_theirs(rows, users)).as_py() or 0
    return num_rows


def _is_said(system: fs.FileSystem, path: str, place: Place, users: Users) -> bool:
    try:
        return any(place.is_said(text, users) for text in _extremes(system, path, place.columns))
    except ValueError:  # half of a draft: it may name them
        return True


def _extremes(system: fs.FileSystem, path: str, columns: Iterable[str]) -> Iterator[str]:
    """Least and greatest values of some columns that a file of a Delta log gives of files."""
    for said in _said(system, path):
        for stats in _statistics(said):
            for ends in ("minValues", "maxValues"):
                values = stats.get(ends) or {}
                yield from (str(values[name]) for name in columns if values.get(name) is not None)


def _said(system: fs.FileSystem, path: str) -> list[Any]:
    """All that a file of a Delta log says, as plain values.

    Raises:
        ValueError: A writer was killed at it.
    """
    with system.open_input_file(path) as stream:
        if path.endswith(".parquet"):
            return list(ParquetFile(stream).read().to_pylist())
        # JSON may have other line ends in its texts.
        lines = stream.read().decode().split("\n")
    return [json.loads(line) for line in lines if line]


def _statistics(said: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - whatever a log says
    """Of every action in it, however deep: as JSON in JSON, or parsed."""
    if isinstance(said, list):
        for each in said:
            yield from _statistics(each)
    elif isinstance(said, dict):
        if said.get("stats") and isinstance(said["stats"], str):
            yield json.loads(said["stats"])
        for name, each in said.items():
            if name == "stats_parsed" and isinstance(each, dict):
                yield each
            elif isinstance(each, dict | list):
                yield from _statistics(each)
