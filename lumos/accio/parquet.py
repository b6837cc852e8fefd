"""One row group of one Parquet file, as users: columns found by the table's rules, not by luck."""

from collections.abc import Iterable, Iterator, Mapping, Set
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
    from lumos.accio.table import Columns, TableFile

_ID = "delta.columnMapping.id"
_PHYSICAL_NAME = "delta.columnMapping.physicalName"
_FIELD_ID = b"PARQUET:field_id"
# The year 7711: beyond it a user's days could not be put in order with one key.
_LAST_DAY = (1 << 21) - 1
_NUMBERS = (
    pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal,
    pa.types.is_boolean, pa.types.is_null,
)  # fmt: skip


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


@dataclass(frozen=True)
class RowGroup:
    """The wanted columns of a row group, as they lie in the file.

    Attributes:
        path: The file, for messages.
        table: The columns, by their names in the file.
        top: Names in the file of the top-level columns that it has.
        cells: Of the fields of a day; empty for an index.
        is_index: Whether only ids and registration days were read.
    """

    path: str
    table: pa.Table
    top: Mapping[str, str]
    cells: Mapping[str, str]
    is_index: bool

    def users(
        self,
        columns: "Columns",
        types: Mapping[str, pa.DataType],
        partition: Mapping[str, Any],
    ) -> Users:
        """Its users, deleted rows and all.

        An activity column that the file does not have yet, or a null in it, is zero; a static
        one is null.

        Raises:
            BadInput: A null or a repeated day where there must be none, or values that are no
                ids, dates or numbers.
        """
        num_rows = self.table.num_rows
        ids, registered = (self._required(name) for name in (columns.user, columns.registered))
        static = {} if self.is_index else self._static(types, partition)
        splits, days = np.zeros(num_rows + 1, np.int64), np.zeros(0, np.int32)
        activity: tuple[np.ndarray, ...] = ()
        if not self.is_index:
            lists = self.table[self.top[columns.days]]
            splits, days, activity = _days(lists, self.path, columns, self.cells)
        if pa.types.is_integer(registered.type):
            registered = _cast(registered, pa.int32(), self.path, columns.registered)
        dates = _cast(registered, pa.date32(), self.path, columns.registered)
        return Users(
            user_id=_cast(ids, pa.string(), self.path, columns.user).to_numpy().astype(object),
            registered=pc.cast(dates, pa.int32()).to_numpy(),
            static=pa.table(static) if static else pa.table({"_": pa.nulls(num_rows)}).select([]),
            columns=activity,
            days=days,
            splits=splits,
        )

    def _required(self, name: str) -> pa.ChunkedArray:
        column = self.table[self.top[name]]
        if column.null_count:
            msg = f"{self.path} has {column.null_count} rows whose {name} is null"
            raise BadInput(msg)
        return column

    def _static(
        self, types: Mapping[str, pa.DataType], partition: Mapping[str, Any]
    ) -> dict[str, pa.Array]:
        return {
            name: _cast(_single(self.table[self.top[name]]), kind, self.path, name)
            if name in self.top
            else pa.array([partition.get(name)] * self.table.num_rows, kind)
            for name, kind in types.items()
        }


def read_row_group(
    place: "TableFile",
    footer: FileMetaData,
    number: int,
    names: Names,
    columns: "Columns",
    *,
    is_index: bool = False,
) -> RowGroup:
    """The wanted columns of a row group.

    Raises:
        BadInput: The file lacks the user, the registration or the days.
    """
    system, _ = filesystem_of(place.store)
    # `pre_buffer` joins the reads of neighbouring columns: one request instead of thirty.
    with ParquetFile(place.path, filesystem=system, metadata=footer, pre_buffer=True) as file:
        found = _found(file.schema_arrow, names.top)
        wanted = [columns.user, columns.registered]
        wanted += [] if is_index else [*columns.static, columns.days]
        top = {name: found[name].name for name in wanted if name in found}
        cells = {} if is_index else _cells(found, names, columns)
        inside = {top[columns.days]: set(cells.values())} if columns.days in top else {}
        leaves = [
            file.schema.column(leaf).path
            for leaf, name, cell in _leaves(file.schema_arrow)
            if name in top.values() and (name not in inside or cell in inside[name])
        ]
        table = file.read_row_group(number, columns=leaves, use_threads=False)
    missing = [name for name in (columns.user, columns.registered) if name not in top]
    if missing or not (is_index or columns.days in top):
        msg = f"{place.path} lacks {', '.join(missing) or columns.days}, which every file must have"
        raise BadInput(msg)
    return RowGroup(place.path, table, top, cells, is_index)


def read_footer(store: str, path: str) -> FileMetaData:
    """What a file says of its row groups."""
    with ParquetFile(path, filesystem=filesystem_of(store)[0]) as file:
        return file.metadata


def day_leaf(footer: FileMetaData, names: Names, columns: "Columns") -> int | None:
    """Number of the Parquet column that has the days' ``day``, whose values tell their number."""
    schema = footer.schema.to_arrow_schema()
    top = _found(schema, names.top)
    cells = _cells(top, names, columns)
    if columns.day not in cells:
        return None
    day = (top[columns.days].name, cells[columns.day])
    return next(leaf for leaf, *place in _leaves(schema) if tuple(place) == day)


def _leaves(schema: pa.Schema) -> Iterator[tuple[int, str, str]]:
    """The Parquet columns: number, top-level column, and field of a day (or empty).

    They are counted, because a name may have dots in it: a path of names does not tell them apart.
    """
    number = 0
    for column in schema:
        kind = column.type
        inner = getattr(kind, "value_type", None)
        fields = [pa.field("", kind)]
        if inner is not None and pa.types.is_struct(inner):
            fields = [inner.field(place) for place in range(inner.num_fields)]
        for each in fields:
            for _ in range(_num_leaves(each.type)):
                yield number, column.name, each.name
                number += 1


def _num_leaves(kind: pa.DataType) -> int:
    if not pa.types.is_nested(kind):
        return 1
    return sum(_num_leaves(kind.field(place).type) for place in range(kind.num_fields))


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


def _days(
    column: pa.ChunkedArray, path: str, columns: "Columns", cells: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    lists = _single(column)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = lists.flatten()
    if columns.day not in cells or flat.null_count or flat.field(cells[columns.day]).null_count:
        msg = f"{path} has days without a {columns.days}.{columns.day}"
        raise BadInput(msg)
    day_name = f"{columns.days}.{columns.day}"
    days = _cast(flat.field(cells[columns.day]), pa.int32(), path, day_name).to_numpy()
    activity = tuple(
        _numbers(flat.field(cells[name]), path, f"{columns.days}.{name}")
        if name in cells
        else np.zeros(len(flat), np.float32)
        for name in columns.activity
    )
    if days.min(initial=0) < 0 or days.max(initial=0) > _LAST_DAY:
        msg = (
            f"{path} has values of {day_name} that are no days: expected days since 1970-01-01, "
            f"0 to {_LAST_DAY}"
        )
        raise BadInput(msg)
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
    return days, activity


def _numbers(column: pa.Array, path: str, name: str) -> np.ndarray:
    kind = column.type
    if not any(check(kind) for check in _NUMBERS):
        msg = f"{path}: {name} is {kind}, expected numbers or booleans"
        raise BadInput(msg)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        # Booleans and decimals have no zero of their own type for their nulls.
        column = _cast(column, pa.float64(), path, name)
    if column.null_count:
        column = pc.fill_null(column, 0)
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float32, copy=False)


def _cast(
    column: pa.Array | pa.ChunkedArray, kind: pa.DataType, path: str, name: str
) -> pa.Array | pa.ChunkedArray:
    try:
        return pc.cast(column, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        # Without Arrow's own sentence, which may quote a value.
        msg = f"{path}: {name} is {column.type}, whose values cannot all be taken as {kind}"
        raise BadInput(msg) from error


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
