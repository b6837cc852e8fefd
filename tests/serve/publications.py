"""What tests of publishing share: tables by name, and what a consumer gets."""

import datetime as dt

import pyarrow as pa

from lumos.delta import read, replace
from lumos.recipes import load
from lumos.serve.manifest import Manifest, read_manifests, read_scores
from lumos.tables import table_uri, tables
from tests.conftest import RECIPE, World

GYM = load(RECIPE)


def uri(world: World, name: str) -> str:
    """Where a table of this world lies."""
    return table_uri(world.settings, GYM, name)


def rows_of(world: World, name: str) -> pa.Table:
    """A table's rows."""
    rows = read(uri(world, name))
    assert rows is not None
    return rows


def consumed(world: World, today: dt.date | None = None) -> pa.Table:
    """What a consumer gets on the business date, or on another day."""
    return read_scores(world.settings, GYM, today=today or world.date)


def manifests(world: World) -> list[Manifest]:
    """All of them."""
    return read_manifests(world.settings, GYM)


def states(world: World) -> list[str]:
    """Of all manifests, by date and version."""
    return [manifest.state for manifest in manifests(world)]


def rewrite_manifests(world: World, changed: list[Manifest]) -> None:
    """Put other manifests in the place of all, as no verb would."""
    schema = tables(GYM)["manifests"].arrow_schema(GYM)
    rows = pa.Table.from_pylist([m.model_dump() for m in changed], schema=schema)
    replace(uri(world, "manifests"), rows, where=None)


def with_column(rows: pa.Table, name: str, values: list | pa.Array) -> pa.Table:
    """The same rows with other values in a column."""
    index = rows.column_names.index(name)
    field = rows.schema.field(name)
    return rows.set_column(index, field, pa.array(values, field.type))
