"""Raw tables as the platform landed them: found, and checked at one pinned state.

Everything that can be wrong with a table's place, format, columns or types is reported before
Spark starts, because it needs only a Delta log, a Parquet footer or a CSV header. Those of every
file that the run can see are looked at, as one odd file among a thousand is enough to lose a day:
one or two small reads a file, sixteen at a time.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lumos.accio.storage import filesystem_of
from lumos.aggregate import csv_text, kinds
from lumos.aggregate.landed import RawChanged, RawFile, changed, list_files
from lumos.config import RawTable, Recipe
from lumos.delta import open_table
from lumos.settings import Settings, plain_address
from lumos.tables import raw_uri
from lumos.verbs import BadInput

_BYTES_A_ROW = 20  # where a file does not say how many rows it has
_NUM_THREADS = 16
_DELTA_TYPES = {"long": "bigint", "integer": "int", "short": "smallint", "byte": "tinyint"}
_WRITTEN_BY_SPARK = b"org.apache.spark.version"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Columns:
    """What a file says of its columns.

    Attributes:
        names: In the file's order.
        types: Of a Parquet file; in a CSV file all is text.
        num_rows: About how many rows it has.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    num_rows: int


@dataclass(frozen=True)
class Part:
    """Files of a raw table that are read alike, as their columns are the same."""

    columns: Columns
    files: tuple[RawFile, ...]


@dataclass(frozen=True)
class Source:
    """A raw table that exists and has the declared columns.

    Attributes:
        table: Its declaration.
        uri: Where it lies.
        digest: Changes when a file that this run can see changes.
        num_rows: About how many rows those files have.
        types: All its columns as they lie there, also those that nobody declared, and their
            types; those of a CSV file are what was declared of them, else text.
        version: Of a Delta table, the version that is read.
        parts: Of any other, the files that are read.
    """

    table: RawTable
    uri: str
    digest: str
    num_rows: int
    types: Mapping[str, str]
    version: int | None = None
    parts: tuple[Part, ...] = ()

    @property
    def files(self) -> list[RawFile]:
        """All files that are read, of a table that is not Delta."""
        return [file for part in self.parts for file in part.files]


def find_sources(settings: Settings, recipe: Recipe, last_day: dt.date) -> dict[str, Source]:
    """Look up every raw table of a recipe.

    Args:
        settings: Where the lake is.
        recipe: Whose raw tables.
        last_day: Files of later landing days are left out, so that what lands tomorrow does not
            make today's run look undone.

    Raises:
        BadInput: A table is missing, or one of its columns is missing or of another type.
        RawChanged: A file vanished since it was listed.
    """
    found = {}
    for table in recipe.raw:
        uri = raw_uri(settings, recipe, table.name)
        if table.format == "delta":
            _check_address(table, uri)
        source = _delta_source if table.format == "delta" else _file_source
        found[table.name] = source(table, uri, last_day)
    return found


def _check_address(table: RawTable, uri: str) -> None:
    try:
        plain_address(uri, f"the place of raw table {table.name}")
    except ValueError as error:
        raise BadInput(str(error)) from error


def _delta_source(table: RawTable, uri: str, last_day: dt.date) -> Source:
    delta = open_table(uri)
    if delta is None:
        raise BadInput(_missing(table, uri))
    types = {
        field.name: _DELTA_TYPES.get(str(getattr(field.type, "type", "")), _spelled(field.type))
        for field in delta.schema().fields
    }
    _refuse(table, uri, "", [*_faults(table, types), *_misused(table)], types)
    files = pa.table(delta.get_add_actions(flatten=True))
    seen = [
        row
        for row in files.select(["path", "size_bytes", "num_records"]).to_pylist()
        if _landed_by(row["path"], table, last_day)
    ]
    lines = [f"{row['path']} {row['size_bytes']}" for row in seen]
    num_rows = sum(row["num_records"] or row["size_bytes"] // _BYTES_A_ROW for row in seen)
    return Source(table, uri, _digest(lines), num_rows, types, version=delta.version())


def _landed_by(path: str, table: RawTable, last_day: dt.date) -> bool:
    """Whether a file of a Delta table may hold rows landed by ``last_day``."""
    for part in path.split("/"):
        name, equals, value = part.partition("=")
        if equals and name == table.landed_on:
            try:
                return dt.date.fromisoformat(value) <= last_day
            except ValueError:
                return True
    return True


def _spelled(kind: object) -> str:
    return str(getattr(kind, "type", kind))


def _file_source(table: RawTable, uri: str, last_day: dt.date) -> Source:
    files = list_files(uri)
    if not files:
        raise BadInput(_missing(table, uri))
    seen = [file for file in files if (file.landed_on(table) or last_day) <= last_day]
    system, _ = filesystem_of(uri)

    def columns_of(file: RawFile) -> Columns:
        if table.format == "csv":
            names = csv_text.header(system, file.path)
            types = tuple(str(table.columns.get(name, "string")) for name in names)
            return Columns(names, types, file.size // _BYTES_A_ROW)
        return _parquet_columns(system, file)

    found = look(table, seen, columns_of)
    _check_files(table, uri, list(zip(seen, found, strict=True)))
    parts: dict[Columns, list[RawFile]] = {}
    for file, columns in zip(seen, found, strict=True):
        parts.setdefault(_read_alike(table, columns), []).append(file)
    return Source(
        table,
        uri,
        _digest([f"{file.name} {file.size} {file.mtime_ns}" for file in seen]),
        sum(columns.num_rows for columns in found),
        _all_types(table, seen[-1], found[-1]) if seen else table.columns,
        parts=tuple(Part(columns, tuple(files)) for columns, files in parts.items()),
    )


def _read_alike(table: RawTable, columns: Columns) -> Columns:
    """The same for all files that one read takes: of Parquet only what is declared matters."""
    if table.format == "csv":
        return replace(columns, num_rows=0)
    pairs = zip(columns.names, columns.types, strict=True)
    declared = sorted((name, kind) for name, kind in pairs if name in table.columns)
    return Columns(tuple(n for n, _ in declared), tuple(kind for _, kind in declared), 0)


def look(table: RawTable, files: Iterable[RawFile], at: Callable[[RawFile], _T]) -> list[_T]:
    """What a function finds in each file, in their order; many are looked at together.

    Raises:
        BadInput: The function did; the message then names the table and the file.
        RawChanged: A file vanished.
    """

    def named(file: RawFile) -> _T:
        try:
            return at(file)
        except BadInput as error:
            raise BadInput(f"raw table {table.name}: file {file.name} {error}") from error
        except FileNotFoundError as error:
            raise RawChanged(changed(table, file.name)) from error
        except PermissionError as error:
            msg = f"raw table {table.name}: file {file.name} cannot be read: no permission"
            raise BadInput(msg) from error

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(named, files))


def _parquet_columns(system: pafs.FileSystem, file: RawFile) -> Columns:
    try:
        with system.open_input_file(file.path) as opened:
            footer = pq.read_metadata(opened)
    except pa.ArrowInvalid as error:
        msg = "is not Parquet, or its landing is not complete: it has no valid footer"
        raise BadInput(msg) from error
    schema = footer.schema.to_arrow_schema()
    physical = {
        footer.schema.column(n).path: footer.schema.column(n).physical_type
        for n in range(len(footer.schema))
    }
    by_spark = _WRITTEN_BY_SPARK in (footer.metadata or {})
    types = []
    for field in schema:
        kind = kinds.of_arrow(field.type)
        if physical.get(field.name) == "INT96":
            # An instant where Spark wrote it; Hive and Impala write local times in the same way.
            kind = "timestamp" if by_spark else "timestamp_int96"
        types.append(kind)
    return Columns(tuple(schema.names), tuple(types), footer.num_rows)


def _all_types(table: RawTable, file: RawFile, columns: Columns) -> dict[str, str]:
    """Types of a file's columns, and of those that its folders say."""
    types = dict(zip(columns.names, columns.types, strict=True))
    return types | {name: str(table.columns[name]) for name in file.keys if name in table.columns}


def _check_files(table: RawTable, uri: str, found: list[tuple[RawFile, Columns]]) -> None:
    """Refuse the first file whose columns are not as declared.

    Raises:
        BadInput: Names it.
    """
    _refuse(table, uri, "", _misused(table), {})
    for file, columns in found:
        faults = _faults(table, _all_types(table, file, columns))
        faults += _ambiguous(table, file, columns)
        declared = [key for key in file.keys if key in table.columns]
        first = found[0][0]
        if declared and _place(file) != _place(first):
            faults.append(
                f"its folders {'/'.join(f'{key}=...' for key in file.keys)} lie otherwise than "
                f"those of file {first.name}: give all files the same order of folders"
            )
        if ":" in file.name.rpartition("/")[2] and "://" not in uri:
            faults.append("Spark cannot open a name with a colon: rename it")
        if table.format == "csv" and len(columns.names) <= 1 < len(table.columns):
            faults.append("its first line is one value: expected a header, values between commas")
        _refuse(
            table,
            uri,
            f"file {file.name}: ",
            faults,
            {} if table.format == "csv" else _all_types(table, file, columns),
        )


def _place(file: RawFile) -> tuple[str, tuple[str, ...]]:
    return file.base, tuple(file.keys)


def _ambiguous(table: RawTable, file: RawFile, columns: Columns) -> list[str]:
    """Declared columns that a file, or the file and its folders, have more than once."""
    # Spark does not tell upper from lower case in the names of Parquet's columns.
    fold = str if table.format == "csv" else str.lower
    names = [fold(name) for name in (*columns.names, *file.keys)]
    return [
        f"column {name}: expected once, found {names.count(fold(name))} times"
        for name in table.columns
        if names.count(fold(name)) > 1
    ]


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _missing(table: RawTable, uri: str) -> str:
    return (
        f"raw table {table.name} is missing: no {table.format} table at {uri}. Land it (a shipped "
        "dataset: lumos land), or correct `path` or `format` of the raw table in the recipe"
    )


def _faults(table: RawTable, types: Mapping[str, str]) -> list[str]:
    """Declared columns that are missing, or of a type that the declared one cannot hold."""
    faults = []
    for name, declared in table.columns.items():
        found = types.get(name, "no such column")
        if not kinds.fits(found, declared):
            remedy = kinds.remedy(found, declared) if name in types else ""
            if name in types and name in (table.user, *table.key) and not kinds.is_exact_id(found):
                remedy = remedy or "rounded or broken up, it names nothing exactly: land it again"
            why = f" ({remedy})" if remedy else ""
            faults.append(f"column {name}: expected {declared}, found {found}{why}")
    return faults


def _refuse(
    table: RawTable, uri: str, where: str, faults: list[str], types: Mapping[str, str]
) -> None:
    if not faults:
        return
    # Not of a CSV file: what seems to be its header may be a row of data.
    has = ", ".join(f"{name} {kind}" for name, kind in types.items())
    msg = (
        f"raw table {table.name} at {uri}: {where}{'; '.join(faults)}. "
        f"{f'It has {has}. ' if has else ''}Correct the landing, or the raw table in the recipe"
    )
    raise BadInput(msg)


def _misused(table: RawTable) -> list[str]:
    """Columns whose declared type or name does not suit what the recipe says they are."""
    faults = []
    moments = ("date", "timestamp", "timestamp_ntz")
    if table.happened_at and table.columns[table.happened_at] not in moments:
        faults.append(
            f"happened_at {table.happened_at}: expected a date or a timestamp; numbers such as "
            "seconds since 1970 must be landed as one"
        )
    if table.landed_on and table.columns[table.landed_on] != "date":
        faults.append(f"landed_on {table.landed_on}: expected a date")
    if table.user and not kinds.is_exact_id(table.columns[table.user]):
        faults.append(
            f"user {table.user}: expected a string or a whole number, declared "
            f"{table.columns[table.user]}, which does not name a user exactly. Land it as bigint "
            "or string"
        )
    faults += [
        f"key column {name}: {table.columns[name]} is rounded, so that two keys may look the same"
        for name in table.key
        if table.columns[name] in ("float", "double")
    ]
    given = {"user_id": table.user, "day": table.happened_at}
    for name, source in given.items():
        # The SELECT sees the user as `user_id` and the local day as `day`.
        if table.role == "fact" and name in table.columns and source != name:
            faults.append(f"column {name}: the name is taken by {source}, rename it")
    return faults
