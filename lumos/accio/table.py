"""A table of one row a user at a pinned Delta version: its files, row groups and live rows.

The files are listed from the Delta log and read with Parquet alone: of the ways there are, the
only one that is in order, cheap, and never silently wrong. What Parquet cannot know is taken from
the log: rows that were deleted, columns that were renamed, values of partition columns.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pyarrow.parquet import FileMetaData

from lumos.accio.parquet import Names, RowGroup, day_leaf, read_footer, read_row_group
from lumos.accio.storage import filesystem_of, locate, patiently, store_of
from lumos.accio.users import Users
from lumos.delta import open_table
from lumos.verbs import BadInput

_FOOTER_THREADS = 16
_KEPT_FOOTERS = 512
# What Parquet alone cannot say and this module takes from the log.
_READER_FEATURES = {
    "columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck",
    "appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns",
}  # fmt: skip

SHARD = np.dtype(
    [
        ("file", "i4"),
        ("row_group", "i4"),
        ("first_row", "i8"),
        ("num_rows", "i4"),
        ("num_users", "i4"),
        ("num_days", "i8"),
    ]
)


@dataclass(frozen=True)
class Columns:
    """Which columns are read, by their names in the table.

    ``days`` is a list of structs, one an active day, with the integer ``day`` (days since
    1970-01-01) and the numbers ``activity``. ``registered`` is the first day the user exists.
    """

    activity: tuple[str, ...]
    static: tuple[str, ...] = ()
    user: str = "user_id"
    registered: str = "registered_on"
    days: str = "days"
    day: str = "day"


@dataclass(frozen=True)
class TableFile:
    """One Parquet file.

    Attributes:
        store: The root of its file system; a shallow clone has files in those of other tables.
        path: As its file system names it.
        partition: Values of the partition columns, by name.
        deleted: Numbers of the rows that a deletion vector removes, ascending.
    """

    store: str
    path: str
    partition: Mapping[str, Any]
    deleted: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class SequenceTable:
    """All that is needed to read the table without its log; it may be sent to other processes.

    Attributes:
        uri: The table.
        version: The pinned Delta version.
        columns: What is read.
        files: In canonical order: by partition, then by path.
        shards: Records of ``file``, ``row_group``, ``first_row``, ``num_rows``, ``num_users``
            (rows that are not deleted) and ``num_days`` (active days), in canonical order.
        names: Where each column stands in the files.
        types: Arrow types of the static columns.
    """

    uri: str
    version: int
    columns: Columns
    files: tuple[TableFile, ...]
    shards: np.ndarray
    names: Names
    types: Mapping[str, pa.DataType]
    # Every row group of a file needs its footer; a few hundred are kept, in this process.
    _footers: dict[str, FileMetaData] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_footers": {}}

    @classmethod
    def open(cls, uri: str, columns: Columns, version: int | None = None) -> Self:
        """Pin a version (the newest, if not given) and read the footers of its files.

        Raises:
            BadInput: There is no such table or version, a column is missing, or the table uses
                a feature that would be read wrongly.
        """
        try:
            table = open_table(uri, version)
        except Exception as error:
            if version is None or isinstance(error, OSError):
                raise
            msg = f"version {version} of the Delta table at {uri} cannot be read: {error}"
            raise BadInput(msg) from error
        if table is None:
            msg = f"there is no Delta table at {uri}"
            raise BadInput(msg)
        _refuse_unknown_features(table, uri)
        schema = json.loads(table.schema().to_json())
        arrow = pa.schema(table.schema().to_arrow())
        mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
        partition = set(table.metadata().partition_columns)
        names = Names.of(uri, schema, columns, mapping, partition)
        files = _files(table, uri)

        def footer(file: TableFile) -> FileMetaData:
            return patiently(lambda: read_footer(file.store, file.path), file.path)

        kept: dict[str, FileMetaData] = {}
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            found = []
            for number, read in enumerate(pool.map(footer, files)):
                found.append(_shards(number, files[number], read, names, columns))
                if number < _KEPT_FOOTERS:
                    kept[files[number].path] = read
        types = {name: _plain(arrow.field(name).type) for name in columns.static}
        shards = np.concatenate([np.zeros(0, SHARD), *found])
        return cls(uri, table.version(), columns, files, shards, names, types, kept)

    @property
    def num_users(self) -> int:
        """Live rows."""
        return int(self.shards["num_users"].sum())

    def read(self, shard: int, *, is_index: bool = False) -> Users:
        """The live users of one shard, in the file's order.

        Args:
            shard: Its number.
            is_index: Read ids and registration days only: nobody has activity or attributes.

        Raises:
            BadInput: The file was vacuumed, is no Parquet file, or holds what it must not.
            StorageFailed: The storage failed again and again.
        """
        place = self.shards[shard]
        file = self.files[place["file"]]

        names, columns = self.names, self.columns

        def read() -> RowGroup:
            footer = self._footer(file)
            group = int(place["row_group"])
            return read_row_group(file, footer, group, names, columns, is_index=is_index)

        users = patiently(read, file.path).users(columns, self.types, file.partition)
        if place["num_users"] == place["num_rows"]:
            return users
        low, high = np.searchsorted(
            file.deleted, [place["first_row"], place["first_row"] + place["num_rows"]]
        )
        is_live = np.ones(place["num_rows"], bool)
        is_live[file.deleted[low:high] - place["first_row"]] = False
        return users.take(is_live)

    def _footer(self, file: TableFile) -> FileMetaData:
        if file.path not in self._footers:
            if len(self._footers) >= _KEPT_FOOTERS:
                self._footers.clear()
            self._footers[file.path] = read_footer(file.store, file.path)
        return self._footers[file.path]

    def users(self, *, is_index: bool = False) -> Iterator[Users]:
        """All live users, a shard at a time, in canonical order."""
        for shard in range(len(self.shards)):
            yield self.read(shard, is_index=is_index)

    def map_index(self, judge: Callable[[Users], Any]) -> list[Any]:
        """``judge`` of the ids and registration days of every shard, in canonical order.

        Reads two small columns of the table, with a few threads.
        """
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            numbers = range(len(self.shards))
            return list(pool.map(lambda shard: judge(self.read(shard, is_index=True)), numbers))


def _refuse_unknown_features(table: DeltaTable, uri: str) -> None:
    unknown = sorted(set(table.protocol().reader_features or ()) - _READER_FEATURES)
    if unknown:
        msg = (
            f"{uri} uses the Delta features {', '.join(unknown)}, which this reader does not "
            "know: rewrite the table without them (ALTER TABLE ... DROP FEATURE)"
        )
        raise BadInput(msg)


def _files(table: DeltaTable, uri: str) -> tuple[TableFile, ...]:
    """The files that the log names, each with the rows that its deletion vector removes.

    Files and vectors are matched by where they are: the log and delta-rs write one place
    differently (``file:/x`` and ``file:///x``, ``é`` and ``%C3%A9``).
    """
    root = locate("", table.table_uri)
    try:
        vectors = pa.table(table.deletion_vectors()).to_pylist()
    except DeltaError as error:
        if "not found" not in str(error).lower():
            raise
        msg = (
            f"a deletion vector of {uri} is gone, or lies where only the cloned table's own "
            f"storage has it ({error}). Pin a newer version, or make it a table of its own: "
            "CREATE TABLE ... AS SELECT"
        )
        raise BadInput(msg) from error
    deleted = {
        locate(root, row["filepath"]): np.flatnonzero(~np.asarray(row["selection_vector"], bool))
        for row in vectors
    }
    files = []
    for action in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        place = locate(root, str(action["path"]))
        values = {
            key.removeprefix("partition."): value
            for key, value in action.items()
            if key.startswith("partition.")
        }
        rows = [deleted.pop(place)] if place in deleted else []
        store = _store(place, root, uri)
        _, prefix = filesystem_of(store)
        files.append(TableFile(store, place.removeprefix(prefix), values, *rows))
    if deleted:
        msg = f"{uri} has deletion vectors of files that it does not name: {sorted(deleted)[:3]}"
        raise BadInput(msg)
    return tuple(sorted(files, key=lambda file: (_order(file.partition), file.path)))


def _store(place: str, root: str, uri: str) -> str:
    """Where a file lies, if it can be opened there."""
    store = store_of(place)
    try:
        if store == "/" and not (place.startswith("/") and store_of(root) == "/"):
            raise pa.ArrowInvalid("it is in no file system of the table")
        filesystem_of(store)
    except pa.ArrowInvalid as error:
        msg = (
            f"{uri} is a shallow clone of files that cannot be opened here: {place} ({error}). "
            "Make it a table of its own: CREATE TABLE ... AS SELECT"
        )
        raise BadInput(msg) from error
    return store


def _order(partition: Mapping[str, Any]) -> list[tuple[bool, Any]]:
    """Partitions by value; nulls first."""
    return [(value is not None, 0 if value is None else value) for value in partition.values()]


def _shards(
    number: int, file: TableFile, footer: FileMetaData, names: Names, columns: Columns
) -> np.ndarray:
    days = day_leaf(footer, names, columns)
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    shards = np.zeros(len(groups), SHARD)
    shards["file"], shards["row_group"] = number, np.arange(len(groups))
    shards["num_rows"] = [group.num_rows for group in groups]
    if days is not None:
        shards["num_days"] = [group.column(days).num_values for group in groups]
    ends = np.cumsum(shards["num_rows"], dtype=np.int64)
    shards["first_row"] = ends - shards["num_rows"]
    gone = np.diff(np.searchsorted(file.deleted, np.concatenate([[0], ends])))
    shards["num_users"] = shards["num_rows"] - gone
    return shards


def _plain(kind: pa.DataType) -> pa.DataType:
    """Types as they are handed out: delta-rs has string views, which pyarrow cannot filter."""
    return pa.string() if pa.types.is_string_view(kind) or pa.types.is_string(kind) else kind
