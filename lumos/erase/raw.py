"""What a platform itself still holds of users: it would be back with the next aggregation."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import csv

from lumos.accio.storage import filesystem_of
from lumos.aggregate.landed import list_files
from lumos.config import RawTable, Recipe
from lumos.delta import open_table
from lumos.erase.places import Users, raw_columns
from lumos.settings import Settings
from lumos.tables import raw_uri


def raw_rows(settings: Settings, recipe: Recipe, users: Users) -> dict[str, int]:
    """Rows of the users by raw table; those without any are left out."""
    columns_of = raw_columns(recipe)
    found = {}
    for table in recipe.raw:
        if columns := columns_of.get(table.name):
            uri = raw_uri(settings, recipe, table.name)
            parts = _delta(uri, columns) if table.format == "delta" else _files(table, uri, columns)
            if num_rows := sum(_count(rows, users) for rows in parts):
                found[table.name] = num_rows
    return found


def _count(rows: pa.RecordBatch, users: Users) -> int:
    theirs = pa.array([False] * rows.num_rows)
    for column in rows.columns:
        theirs = pc.or_(theirs, pc.is_in(pc.cast(column, pa.string()), users.array))
    return int(pc.sum(theirs).as_py() or 0)


def _delta(uri: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    table = open_table(uri)
    if table is not None:
        yield from pa.RecordBatchReader.from_stream(table.scan(columns=list(columns)))


def _files(table: RawTable, uri: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    paths = [file.path for file in list_files(uri)]  # as `aggregate` sees them
    kind: ds.FileFormat = ds.ParquetFileFormat()
    if table.format == "csv":
        kind = ds.CsvFileFormat(
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True
            ),
        )
    if paths:
        found = ds.dataset(paths, format=kind, filesystem=filesystem_of(uri)[0])
        yield from found.to_batches(columns=list(columns))
