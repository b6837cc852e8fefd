"""The types that a recipe may declare of a raw column, spelled as Spark does."""

import re
from typing import Annotated

from pydantic import AfterValidator

_NAMES = ("string", "boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "date",
          "timestamp", "timestamp_ntz")  # fmt: skip


def _checked(text: str) -> str:
    found = re.fullmatch(r"decimal\(([1-9]\d?),(0|[1-9]\d?)\)", text)
    is_decimal = found and int(found[2]) <= int(found[1]) <= 38
    if text not in _NAMES and not is_decimal:
        msg = (
            f"{text!r} is not a type of a raw column: expected one of {', '.join(_NAMES)}, or "
            "decimal(P,S) of at most 38 digits"
        )
        raise ValueError(msg)
    return text


# A `timestamp_ntz` has no zone: it is a local time in the recipe's time zone.
SqlType = Annotated[str, AfterValidator(_checked)]
