"""Types of raw columns: how they are found, and which of them a declared type can hold exactly.

All are spelled as Spark does. ``timestamp_ns`` and ``timestamp_ntz_ns`` are those of Parquet in
nanoseconds, which Spark reads as numbers only; ``void`` is a column that is null in every row.
"""

import re
from collections.abc import Callable

import pyarrow as pa

from lumos.sql_types import is_declarable

_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
_ARROW: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_null, "void"),
    (pa.types.is_string, "string"),
    (pa.types.is_large_string, "string"),
    (pa.types.is_string_view, "string"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_int8, "tinyint"),
    (pa.types.is_int16, "smallint"),
    (pa.types.is_int32, "int"),
    (pa.types.is_int64, "bigint"),
    (pa.types.is_uint8, "smallint"),
    (pa.types.is_uint16, "int"),
    (pa.types.is_uint32, "bigint"),
    (pa.types.is_uint64, "decimal(20,0)"),
    (pa.types.is_float32, "float"),
    (pa.types.is_float64, "double"),
    (pa.types.is_date, "date"),
)
# What to do about a type that a recipe cannot declare, or that is found in the place of another.
_REMEDIES = {
    "timestamp_ntz": (
        "its times have no zone: land them with one, or declare timestamp_ntz if they are local "
        "times of the recipe's time zone"
    ),
    "timestamp_int96": (
        "INT96 does not say its time zone, and it was not written by Spark: land it as a timestamp "
        "in microseconds with the zone UTC"
    ),
}
_REMEDIES["timestamp_ntz_ns"] = _REMEDIES["timestamp_ntz"]


def of_arrow(kind: pa.DataType) -> str:
    """The type of a column in Arrow; Arrow's own spelling of what Spark cannot read."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        name = "timestamp_ntz" if kind.tz is None else "timestamp"
        return f"{name}_ns" if kind.unit == "ns" else name
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return f"decimal({kind.precision},{kind.scale})"
    return next((name for matches, name in _ARROW if matches(kind)), str(kind))


def decimal(kind: str) -> tuple[int, int] | None:
    """Precision and scale of a decimal type; ``None`` for any other."""
    found = re.fullmatch(r"decimal\((\d+),(\d+)\)", kind)
    return (int(found[1]), int(found[2])) if found else None


def fits(found: str, declared: str) -> bool:
    """Whether every value of one type is a value of the other, and the same one.

    A double stands for any number, as amounts become doubles in the end.
    """
    if found in (declared, "void", f"{declared}_ns"):
        return True
    precision, scale = decimal(found) or (_DIGITS.get(found, 0), 0)
    if precision == 0:
        return (found, declared) == ("float", "double")
    if wider := decimal(declared):
        return wider[1] >= scale and wider[0] - wider[1] >= precision - scale
    if declared in _DIGITS and scale == 0:
        # A bigint has nineteen digits, but not all numbers of nineteen digits.
        as_wide = _DIGITS[declared] - (found not in _DIGITS)
        return precision <= as_wide
    return declared == "double" or (declared == "float" and precision + scale <= 5)


def is_exact_id(kind: str) -> bool:
    """Whether values of a type name a user: each as one text, that nobody rounds."""
    number = decimal(kind)
    return kind == "string" or kind in _DIGITS or (number is not None and number[1] == 0)


def remedy(found: str, declared: str) -> str:
    """What helps where a type does not fit beyond correcting the landing or the recipe."""
    if found == "timestamp_int96" or (declared == "timestamp" and found in _REMEDIES):
        return _REMEDIES[found]
    if not is_declarable(found.removesuffix("_ns")):
        return f"a recipe cannot declare {found}: land it as {declared}, or leave it undeclared"
    return ""
