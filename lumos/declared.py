"""How a contract table is declared: columns with units and meaning, for Spark and for Arrow."""

from dataclasses import dataclass

import pyarrow as pa

from lumos.config import Recipe

_ARROW = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "array<float>": pa.list_(pa.float32()),
}


@dataclass(frozen=True)
class TableColumn:
    """A column: Spark SQL type, unit and meaning; ``day`` values are dates in the recipe's zone."""

    name: str
    type: str
    unit: str = ""
    description: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A contract table. No two rows share ``key``; ``owner`` is the verb that writes it."""

    name: str
    key: tuple[str, ...]
    partition: tuple[str, ...]
    owner: str
    columns: tuple[TableColumn, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in declared order."""
        return tuple(column.name for column in self.columns)

    def ddl(self) -> str:
        """Columns as Spark SQL DDL, for ``createDataFrame`` and ``CREATE TABLE``."""
        return ", ".join(f"{column.name} {column.type}" for column in self.columns)

    def arrow_schema(self, recipe: Recipe | None = None) -> pa.Schema:
        """The same as an Arrow schema; only tables of all recipes need none."""
        days = pa.list_(pa.struct(_day_fields(recipe))) if recipe else None
        return pa.schema(
            [
                pa.field(column.name, _ARROW.get(column.type, days), column.nullable)
                for column in self.columns
            ]
        )


def _day_fields(recipe: Recipe) -> list[pa.Field]:
    return [
        pa.field("day", pa.int16()),
        *(pa.field(column.name, pa.float32()) for column in recipe.activity),
    ]
