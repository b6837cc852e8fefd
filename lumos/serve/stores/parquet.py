"""Scores as Parquet files to hand over: for whoever reads files and not Delta.

``{folder}/{recipe}/{edition}/part-000000000000.parquet`` holds the rows from that number on, and
``{folder}/{recipe}/current.json`` is the pointer.
"""

import datetime as dt
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from lumos.accio.storage import filesystem_of
from lumos.config import ParquetStore
from lumos.serve.stores.contract import Pointer, Row, StoreFailed


class Parquet:
    """See :class:`lumos.serve.stores.contract.Store`; nothing in it expires by itself."""

    rows_a_put = 50_000

    def __init__(self, config: ParquetStore, recipe: str) -> None:
        """A folder on a disk, or ``s3://``."""
        self._name = config.name
        self._system, prefix = filesystem_of(config.folder)
        self._root = f"{config.folder.removeprefix(prefix).rstrip('/')}/{recipe}"

    def pointer(self) -> Pointer | None:
        """The edition that consumers read."""
        path = f"{self._root}/current.json"
        if self._system.get_file_info(path).type == fs.FileType.NotFound:
            return None
        with self._system.open_input_stream(path) as stream:
            return Pointer.model_validate_json(stream.read())

    def position(self, edition: str) -> int:
        """Rows of the parts that follow on one another from the first row on."""
        reached = 0
        for start, path in self._parts(edition):
            if start != reached:
                break
            reached += pq.read_metadata(path, filesystem=self._system).num_rows
        return reached

    def put(self, edition: str, start: int, rows: Sequence[Row], expires: dt.datetime) -> None:
        """One file, which appears whole."""
        del expires  # files are deleted by whoever owns the folder
        cells = [{"user_id": user, **scores} for user, scores in rows]
        folder = self._folder(edition)
        partial = f"{folder}/.part-{start:012d}"
        try:
            self._system.create_dir(folder, recursive=True)
            pq.write_table(
                pa.Table.from_pylist(cells), partial, filesystem=self._system, compression="zstd"
            )
            self._system.move(partial, f"{folder}/part-{start:012d}.parquet")
        except OSError as error:
            raise self._failed(error) from error

    def restart(self, edition: str) -> None:
        """Remove what is there."""
        for _, path in list(self._parts(edition)):
            self._system.delete_file(path)

    def count(self, edition: str) -> int:
        """Rows of all parts, by their footers."""
        paths = [path for _, path in self._parts(edition)]
        return sum(pq.read_metadata(path, filesystem=self._system).num_rows for path in paths)

    def get(self, edition: str, users: Sequence[str]) -> dict[str, dict[str, float]]:
        """Users that have no row are left out."""
        found = {}
        wanted = pa.array(users, pa.string())
        for _, path in self._parts(edition):
            rows = pq.read_table(path, filesystem=self._system)
            for row in rows.filter(pc.is_in(rows["user_id"], wanted)).to_pylist():
                found[row.pop("user_id")] = row
        return found

    def point(self, pointer: Pointer, expires: dt.datetime) -> None:
        """One file, replaced at once; it says itself until when it may be used."""
        del expires
        partial = f"{self._root}/.current.json"
        try:
            with self._system.open_output_stream(partial) as stream:
                stream.write(pointer.model_dump_json(indent=1).encode())
            self._system.move(partial, f"{self._root}/current.json")
        except OSError as error:
            raise self._failed(error) from error

    def erase(self, users: Sequence[str]) -> int:
        """Files that hold one of them are written anew, each replaced at once."""
        wanted, num_rows = pa.array(users, pa.string()), 0
        try:
            selector = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
            for info in self._system.get_file_info(selector):
                if info.type == fs.FileType.File and "part-" in info.base_name:
                    num_rows += self._erase(info.path, wanted)
        except OSError as error:
            raise self._failed(error) from error
        return num_rows

    def _erase(self, path: str, users: pa.Array) -> int:
        try:
            rows = pq.read_table(path, filesystem=self._system)
        except pa.ArrowInvalid:  # a part that an export was killed at
            self._system.delete_file(path)
            return 0
        theirs = pc.is_in(rows["user_id"], users)
        found = int(pc.sum(theirs).as_py() or 0)
        if found:
            folder, _, name = path.rpartition("/")
            partial = f"{folder}/.{name.removeprefix('.')}"
            kept = rows.filter(pc.invert(theirs))
            pq.write_table(kept, partial, filesystem=self._system, compression="zstd")
            self._system.move(partial, path)
        return found

    def _folder(self, edition: str) -> str:
        return f"{self._root}/{edition}"

    def _parts(self, edition: str) -> Iterator[tuple[int, str]]:
        """First row and path of each part, in order."""
        try:
            selector = fs.FileSelector(self._folder(edition), allow_not_found=True)
            found = self._system.get_file_info(selector)
        except OSError as error:
            raise self._failed(error) from error
        for info in sorted(found, key=lambda info: info.base_name):
            if info.base_name.startswith("part-"):
                yield int(info.base_name[5:17]), info.path

    def _failed(self, error: OSError) -> StoreFailed:
        return StoreFailed(f"store {self._name}, folder {self._root}, failed: {error}")
