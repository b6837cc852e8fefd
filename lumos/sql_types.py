"""The types that a recipe may declare of a raw column, spelled as Spark does."""

import re
from typing import Annotated

from pydantic import AfterValidator

_NAMES = ("string", "boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "date",
          "timestamp", "timestamp_ntz")  # fmt: skip


def is_declarable(text: str) -> bool:
    """Whether a recipe may declare a column of this type."""
    found = re.fullmatch(r"decimal\(([1-9]\d?),(0|[1-9]\d?)\)", text)
    return text in _NAMES or (found is not None and int(found[2]) <= int(found[1]) <= 38)


def _checked(text: str) -> str:
    if not is_declarable(text):
        msg = (
            f"{text!r} is not a type of a raw column: expected one of {', '.join(_NAMES)}, or "
            "decimal(P,S) of at most 38 digits"
        )
        raise ValueError(msg)
    return text


# A `timestamp_ntz` has no zone: it is a local time in the recipe's time zone.
SqlType = Annotated[str, AfterValidator(_checked)]
