"""What must hold of each contract table, derived from its declaration and the recipe.

Nothing is typed twice: a column that a recipe adds is checked from its first day. This module
only *says* the checks, as plain data; :mod:`lumos.quality.measure` lets Great Expectations
run them.
"""

import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lumos.config import Recipe
from lumos.dates import EPOCH, from_day_number
from lumos.tables import Table, TableColumn, tables

Severity = Literal["critical", "warning"]

# A day travels as int16 days since 1970 in the sequences, hence the last one there can be.
LAST_DAY = from_day_number(2**15 - 1)
# Spark orders NaN above infinity, so one upper bound refuses both.
_LARGEST = sys.float_info.max
_SPARK_TYPES = {
    "string": "StringType",
    "boolean": "BooleanType",
    "smallint": "ShortType",
    "int": "IntegerType",
    "bigint": "LongType",
    "float": "FloatType",
    "double": "DoubleType",
    "date": "DateType",
    "timestamp": "TimestampType",
}


@dataclass(frozen=True)
class Check:
    """One expectation about a table, and how to say that it failed.

    Attributes:
        table: The contract table, or what else a number is about.
        name: Of the check; with ``segment`` it is the key of its row in ``metrics``.
        column: The column it is about; empty where it is about whole rows.
        severity: ``critical`` stops the day, ``warning`` annotates it.
        expectation: Class name in ``great_expectations.expectations``.
        arguments: Of that class.
        fault: What is wrong when it fails; ``{count}`` is the number of rows or values.
    """

    table: str
    name: str
    column: str
    severity: Severity
    expectation: str
    fault: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def segment(self) -> str:
        """``table`` or ``table.column``."""
        return f"{self.table}.{self.column}" if self.column else self.table


@dataclass(frozen=True)
class Flag:
    """A column that a table's rows are given before they are checked: 1 where a row is odd.

    Its name starts with an underscore, which no column of a recipe may.

    Attributes:
        name: Of the flag and of its check.
        severity: Of a flagged row.
        fault: As in :class:`Check`.
        any_nonzero: The row is odd if one of these is not zero ...
        all_zero: ... and all of these are zero ...
        earlier: ... and the first of these two days lies before the second.
    """

    name: str
    severity: Severity
    fault: str
    any_nonzero: tuple[str, ...] = ()
    all_zero: tuple[str, ...] = ()
    earlier: tuple[str, str] | None = None


def flags(recipe: Recipe, table: str) -> tuple[Flag, ...]:
    """The oddities of whole rows that are looked for in a table."""
    names = tuple(column.name for column in recipe.activity)
    others = tuple(name for name in names if name != recipe.active)
    by_table = {
        "activity": (
            Flag("_empty", "warning", "nothing was done in {count} rows", all_zero=names),
            Flag(
                "_inactive",
                "warning",
                f"something was done although {recipe.active} is 0 in {{count}} rows, "
                f"which forecasts of amounts given {recipe.active} will miss",
                any_nonzero=others,
                all_zero=(recipe.active,),
            ),
        )[: 2 if others else 1],
        "event_context": (
            Flag(
                "_too_late",
                "warning",
                "known_on is after day in {count} rows, too late for any forecast",
                earlier=("day", "known_on"),
            ),
        ),
        "users": (
            Flag(
                "_too_early",
                "warning",
                "valid_from is before registered_on in {count} rows",
                earlier=("valid_from", "registered_on"),
            ),
        ),
    }
    return by_table.get(table, ())


def checks(recipe: Recipe, name: str, *, last_day: dt.date) -> tuple[Check, ...]:
    """Everything that must hold of the rows of a contract table.

    Args:
        recipe: Declares the columns.
        name: The table.
        last_day: The business date: nobody can have registered after it.
    """
    table = tables(recipe)[name]
    return (
        *_key_checks(table),
        *(check for column in table.columns for check in _declared_checks(table, column)),
        *_value_checks(recipe, table, last_day),
        *(_flag_check(table, flag) for flag in flags(recipe, name)),
    )


def _key_checks(table: Table) -> Iterator[Check]:
    several = len(table.key) > 1
    yield Check(
        table=table.name,
        name="unique",
        column="" if several else table.key[0],
        severity="critical",
        expectation="ExpectCompoundColumnsToBeUnique"
        if several
        else "ExpectColumnValuesToBeUnique",
        fault=f"the key ({', '.join(table.key)}) is not unique in {{count}} rows",
        arguments={"column_list": list(table.key)} if several else {"column": table.key[0]},
    )


def _declared_checks(table: Table, column: TableColumn) -> Iterator[Check]:
    if column.type in _SPARK_TYPES:
        yield Check(
            table=table.name,
            name="type",
            column=column.name,
            severity="critical",
            expectation="ExpectColumnValuesToBeOfType",
            fault=f"{column.name} is missing, or not of its declared type {column.type}",
            arguments={"column": column.name, "type_": _SPARK_TYPES[column.type]},
        )
    if not column.nullable:
        yield Check(
            table=table.name,
            name="not_null",
            column=column.name,
            severity="critical",
            expectation="ExpectColumnValuesToNotBeNull",
            fault=f"{column.name} is null in {{count}} rows",
            arguments={"column": column.name},
        )


def _value_checks(recipe: Recipe, table: Table, last_day: dt.date) -> Iterator[Check]:
    if table.name == "activity":
        for column in recipe.activity:
            if column.kind == "binary":
                yield _binary(table, column.name)
            else:
                yield _finite(table, column.name, minimum=column.minimum)
        fault = "num_raw_rows is below 1 in {count} rows, which no raw row can have made"
        yield _between(table, "num_raw_rows", (1, None), fault)
    elif table.name == "event_context":
        for event in recipe.events:
            yield _finite(table, event.name)
        yield _dates(table, "day", LAST_DAY)
    elif table.name == "users":
        for static in recipe.static:
            if static.kind == "continuous":
                yield _finite(table, static.name)
        yield _dates(table, "registered_on", last_day)


def _binary(table: Table, column: str) -> Check:
    return Check(
        table=table.name,
        name="in_set",
        column=column,
        severity="critical",
        expectation="ExpectColumnValuesToBeInSet",
        fault=f"{column} has {{count}} values other than 0 and 1",
        arguments={"column": column, "value_set": [0.0, 1.0]},
    )


def _finite(table: Table, column: str, *, minimum: float | None = None) -> Check:
    below = "" if minimum is None else f"below {minimum:g} or "
    least = -_LARGEST if minimum is None else minimum
    fault = f"{column} has {{count}} values {below}not finite"
    return _between(table, column, (least, _LARGEST), fault)


def _dates(table: Table, column: str, last: dt.date) -> Check:
    fault = f"{column} has {{count}} days before {EPOCH} or after {last}"
    return _between(table, column, (EPOCH, last), fault)


def _between(table: Table, column: str, bounds: tuple[Any, Any], fault: str) -> Check:
    return Check(
        table=table.name,
        name="between",
        column=column,
        severity="critical",
        expectation="ExpectColumnValuesToBeBetween",
        fault=fault,
        arguments={"column": column, "min_value": bounds[0], "max_value": bounds[1]},
    )


def _flag_check(table: Table, flag: Flag) -> Check:
    return Check(
        table=table.name,
        name=flag.name.removeprefix("_"),
        column="",
        severity=flag.severity,
        expectation="ExpectColumnValuesToBeInSet",
        fault=flag.fault,
        arguments={"column": flag.name, "value_set": [0]},
    )
