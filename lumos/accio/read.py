"""Read users out of the `sequences` table at a pinned version, one bucket file at a time.

The files are listed from the Delta log and read with Parquet alone: of the ways there are, the
only one that is in order, cheap, and never silently wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyarrow import fs
from pyarrow.parquet import ParquetFile

from lumos.config import Recipe
from lumos.delta import open_table
from lumos.verbs import BadInput


@dataclass(frozen=True)
class SequenceFile:
    """One Parquet file of the table; ``path`` is absolute or a URI."""

    bucket: int
    path: str
    num_rows: int


@dataclass(frozen=True)
class Users:
    """A ragged batch of users, one row of `sequences` each.

    Attributes:
        user_id: Strings as objects, shape (N,).
        registered: int32 day number of the first day the user exists, shape (N,).
        static: N rows, the recipe's static columns; a null is missing.
        values: float32 activity of active days in raw units, shape (nnz, d_u).
        days: int32 day numbers, ascending within a user, shape (nnz,).
        splits: int64; user i owns rows ``splits[i]:splits[i + 1]``, shape (N + 1,).
    """

    user_id: np.ndarray
    registered: np.ndarray
    static: pa.Table
    values: np.ndarray
    days: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, index: np.ndarray) -> Self:
        """The users at ``index`` (numbers or a mask), in that order; repeats are allowed."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        lengths = np.diff(self.splits)[index]
        splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.repeat(self.splits[index] - splits[:-1], lengths) + np.arange(splits[-1])
        return type(self)(
            user_id=self.user_id[index],
            registered=self.registered[index],
            static=self.static.take(pa.array(index)),
            values=self.values[rows],
            days=self.days[rows],
            splits=splits,
        )

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All users of ``parts``, one part after another; at least one part."""
        lengths = np.concatenate([np.diff(part.splits) for part in parts])
        return cls(
            user_id=np.concatenate([part.user_id for part in parts]),
            registered=np.concatenate([part.registered for part in parts]),
            static=pa.concat_tables([part.static for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            days=np.concatenate([part.days for part in parts]),
            splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )


def sequence_files(uri: str, version: int) -> list[SequenceFile]:
    """The table's files at ``version``, in canonical order: by bucket, then by path.

    Raises:
        BadInput: There is no such table, or it uses deletion vectors or column mapping, which
            would be read wrongly: rows that were deleted, or columns full of nulls.
    """
    table = open_table(uri, version)
    if table is None:
        msg = f"there is no Delta table at {uri}; run `lumos sequences` for the date first"
        raise BadInput(msg)
    _refuse_what_parquet_cannot_say(table, uri)
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    files = [
        SequenceFile(
            bucket=int(action["partition.bucket"]),
            # Paths in the log are URL-encoded; on disk they are not.
            path=f"{uri.rstrip('/')}/{unquote(action['path'])}",
            num_rows=int(action["num_records"]),
        )
        for action in actions
    ]
    return sorted(files, key=lambda file: (file.bucket, file.path))


def _refuse_what_parquet_cannot_say(table: DeltaTable, uri: str) -> None:
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mapping != "none":
        msg = (
            f"{uri} uses column mapping ({mapping}); rewrite it with "
            "delta.columnMapping.mode=none, for instance by `lumos sequences --force`"
        )
        raise BadInput(msg)
    features = table.protocol().reader_features or []
    if "deletionVectors" in features and pa.table(table.deletion_vectors()).num_rows:
        msg = (
            f"{uri} has deletion vectors; purge them (REORG TABLE ... APPLY (PURGE)) "
            "or rebuild the table by `lumos sequences --force`"
        )
        raise BadInput(msg)


def _open(path: str) -> ParquetFile:
    if "://" in path:
        filesystem, inner = fs.FileSystem.from_uri(path)
        return ParquetFile(inner, filesystem=filesystem)
    return ParquetFile(path, filesystem=fs.LocalFileSystem())


def read_index(file: SequenceFile) -> tuple[np.ndarray, np.ndarray]:
    """User ids (objects) and registered days (int32) of a file, without its activity."""
    with _open(file.path) as parquet:
        table = parquet.read(columns=["user_id", "registered_on"])
    return _ids(table), _registered(table)


def read_users(file: SequenceFile, recipe: Recipe) -> Users:
    """Every user of one file, in the file's order.

    Raises:
        BadInput: The file lacks a column of the recipe.
    """
    static = [column.name for column in recipe.static]
    with _open(file.path) as parquet:
        table = parquet.read(columns=["user_id", "registered_on", *static, "days"])
    missing = [name for name in static if name not in table.column_names]
    days = _single(table["days"])
    cells = days.type.value_type
    wanted = ["day", *(column.name for column in recipe.activity)]
    missing += [name for name in wanted if cells.get_field_index(name) < 0]
    if missing:
        msg = (
            f"{file.path} lacks {', '.join(missing)} of recipe {recipe.name}: the table was "
            "made by another recipe; run `lumos sequences --force`"
        )
        raise BadInput(msg)
    lengths = pc.fill_null(pc.list_value_length(days), 0).to_numpy(zero_copy_only=False)
    flat = days.flatten()
    columns = [flat.field(name).to_numpy(zero_copy_only=False) for name in wanted[1:]]
    return Users(
        user_id=_ids(table),
        registered=_registered(table),
        static=table.select(static),
        values=np.stack(columns, axis=1).astype(np.float32, copy=False),
        days=flat.field("day").to_numpy(zero_copy_only=False).astype(np.int32),
        splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def _single(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else column.combine_chunks()


def _ids(table: pa.Table) -> np.ndarray:
    ids: np.ndarray = table["user_id"].to_numpy().astype(object)
    return ids


def _registered(table: pa.Table) -> np.ndarray:
    days: np.ndarray = pc.cast(table["registered_on"], pa.int32()).to_numpy()
    return days
