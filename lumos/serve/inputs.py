"""What a serving job reads, pinned once at its start, and whom it is about."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumos import ledger
from lumos.accio.contract import open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.config import Recipe, Task
from lumos.dates import day_number, from_day_number
from lumos.verbs import BadInput, Request

# Share of training origins whose calendar reached the end of the horizon: seasons have ends.
_NEARLY_ALL = 0.9


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


def check_calendar(
    recipe: Recipe, date: dt.date, events: EventCalendar, learned: tuple[dt.date, dt.date]
) -> None:
    """Refuse a calendar that ends before the horizon, if those of the training did not.

    Where nothing is announced a day's event columns are zero, which is right for a platform whose
    events are known a few days ahead, or not at all. So what is expected of the calendar is what
    it gave to the training: on nearly all of its days it reached to the end of the horizon. Under
    one that stopped arriving, forecasts would silently be those of days without events.

    Args:
        recipe: Says how long the horizon is.
        date: The last day observed.
        events: The calendar.
        learned: First and last origin of the training.

    Raises:
        BadInput: Names the calendar's last day and the horizon's.
    """
    if not recipe.events or recipe.scoring.allow_short_calendar:
        return
    last, horizon = day_number(date), recipe.horizon_days
    reached = int(events.newest(np.array([last]))[0])
    origins = np.arange(day_number(learned[0]), day_number(learned[1]) + 1)
    is_usual = np.mean(events.newest(origins) - origins >= horizon) >= _NEARLY_ALL
    if reached >= last + horizon or not is_usual:
        return
    ends = from_day_number(reached) if reached >= 0 else "no day at all"
    msg = (
        f"event_context as known on {date} ends on {ends}, before the horizon does on "
        f"{from_day_number(last + horizon)}; in training, from {learned[0]} to {learned[1]}, it "
        "covered the horizon. Land the days that are missing and run "
        f"`lumos aggregate --date {date} --force`; or, if nothing happens on them, set "
        "scoring.allow_short_calendar=true"
    )
    raise BadInput(msg)


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
