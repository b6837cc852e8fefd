"""What a key-value store has to do to serve published scores, whichever it is.

Rows of one publication lie under a name of their own, its *edition*; a *pointer* says which
edition consumers read. So an edition is written beside the one that is being read, checked, and
then read by everybody from one moment on. All that is written carries when it expires.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from lumos.ownership import Platform

Row = tuple[str, Mapping[str, float]]


class StoreFailed(Exception):
    """The store could not be reached or did not take what it was given; a retry may help."""


class Pointer(BaseModel):
    """What consumers read first.

    Attributes:
        edition: Under which name the rows lie.
        as_of: The last day that was observed.
        num_rows: How many users have a score.
        columns: Names of the scores, in the order of the table.
        valid_until: Last day on which they may be used, in the recipe's time zone.
        model_version: As in the manifest.
        calibrator_version: As in the manifest.
        checksum: As in the manifest.
        platform: Whose scores they are; ``None`` in one from before this was kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edition: str
    as_of: dt.date
    num_rows: int
    columns: tuple[str, ...]
    valid_until: dt.date
    model_version: str
    calibrator_version: str
    checksum: str
    platform: Platform | None = None


class Store(Protocol):
    """One recipe's scores in a store. Every method may raise :class:`StoreFailed`.

    Attributes:
        rows_a_put: How many rows it is best given at a time.
    """

    rows_a_put: int

    def pointer(self) -> Pointer | None:
        """What consumers read now."""

    def position(self, edition: str) -> int:
        """How many rows of an edition are safely there: an interrupted export goes on here."""

    def put(self, edition: str, start: int, rows: Sequence[Row], expires: dt.datetime) -> None:
        """Write the rows from ``start`` on; afterwards ``position`` counts them too."""

    def restart(self, edition: str) -> None:
        """Let ``position`` be 0: all rows are to be written anew."""

    def count(self, edition: str) -> int:
        """How many rows of an edition there are, counted in the store itself."""

    def get(self, edition: str, users: Sequence[str]) -> dict[str, dict[str, float]]:
        """Scores by user, as a consumer reads them."""

    def point(self, pointer: Pointer, expires: dt.datetime) -> None:
        """Let consumers read another edition from now on."""

    def erase(self, users: Sequence[str]) -> int:
        """Remove what there is of some users, in every edition; returns how many rows it was."""
