"""The base of everything that a recipe says."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of everything in a recipe: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
