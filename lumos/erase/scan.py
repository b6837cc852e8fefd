"""Look for users in every file of a table, whether a version still names it or not.

The scan comes first, to find the work, and last, to prove that it was done. It reads the columns
that name users of all files, once; memory holds a row group of them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs
from pyarrow.parquet import ParquetFile

from lumos.accio.storage import filesystem_of, patiently
from lumos.delta import data_files, open_table
from lumos.erase.places import Place
from lumos.verbs import BadInput

# Longer texts may be cut in a log's statistics.
_LEAST_CUT = 32


@dataclass(frozen=True)
class Held:
    """What the folder of a table holds of the users.

    Attributes:
        files: Rows of theirs by file, as the file is called within the table's folder; 0 where
            nobody can tell.
        logs: Files of the Delta log that name one of them, in statistics.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    logs: tuple[str, ...] = ()

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


def is_theirs(place: Place, rows: pa.Table, users: pa.Array) -> pa.ChunkedArray:
    """Whether each row is about one of the users."""
    return pc.is_in(pc.cast(place.users_of(rows), pa.string()), users)


def scan(uri: str, place: Place, users: pa.Array) -> Held:
    """Everything of the users in a table's folder: newest version, older ones and leftovers.

    A leftover that a writer was killed at cannot be read: it may be theirs, and counts as such.

    Raises:
        BadInput: A file of the newest version cannot be read.
        NotPlain: The newest version has deletion vectors or column mapping.
    """
    files, logs = dict[str, int](), list[str]()
    ids = frozenset(users.to_pylist())
    table = open_table(uri)
    live = {file.path for file in data_files(table)} if table is not None else set()
    for system, path, name in listing(uri):
        if name.startswith("_delta_log/"):
            if _names(_said(system, path), ids):
                logs.append(name)
        elif _is_of_users(place, name):
            try:
                num_rows = _count(system, path, place, users)
            except BadInput:
                if name in live:
                    raise
                files[name] = 0
            else:
                files |= {name: num_rows} if num_rows else {}
    return Held(files, tuple(logs))


def _is_of_users(place: Place, name: str) -> bool:
    return name.endswith(".parquet") and (place.skipped is None or place.skipped not in name)


def _count(system: fs.FileSystem, path: str, place: Place, users: pa.Array) -> int:
    num_rows = 0
    with patiently(lambda: ParquetFile(path, filesystem=system), path) as parquet:
        for number in range(parquet.num_row_groups):
            rows = parquet.read_row_group(number, list(place.columns), use_threads=False)
            num_rows += pc.sum(is_theirs(place, rows, users)).as_py() or 0
    return num_rows


def _said(system: fs.FileSystem, path: str) -> Any:  # noqa: ANN401 - whatever a log says
    """All that a file of a Delta log says, as plain values."""
    with system.open_input_file(path) as stream:
        if path.endswith(".parquet"):
            return ParquetFile(stream).read().to_pylist()
        # Beside JSON there are only checksums of bytes, which name nobody.
        text = stream.read().decode(errors="replace")
    return [json.loads(line) for line in text.splitlines() if line.startswith(("{", "["))]


def _names(said: Any, ids: frozenset[str]) -> bool:  # noqa: ANN401
    """Whether one of the users stands in it, if only the beginning of a long name."""
    if isinstance(said, dict):
        return any(_names(value, ids) for value in said.values())
    if isinstance(said, list | tuple):
        return any(_names(value, ids) for value in said)
    if not isinstance(said, str):
        return False
    if said.startswith(("{", "[")):  # statistics are JSON in JSON
        try:
            return _names(json.loads(said), ids)
        except ValueError:
            pass
    return said in ids or (
        len(said) >= _LEAST_CUT and any(one.startswith(said[:_LEAST_CUT]) for one in ids)
    )
