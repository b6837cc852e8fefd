"""The base of everything that a recipe or a contract says, and how its faults are told."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Config(BaseModel):
    """Base of everything in a recipe: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain(error: ValidationError) -> str:
    """Pydantic's complaint in a sentence a person can act on."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'recipe'}: "
        f"{item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    )
