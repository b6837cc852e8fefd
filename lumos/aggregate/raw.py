"""Raw tables as the platform landed them: found, checked and opened at one pinned state.

Everything that can be wrong with a table's place, format, columns or types is said before
Spark starts, because it needs only a Delta log, a Parquet footer or a CSV header.
"""

import csv
import datetime as dt
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos.config import RawTable, Recipe
from lumos.delta import open_table
from lumos.settings import Settings
from lumos.tables import raw_uri
from lumos.verbs import BadInput

# What an unreadable CSV row looked like, and which column could not be read.
TEXT, UNREADABLE = "_text", "_unreadable"
_BYTES_A_ROW = 20  # where a file does not say how many rows it has
_DELTA_TYPES = {"long": "bigint", "integer": "int", "short": "smallint", "byte": "tinyint"}
_ARROW_TYPES: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind), "string"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_int16, "smallint"),
    (pa.types.is_int32, "int"),
    (pa.types.is_int64, "bigint"),
    (pa.types.is_float32, "float"),
    (pa.types.is_float64, "double"),
    (pa.types.is_date32, "date"),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None, "timestamp"),
    (pa.types.is_timestamp, "timestamp_ntz"),
)


@dataclass(frozen=True)
class Source:
    """A raw table that exists and has the declared columns.

    Attributes:
        table: Its declaration.
        uri: Where it lies.
        header: Columns of a CSV file, in the file's order.
        digest: Changes when a file that this run can see changes.
        num_rows: About how many rows those files have.
        types: All its columns as they lie there, also those that nobody declared, and their
            types; those of a CSV file are what was declared of them, else text.
    """

    table: RawTable
    uri: str
    header: tuple[str, ...]
    digest: str
    num_rows: int
    types: Mapping[str, str]


def find_sources(settings: Settings, recipe: Recipe, last_day: dt.date) -> dict[str, Source]:
    """Look up every raw table of a recipe.

    Args:
        settings: Where the lake is.
        recipe: Whose raw tables.
        last_day: Files of later landing days are left out of the digests, so that what lands
            tomorrow does not make today's run look undone.

    Raises:
        BadInput: A table is missing, or one of its columns is missing or of another type.
    """
    found = {}
    for table in recipe.raw:
        uri = raw_uri(settings, recipe, table.name)
        source = _delta_source if table.format == "delta" else _file_source
        found[table.name] = source(table, uri, last_day)
    return found


def _delta_source(table: RawTable, uri: str, last_day: dt.date) -> Source:
    delta = open_table(uri)
    if delta is None:
        raise BadInput(_missing(table, uri))
    types = {
        field.name: _DELTA_TYPES.get(str(getattr(field.type, "type", "")), _spelled(field.type))
        for field in delta.schema().fields
    }
    _check_columns(table, uri, types)
    files = pa.table(delta.get_add_actions(flatten=True))
    seen = [
        row
        for row in files.select(["path", "size_bytes", "num_records"]).to_pylist()
        if _landed_by(row["path"], table, last_day)
    ]
    lines = [f"{row['path']} {row['size_bytes']}" for row in seen]
    num_rows = sum(row["num_records"] or row["size_bytes"] // _BYTES_A_ROW for row in seen)
    return Source(table, uri, (), _digest(lines), num_rows, types)


def _spelled(kind: object) -> str:
    return str(getattr(kind, "type", kind))


def _file_source(table: RawTable, uri: str, last_day: dt.date) -> Source:
    system, path = pafs.FileSystem.from_uri(uri)
    listed = system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    files = sorted(
        (info for info in listed if info.type == pafs.FileType.File and _is_data(info.path, path)),
        key=lambda info: info.path,
    )
    if not files:
        raise BadInput(_missing(table, uri))
    partitions = {
        part.split("=", 1)[0]
        for part in PurePosixPath(files[0].path).relative_to(path).parts[:-1]
        if "=" in part
    }
    header: tuple[str, ...] = ()
    # The first and the last file: a change of format shows between them.
    for info in {files[0].path: files[0], files[-1].path: files[-1]}.values():
        if table.format == "csv":
            header = _csv_header(system, info.path)
            types = {name: str(table.columns.get(name, "string")) for name in header}
        else:
            with system.open_input_file(info.path) as file:
                types = {field.name: _arrow_type(field.type) for field in pq.read_schema(file)}
        types |= {name: table.columns[name] for name in partitions & set(table.columns)}
        _check_columns(table, uri, types)
    seen = [info for info in files if _landed_by(info.path, table, last_day)]
    lines = [
        f"{PurePosixPath(info.path).relative_to(path)} {info.size} {info.mtime_ns}" for info in seen
    ]
    num_rows = sum(info.size for info in seen) // _BYTES_A_ROW
    return Source(table, uri, header, _digest(lines), num_rows, types)


def _is_data(path: str, root: str) -> bool:
    parts = PurePosixPath(path).relative_to(root).parts
    return not any(part.startswith((".", "_")) for part in parts)


def _csv_header(system: pafs.FileSystem, path: str) -> tuple[str, ...]:
    with system.open_input_stream(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        return tuple(next(csv.reader(text), ()))


def _arrow_type(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return next((name for matches, name in _ARROW_TYPES if matches(kind)), str(kind))


def _landed_by(path: str, table: RawTable, last_day: dt.date) -> bool:
    """Whether a file may hold rows landed by ``last_day``, as far as its path tells."""
    for part in PurePosixPath(path).parts:
        name, equals, value = part.partition("=")
        if equals and name == table.landed_on:
            try:
                return dt.date.fromisoformat(value) <= last_day
            except ValueError:
                return True
    return True


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _missing(table: RawTable, uri: str) -> str:
    return (
        f"raw table {table.name} is missing: no {table.format} table at {uri}. Land it (a shipped "
        "dataset: lumos land), or correct `path` or `format` of the raw table in the recipe"
    )


def _check_columns(table: RawTable, uri: str, types: Mapping[str, str]) -> None:
    faults = [
        f"column {name}: expected {expected}, found {types.get(name, 'no such column')}"
        for name, expected in table.columns.items()
        if types.get(name) != expected
    ] + _misused(table)
    if faults:
        msg = (
            f"raw table {table.name} at {uri}: {'; '.join(faults)}. It has "
            f"{', '.join(f'{name} {kind}' for name, kind in types.items())}. Correct the landing, "
            "or `columns` of the raw table in the recipe"
        )
        raise BadInput(msg)


def _misused(table: RawTable) -> list[str]:
    """Columns whose declared type or name does not suit what the recipe says they are."""
    faults = []
    if table.happened_at and table.columns[table.happened_at] not in ("date", "timestamp"):
        faults.append(f"happened_at {table.happened_at}: expected a date or a timestamp")
    if table.landed_on and table.columns[table.landed_on] != "date":
        faults.append(f"landed_on {table.landed_on}: expected a date")
    given = {"user_id": table.user, "day": table.happened_at}
    for name, source in given.items():
        # The SELECT sees the user as `user_id` and the local day as `day`.
        if table.role == "fact" and name in table.columns and source != name:
            faults.append(f"column {name}: the name is taken by {source}, rename it")
    return faults


def open_source(spark: SparkSession, source: Source) -> DataFrame:
    """The declared columns of a raw table, unfiltered; plus ``_unreadable``, ``_text`` of a CSV.

    A CSV value that is not of its column's type becomes null; of a fact table the row can then
    be told by ``_unreadable``, of a reference table reading it fails.
    """
    table = source.table
    if table.format == "delta":
        # Pinned by being opened once: every scan of this frame reads the same version.
        return spark.read.format("delta").load(source.uri).select(*table.columns)
    if table.format == "parquet":
        schema = ", ".join(f"`{name}` {kind}" for name, kind in table.columns.items())
        return spark.read.schema(schema).parquet(source.uri).select(*table.columns)
    return _open_csv(spark, source)


def _open_csv(spark: SparkSession, source: Source) -> DataFrame:
    table = source.table
    names = [*source.header, *(name for name in table.columns if name not in source.header)]
    texts = (
        spark.read.schema(", ".join(f"`{name}` string" for name in names))
        .option("header", True)
        .option("enforceSchema", False)
        .option("escape", '"')
        .csv(source.uri)
    )
    if table.role == "reference":
        return texts.select(
            *(F.col(name).cast(kind).alias(name) for name, kind in table.columns.items())
        )
    typed = {name: F.col(name).try_cast(kind) for name, kind in table.columns.items()}
    unreadable: Column = F.coalesce(
        *(
            F.when(F.col(name).isNotNull() & value.isNull(), F.lit(name))
            for name, value in typed.items()
        )
    )
    text = F.when(
        unreadable.isNotNull(), F.to_json(F.struct(*names), {"ignoreNullFields": "false"})
    )
    return texts.select(
        *(value.alias(name) for name, value in typed.items()),
        unreadable.alias(UNREADABLE),
        text.alias(TEXT),
    )
