"""What every verb is given and gives back, and how it may end.

A verb is one job of the platform (``lumos aggregate``, ``lumos train`` ...). It is a
function ``Request -> Report`` and ends in one of five ways, which Airflow and people
tell apart by the exit code: 0 done, 1 a fault worth a retry, 2 bad input, 3 a gate refused,
75 interrupted with its state saved, so that the same command goes on from there.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lumos.codes import BAD_INPUT, DONE, FAULT, REFUSED, RESUME
from lumos.config import Recipe
from lumos.settings import Settings

__all__ = [
    "BAD_INPUT", "DONE", "FAULT", "REFUSED", "RESUME", "BadInput", "GateRefused", "Report",
    "Request", "TableWritten",
]  # fmt: skip


class BadInput(Exception):
    """What was given cannot be worked on: a retry would fail in the same way (exit 2).

    The message is one or two sentences: what was given, what was expected, the remedy.
    """


class GateRefused(Exception):
    """The work was done and judged not good enough to pass on (exit 3)."""


class TableWritten(BaseModel):
    """One table that a verb committed to: its Delta version and the rows it now answers for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    version: int
    rows: int


class Report(BaseModel):
    """The last line of a verb's stdout; Airflow keeps it as the task's XCom.

    ``rows`` of a table are those of the business window, not of the whole table.
    ``details`` holds what only this verb has to say (a model version, a path ...).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: str
    recipe: str
    date: dt.date
    tables: tuple[TableWritten, ...] = ()
    rows_rejected: int = 0
    metrics: Mapping[str, float | None] = Field(default_factory=dict)
    details: Mapping[str, Any] = Field(default_factory=dict)
    already_done: bool = False
    seconds: float = 0.0


class Request(BaseModel):
    """What a verb works on: a pure function of this and of the tables' pinned versions.

    ``date`` is the business date: the last day that has been observed (``as_of``).
    ``options`` holds the verb's own flags, as declared in :mod:`lumos.cli`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: str
    recipe: Recipe
    date: dt.date
    settings: Settings
    options: Mapping[str, Any] = Field(default_factory=dict)
    force: bool = False

    def report(self, **fields: Any) -> Report:  # noqa: ANN401 - Report checks them
        """A :class:`Report` that carries this request's verb, recipe and date."""
        return Report(verb=self.verb, recipe=self.recipe.name, date=self.date, **fields)
