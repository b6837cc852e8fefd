"""The base of everything that a recipe or a contract says, and how its faults are told."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Config(BaseModel):
    """Base of everything in a recipe: immutable, and a misspelt field is an error.

    Numbers are finite, for JSON has no others: what was stored could not be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def explain(error: ValidationError) -> str:
    """Pydantic's complaint in a sentence a person can act on.

    A complaint about a whole says itself of what.
    """
    told = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        told.append(f"{place}: {message}" if place else message)
    return "; ".join(told)
