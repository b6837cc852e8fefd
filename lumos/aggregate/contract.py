"""A platform's SELECT must return what the contract table declares, or the run stops, unwritten.

The three SELECTs are the only code that a stranger writes. What can be wrong with one is checked
here in one pass over its result, and said with the file's name, the column and the count.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos.aggregate.facts import Days
from lumos.config import Recipe
from lumos.settings import Settings
from lumos.tables import Table
from lumos.verbs import BadInput

_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double")
# Raised while a query runs: the data or the query is at fault, so a retry would not help.
_FAULTS_OF_DATA = ("CAST_INVALID_INPUT", "CAST_OVERFLOW", "DIVIDE_BY_ZERO", "ARITHMETIC_OVERFLOW",
                   "SCALAR_SUBQUERY_TOO_MANY_ROWS", "CANNOT_PARSE_TIMESTAMP")  # fmt: skip


def sql_path(settings: Settings, recipe: Recipe, name: str) -> Path:
    """Where the SELECT of that name lies."""
    return settings.sql_root / recipe.sql_folder / f"{name}.sql"


def sql_texts(settings: Settings, recipe: Recipe) -> dict[str, str]:
    """The platform's SELECTs by name; without event columns there is no ``event_context``.

    Raises:
        BadInput: A file is missing.
    """
    names = ["activity", "static", *(["event_context"] if recipe.events else [])]
    texts = {}
    for name in names:
        path = sql_path(settings, recipe, name)
        if not path.is_file():
            msg = (
                f"recipe {recipe.name} has no {name}.sql: expected {path}. Write the SELECT "
                "(docs/adopt.md shows one), or correct `sql` of the recipe or LUMOS_SQL"
            )
            raise BadInput(msg)
        texts[name] = path.read_text(encoding="utf-8")
    return texts


def digest(texts: Mapping[str, str]) -> str:
    """Changes whenever a SELECT does."""
    return hashlib.sha256("\0".join(sorted(texts.values())).encode()).hexdigest()[:16]


def mentions(text: str, name: str) -> bool:
    """Whether a SELECT may read the table of that name: tables it does not name stay unopened."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def run_select(
    spark: SparkSession, text: str, arguments: Mapping[str, Any], *, table: Table, file: Path
) -> DataFrame:
    """The SELECT's result with the declared columns and types.

    Raises:
        BadInput: The text is no valid query, or its columns are not the declared ones.
    """
    try:
        frame = spark.sql(text, args=dict(arguments))
    except (AnalysisException, ParseException) as error:
        msg = f"{file} cannot be run: {_first_lines(error)}"
        raise BadInput(msg) from error
    found = dict(frame.dtypes)
    missing = [name for name in table.column_names if name not in found]
    extra = [name for name in found if name not in table.column_names]
    if missing or extra:
        msg = (
            f"{file} must return the columns {', '.join(table.column_names)}; "
            f"missing: {', '.join(missing) or 'none'}; not asked for: {', '.join(extra) or 'none'}"
        )
        raise BadInput(msg)
    wrong = [
        f"{column.name}: expected {column.type}, found {found[column.name]}"
        for column in table.columns
        if not _fits(found[column.name], column.type)
    ]
    if wrong:
        raise BadInput(f"{file} returns other types: {'; '.join(wrong)}. Add a CAST")
    return frame.select(
        *(F.col(column.name).cast(column.type).alias(column.name) for column in table.columns)
    )


def _fits(found: str, wanted: str) -> bool:
    if wanted == "double":
        return found in _NUMBERS or found == "boolean" or found.startswith("decimal")
    if wanted == "bigint":
        return found in _NUMBERS[:4]
    if wanted == "string":
        return not found.startswith(("array", "map", "struct", "binary"))
    return found == wanted


@contextmanager
def blaming(file: Path) -> Iterator[None]:
    """Turn an error that the data and a SELECT cause while it runs into bad input.

    Raises:
        BadInput: Such an error; all others pass.
    """
    try:
        yield
    except PySparkException as error:
        condition = error.getCondition() or ""
        if condition.split(".")[0] not in _FAULTS_OF_DATA:
            raise
        said = _first_lines(error)
        # Values of the data, which an error does not repeat.
        for name in ("expression", "value", "message"):
            if value := (error.getMessageParameters() or {}).get(name):
                said = said.replace(value, "...")
        raise BadInput(f"{file} failed on the data: {said}") from error


def _first_lines(error: PySparkException) -> str:
    """What Spark says, without the plan and the stack trace that it adds."""
    text = re.split(r";\n|JVM stacktrace", str(error))[0].strip()
    return " ".join(line.strip() for line in text.splitlines()[:6] if line.strip())[:600]


def findings(frame: DataFrame, table: Table, recipe: Recipe, within: tuple[str, Days]) -> DataFrame:
    """What is wrong with a SELECT's result, counted in one pass.

    Args:
        frame: From :func:`run_select`.
        table: The contract table.
        recipe: Whose activity columns have a kind and a minimum.
        within: The column that must lie in the window, and the window.

    Returns:
        Rows of ``table, what, num_rows``; ``what`` is ``rows`` for the size of the result.
    """
    checks: dict[str, Column] = {"rows": F.lit(True)}
    for column in table.columns:
        value = F.col(column.name)
        if not column.nullable:
            checks[f"null in column {column.name}"] = value.isNull()
        if column.type == "double":
            checks[f"{column.name} not a finite number"] = F.isnan(value) | (
                F.abs(value) == F.lit(float("inf"))
            )
    if table.name == "activity":
        for activity in recipe.activity:
            value = F.col(activity.name)
            if activity.kind == "binary":
                checks[f"{activity.name} neither 0 nor 1"] = ~value.isin(0.0, 1.0)
            elif activity.minimum is not None:
                below = f"{activity.name} below its minimum {activity.minimum:g}"
                checks[below] = value < activity.minimum
    column_name, days = within
    outside = f"{column_name} outside {days.first} .. {days.last}"
    checks[outside] = ~days.hold(F.col(column_name))
    counts = frame.agg(
        *(F.count_if(check).alias(f"c{number}") for number, check in enumerate(checks.values()))
    )
    rows = F.explode(
        F.array(
            *(
                F.struct(F.lit(what).alias("what"), F.col(f"c{number}").alias("num_rows"))
                for number, what in enumerate(checks)
            )
        )
    )
    repeated = (
        frame.groupBy(*table.key)
        .agg(F.count("*").alias("copies"))
        .agg(F.coalesce(F.sum(F.col("copies") - 1), F.lit(0)).alias("num_rows"))
        .select(
            F.lit(f"a key ({', '.join(table.key)}) that an earlier row has").alias("what"),
            "num_rows",
        )
    )
    return (
        counts.select(rows.alias("r"))
        .select("r.what", "r.num_rows")
        .unionByName(repeated)
        .select(F.lit(table.name).alias("table"), "what", "num_rows")
    )


def refuse_faults(counts: Mapping[str, int], file: Path) -> None:
    """Stop at anything wrong that :func:`findings` counted.

    Raises:
        BadInput: Names every fault and how many rows have it.
    """
    faults = [f"{number} rows with {what}" for what, number in counts.items() if number]
    if faults:
        msg = (
            f"{file} returned {'; '.join(faults)}. Nothing was written; correct the SELECT "
            "(COALESCE nulls, check joins and GROUP BY)"
        )
        raise BadInput(msg)
