"""Take users out of the newest version of a table, and then every older version away.

Files without them stay as they are. The others are written anew, each for itself and like it was
(order, row groups, encodings), because readers count on that.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from lumos.accio.storage import filesystem_of, patiently
from lumos.delta import DataFile, data_files, plain, swap_files
from lumos.erase.places import Place, Users
from lumos.erase.scan import LOG, Held, listing

log = logging.getLogger(__name__)

MARK = "erase"
# Others in a log are drafts that a writer was killed at.
_LOG_FILE = re.compile(r"(\d{20})\.(?:json|crc|checkpoint\.(?:.+\.)?(?:parquet|json))")


def remove(uri: str, place: Place, held: Held, users: Users) -> int:
    """Commit a version without the users; returns how many rows of theirs the one before had.

    Raises:
        RuntimeError: Something else wrote to the table meanwhile.
    """
    table = DeltaTable(uri)
    old = [file for file in data_files(table) if file.path in held.files]
    if not old:
        return 0
    new = [_without(uri, place, file, users) for file in old]
    try:
        swap_files(table, old, [file for file in new if file.num_rows], mark=MARK)
    except CommitFailedError as error:
        msg = f"{uri} was written by something else meanwhile: let nothing run, and repeat this"
        raise RuntimeError(msg) from error
    return sum(held.files[file.path] for file in old)


def forget(uri: str, held: Held) -> None:
    """Leave the newest version only: nothing of the log that tells of others, and no other file.

    A file that came after the scan goes only if a version named it: else a writer without the lock
    may be about to commit it.

    The log goes first: who is killed in between finds the files, and so the work that is left.

    Raises:
        RuntimeError: Something wrote meanwhile, or a file of the newest version is missing.
    """
    table = DeltaTable(uri)
    kept = table.version()
    table.create_checkpoint()
    live = {file.path for file in data_files(table)}
    old = set(held.names)
    for version in range(held.version + 1, kept):
        old |= {file.path for file in data_files(DeltaTable(uri, version=version))}
    for system, path, name in list(listing(f"{uri}/{LOG}")):
        if not _is_kept(name, kept):
            system.delete_file(path)
    for system, path, name in list(listing(uri)):
        if name in old - live and not name.startswith(LOG):
            system.delete_file(path)
    _refuse_unless_whole(uri, kept)
    log.info("%s: version %d is the oldest now", uri, kept)


def _refuse_unless_whole(uri: str, version: int) -> None:
    table = DeltaTable(uri)
    there = {name for _, _, name in listing(uri)}
    missing = sorted({file.path for file in data_files(table)} - there)
    if missing:
        msg = f"{uri}: files of its newest version are missing: {', '.join(missing)}"
        raise RuntimeError(msg)
    if table.version() != version:
        msg = f"{uri} was written by something else meanwhile: let nothing run, and repeat this"
        raise RuntimeError(msg)


def _is_kept(name: str, version: int) -> bool:
    """Whether a file of a log is whole and of that version or a later one."""
    if name == "_last_checkpoint":
        return True
    found = _LOG_FILE.fullmatch(name)
    return found is not None and int(found[1]) >= version


def _without(uri: str, place: Place, file: DataFile, users: Users) -> DataFile:
    """A file's other rows in a new file beside it; none if there are no others."""
    system, prefix = filesystem_of(uri)
    root = uri.removeprefix(prefix)
    folder = PurePosixPath(file.path).parent
    path = str(folder / f"part-{uuid4().hex}.parquet")
    with patiently(
        lambda: pq.ParquetFile(f"{root}/{file.path}", filesystem=system), file.path
    ) as old:
        kept = _in_groups(_others(old, place, users), _group_rows(old.metadata))
        first = next(kept, None)
        if first is None:
            return DataFile(path, 0, 0, file.partition)
        num_rows = first.num_rows
        with pq.ParquetWriter(
            f"{root}/{path}", first.schema, filesystem=system, **_encodings(old.metadata)
        ) as writer:
            writer.write_table(first)
            for rows in kept:
                writer.write_table(rows)
                num_rows += rows.num_rows
    size = system.get_file_info(f"{root}/{path}").size
    return DataFile(path, size, num_rows, file.partition)


def _others(old: pq.ParquetFile, place: Place, users: Users) -> Iterator[pa.Table]:
    for number in range(old.num_row_groups):
        yield place.without(plain(old.read_row_group(number, use_threads=False)), users)


def _in_groups(parts: Iterator[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows, so many at a time; the last part may have fewer."""
    waiting: pa.Table | None = None
    for part in parts:
        waiting = part if waiting is None else pa.concat_tables([waiting, part])
        while waiting.num_rows >= num_rows:
            yield waiting.slice(0, num_rows)
            waiting = waiting.slice(num_rows)
    if waiting is not None and waiting.num_rows:
        yield waiting


def _group_rows(metadata: pq.FileMetaData) -> int:
    """How many rows the largest row group has."""
    sizes: list[int] = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    return max(sizes)


def _encodings(metadata: pq.FileMetaData) -> dict[str, object]:
    """How the columns of a file are written."""
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {
        "compression": {each.path_in_schema: each.compression for each in columns},
        "use_dictionary": [each.path_in_schema for each in columns if each.has_dictionary_page],
    }
