"""One row group of one Parquet file, as users: columns found by the table's rules, not by luck."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import FileMetaData, ParquetFile

from lumos.accio.storage import filesystem_of
from lumos.accio.users import Users, splits_of
from lumos.verbs import BadInput

if TYPE_CHECKING:
    from lumos.accio.table import Columns

_ID = "delta.columnMapping.id"
_PHYSICAL_NAME = "delta.columnMapping.physicalName"
_FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True)
class Names:
    """Where the table's columns stand in its files: by name, or by field id.

    Attributes:
        top: Of top-level columns; those of partition columns are not in the files.
        cells: Of the fields of a day.
        partition: Names of the wanted partition columns.
    """

    top: Mapping[str, str | int]
    cells: Mapping[str, str | int]
    partition: frozenset[str]

    @classmethod
    def of(
        cls,
        uri: str,
        schema: Mapping[str, Any],
        columns: "Columns",
        mapping: str,
        partition: Set[str],
    ) -> Self:
        """Find the wanted columns in a Delta schema.

        Args:
            uri: The table, for messages.
            schema: The schema as the log has it.
            columns: What is wanted.
            mapping: The table's ``delta.columnMapping.mode``: none, name or id.
            partition: The partition columns.

        Raises:
            BadInput: Columns are missing, or ``days`` is no list of structs.
        """
        fields = {each["name"]: each for each in schema["fields"]}
        top = (columns.user, columns.registered, *columns.static, columns.days)
        _require(uri, top, fields)
        kind = fields[columns.days]["type"]
        element = kind.get("elementType") if isinstance(kind, dict) else None
        if not isinstance(element, dict) or element.get("type") != "struct":
            msg = f"column {columns.days} of {uri} is {kind}, expected an array of structs"
            raise BadInput(msg)
        cells = {each["name"]: each for each in element["fields"]}
        wanted = (columns.day, *columns.activity)
        _require(uri, wanted, cells, inside=f"{columns.days}.")
        essential = {columns.user, columns.registered, columns.days} & partition
        if essential:
            msg = f"{uri} is partitioned by {', '.join(sorted(essential))}, expected a column"
            raise BadInput(msg)
        return cls(
            top={name: _place(fields[name], mapping) for name in top if name not in partition},
            cells={name: _place(cells[name], mapping) for name in wanted},
            partition=frozenset(set(columns.static) & partition),
        )


def _require(uri: str, wanted: tuple[str, ...], found: Mapping[str, Any], inside: str = "") -> None:
    missing = [inside + name for name in wanted if name not in found]
    if missing:
        msg = f"{uri} lacks {', '.join(missing)}; it has {', '.join(sorted(found))}"
        raise BadInput(msg)


def _place(column: Mapping[str, Any], mapping: str) -> str | int:
    metadata = column.get("metadata", {})
    if mapping == "id":
        return int(metadata[_ID])
    return str(metadata[_PHYSICAL_NAME] if mapping == "name" else column["name"])


def read_row_group(
    root: str,
    path: str,
    footer: FileMetaData,
    number: int,
    names: Names,
    columns: "Columns",
    types: Mapping[str, pa.DataType],
    partition: Mapping[str, Any],
    *,
    is_index: bool = False,
) -> Users:
    """The users of a row group, deleted rows and all.

    An activity column that the file does not have yet, or a null in it, is zero; a static one
    is null.

    Raises:
        BadInput: The file lacks the user, the registration or the days, or holds a null or a
            repeated day where there must be none.
    """
    system, _ = filesystem_of(root)
    # `pre_buffer` joins the reads of neighbouring columns: one request instead of thirty.
    with ParquetFile(path, filesystem=system, metadata=footer, pre_buffer=True) as file:
        top = _found(file.schema_arrow, names.top)
        wanted = [columns.user, columns.registered]
        wanted += [] if is_index else [*columns.static, columns.days]
        physical = {name: top[name].name for name in wanted if name in top}
        cells = {} if is_index else _cells(top, names, columns)
        leaves = _leaves(file, physical, columns, cells)
        table = file.read_row_group(number, columns=leaves, use_threads=False)
    missing = [name for name in (columns.user, columns.registered) if name not in physical]
    if missing or not (is_index or columns.days in physical):
        msg = f"{path} lacks {', '.join(missing) or columns.days}, which every file must have"
        raise BadInput(msg)
    return _users(table, path, physical, cells, columns, types, partition, is_index=is_index)


def read_footer(root: str, path: str) -> FileMetaData:
    """What a file says of its row groups."""
    with ParquetFile(path, filesystem=filesystem_of(root)[0]) as file:
        return file.metadata


def day_leaf(footer: FileMetaData, names: Names, columns: "Columns") -> int | None:
    """Number of the Parquet column that has the days' ``day``, whose values tell their number."""
    top = _found(footer.schema.to_arrow_schema(), names.top)
    cells = _cells(top, names, columns)
    if columns.day not in cells:
        return None
    ends = (top[columns.days].name, cells[columns.day])
    paths = [footer.schema.column(number).path.split(".") for number in range(len(footer.schema))]
    return next(n for n, path in enumerate(paths) if (path[0], path[-1]) == ends)


def _found(fields: Iterable[pa.Field], places: Mapping[str, str | int]) -> dict[str, pa.Field]:
    """The Arrow field of each column that is there."""
    by_name = {each.name: each for each in fields}
    by_id = {int((each.metadata or {}).get(_FIELD_ID, -1)): each for each in fields}
    found = {
        name: by_id.get(place) if isinstance(place, int) else by_name.get(place)
        for name, place in places.items()
    }
    return {name: each for name, each in found.items() if each is not None}


def _cells(top: Mapping[str, pa.Field], names: Names, columns: "Columns") -> dict[str, str]:
    """Physical name of each field of a day that the file has."""
    if columns.days not in top:
        return {}
    element = top[columns.days].type.value_type
    fields = [element.field(number) for number in range(element.num_fields)]
    return {name: each.name for name, each in _found(fields, names.cells).items()}


def _leaves(
    file: ParquetFile, physical: Mapping[str, str], columns: "Columns", cells: Mapping[str, str]
) -> list[str]:
    """Paths of the Parquet columns to decode: of the days, only the wanted fields."""
    days, wanted = physical.get(columns.days), set(cells.values())
    flat = set(physical.values()) - {days}
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    return [
        path
        for path in paths
        if path in flat or (path.split(".")[0] == days and path.rsplit(".", 1)[-1] in wanted)
    ]


def _users(
    table: pa.Table,
    path: str,
    physical: Mapping[str, str],
    cells: Mapping[str, str],
    columns: "Columns",
    types: Mapping[str, pa.DataType],
    partition: Mapping[str, Any],
    *,
    is_index: bool,
) -> Users:
    num_rows = table.num_rows
    ids, registered = (table[physical[name]] for name in (columns.user, columns.registered))
    for name, column in ((columns.user, ids), (columns.registered, registered)):
        if column.null_count:
            msg = f"{path} has {column.null_count} rows whose {name} is null"
            raise BadInput(msg)
    static = (
        {}
        if is_index
        else {
            name: _static(table, physical.get(name), kind, partition.get(name))
            for name, kind in types.items()
        }
    )
    splits, days = np.zeros(num_rows + 1, np.int64), np.zeros(0, np.int32)
    activity: tuple[np.ndarray, ...] = ()
    if not is_index:
        splits, days, activity = _days(table[physical[columns.days]], path, columns, cells)
    return Users(
        user_id=pc.cast(ids, pa.string()).to_numpy().astype(object),
        registered=pc.cast(pc.cast(registered, pa.date32()), pa.int32()).to_numpy(),
        static=pa.table(static) if static else pa.table({"_": pa.nulls(num_rows)}).select([]),
        columns=activity,
        days=days,
        splits=splits,
    )


def _static(table: pa.Table, physical: str | None, kind: pa.DataType, value: object) -> pa.Array:
    if physical is None:
        return pa.array([value] * table.num_rows, kind)
    return _single(table[physical]).cast(kind)


def _days(
    column: pa.ChunkedArray, path: str, columns: "Columns", cells: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    lists = _single(column)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = lists.flatten()
    if columns.day not in cells or flat.null_count or flat.field(cells[columns.day]).null_count:
        msg = f"{path} has days without a {columns.days}.{columns.day}"
        raise BadInput(msg)
    days = flat.field(cells[columns.day]).to_numpy(zero_copy_only=False).astype(np.int32)
    activity = tuple(
        _numbers(flat.field(cells[name])) if name in cells else np.zeros(len(flat), np.float32)
        for name in columns.activity
    )
    splits = splits_of(lengths)
    return splits, *_in_order(days, activity, splits, path)


def _in_order(
    days: np.ndarray, activity: tuple[np.ndarray, ...], splits: np.ndarray, path: str
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Days ascending within each user, as our own tables have them; foreign ones are sorted."""
    is_later = np.ones(len(days), bool)
    is_later[1:] = days[1:] > days[:-1]
    is_later[splits[:-1][splits[:-1] < len(days)]] = True
    if not is_later.all():
        key = np.repeat(np.arange(len(splits) - 1), np.diff(splits)) * (1 << 21) + days
        order = np.argsort(key, kind="stable")
        if not np.diff(key[order]).all():
            msg = f"{path} has users with the same day twice"
            raise BadInput(msg)
        days, activity = days[order], tuple(column[order] for column in activity)
    if days.min(initial=0) < 0:
        msg = f"{path} has days before 1970-01-01"
        raise BadInput(msg)
    return days, activity


def _numbers(column: pa.Array) -> np.ndarray:
    if column.null_count:
        column = pc.fill_null(column, 0)
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float32, copy=False)


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
