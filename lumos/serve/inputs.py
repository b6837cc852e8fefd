"""What a serving job reads, pinned once at its start, and whom it is about."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumos import ledger
from lumos.accio.contract import open_sequences
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.config import Recipe, Task
from lumos.dates import day_number
from lumos.verbs import BadInput, Request


@dataclass(frozen=True)
class Inputs:
    """Delta versions that the ledger names for the business date.

    ``event_context`` is ``None`` for a recipe without event columns: it reads no such table.
    """

    sequences: int
    event_context: int | None

    @property
    def named(self) -> dict[str, int | str]:
        """For fingerprints and manifests."""
        pinned: dict[str, int | str] = {"sequences": self.sequences}
        if self.event_context is not None:
            pinned["event_context"] = self.event_context
        return pinned

    def table(self, request: Request) -> SequenceTable:
        """`sequences` at the pinned version."""
        return open_sequences(request.settings, request.recipe, self.sequences)


def pin(request: Request) -> Inputs:
    """The versions to read for the request's date.

    Raises:
        BadInput: One of the tables is not ready for the date.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    sequences = ledger.require(
        settings, recipe, "sequences", date, remedy=f"Run `lumos sequences --date {date}` first."
    )
    if not recipe.events:
        return Inputs(sequences.version, None)
    events = ledger.require(
        settings,
        recipe,
        "event_context",
        date,
        remedy=f"Run `lumos aggregate --date {date}` first.",
    )
    return Inputs(sequences.version, events.version)


def is_active(users: Users, as_of: dt.date, within_days: int) -> NDArray[np.bool_]:
    """Who gets a score: registered by ``as_of`` and active in the ``within_days`` up to it.

    Returns:
        Mask of shape (N,).
    """
    last = day_number(as_of)
    is_recent = (users.days <= last) & (users.days > last - within_days)
    num_recent = np.bincount(users.owner[is_recent], minlength=len(users))
    registered: NDArray[np.bool_] = users.registered <= last
    return registered & (num_recent > 0)


def check_columns(trained: Recipe, asked: Recipe, version: str) -> None:
    """Refuse a checkpoint that was made for other columns or windows than the recipe's.

    Raises:
        BadInput: Names what differs.
    """
    differing = [
        what
        for what, ours, theirs in (
            ("activity", _columns(trained.activity), _columns(asked.activity)),
            ("active", trained.active, asked.active),
            ("calendar", trained.calendar, asked.calendar),
            ("events", _columns(trained.events), _columns(asked.events)),
            ("static", _columns(trained.static), _columns(asked.static)),
            ("history_days", trained.history_days, asked.history_days),
            ("horizon_days", trained.horizon_days, asked.horizon_days),
            ("task heads", _heads(trained, asked), _heads(asked, asked)),
        )
        if ours != theirs
    ]
    if differing:
        msg = (
            f"model version {version} of recipe {asked.name} was trained with other "
            f"{', '.join(differing)} than the recipe now has; run `lumos train` and "
            "`lumos evaluate`, or name another version with --model"
        )
        raise BadInput(msg)


def _heads(having: Recipe, asked: Recipe) -> list[Task]:
    """The tasks with a head that are asked, as far as a recipe has the very same ones."""
    return [task for task in asked.tasks if task.has_head and task in having.tasks]


def _columns(columns: tuple[object, ...]) -> list[tuple[object, object]]:
    return [(getattr(c, "name", None), getattr(c, "kind", None)) for c in columns]
