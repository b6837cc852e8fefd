"""The 32 event columns: what was known of each day, and how each day stood when it came.

All are whole numbers, so that sums are exact in whatever order an engine adds them.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lumos.datasets.fantasy_sports.fixtures import (
    CITIES,
    HOME_NATION,
    Notice,
    fixture_notices,
    promotions,
)
from lumos.datasets.fantasy_sports.world import World

SPORTS = ("t20", "odi", "test", "football", "kabaddi")
_SERIES = ("league", "womens", "world_cup", "tour", "overseas")
_HOURS = {"morning": (0, 12), "afternoon": (12, 17), "evening": (17, 21), "night": (21, 24)}
EVENT_COLUMNS = (
    "num_matches",
    *(f"num_{sport}" for sport in SPORTS),
    *(f"num_{part}" for part in _HOURS),
    *(f"num_{series}" for series in _SERIES),
    "num_openers",
    "num_knockouts",
    "num_finals",
    "num_cancelled",
    "num_free_to_air",
    "india_plays",
    *(f"{city}_plays" for city in CITIES),
    "prize_pool",
)
COLUMN = {name: number for number, name in enumerate(EVENT_COLUMNS)}


@dataclass(frozen=True)
class Context:
    """Revisions of the calendar of a world.

    Attributes:
        day: Day that a revision is about, ascending, shape (R,).
        known_on: Day from which it holds, ascending within a day, shape (R,).
        values: float32 event columns as known then, shape (R, 32).
        as_it_came: float32 event columns of each of the world's days as they stood at its end,
            shape (num_days, 32).
    """

    day: np.ndarray
    known_on: np.ndarray
    values: np.ndarray
    as_it_came: np.ndarray


@functools.lru_cache(maxsize=4)
def context_of(world: World) -> Context:
    """The event columns of a world, all that landed by its last day."""
    changes = [*_changes(fixture_notices(world)), *_prizes(promotions(world))]
    last = world.first + world.num_days - 1
    key = np.array([(day, known_on) for day, known_on, _ in changes], np.int64)
    values = np.stack([row for _, _, row in changes])
    key, place = np.unique(key, axis=0, return_inverse=True)
    news = np.zeros((len(key), len(EVENT_COLUMNS)), np.int64)
    np.add.at(news, place, values)
    known = _running_sums(key[:, 0], news)
    seen = key[:, 1] <= last
    day, known_on, known = key[seen, 0], key[seen, 1], known[seen].astype(np.float32)
    came = np.zeros((world.num_days, len(EVENT_COLUMNS)), np.float32)
    of_world = (day >= world.first) & (day <= last)
    # Revisions ascend, so that the last one of a day is the one that stays.
    came[day[of_world] - world.first] = known[of_world]
    return Context(day, known_on, known, came)


def _running_sums(day: np.ndarray, news: np.ndarray) -> np.ndarray:
    """All that is known of a day at each of its revisions; days ascend."""
    total = np.cumsum(news, axis=0)
    starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    before = total[starts] - news[starts]
    sizes = np.diff(np.append(starts, len(day)))
    return np.asarray(total - np.repeat(before, sizes, axis=0))


def _changes(notices: Iterable[Notice]) -> Iterable[tuple[int, int, np.ndarray]]:
    """What each notice takes from a day and adds to one: (day, known_on, row)."""
    before: Notice | None = None
    for notice in notices:
        if before is not None and before.fixture == notice.fixture:
            yield before.day, notice.landed_on, -_row(before)
        yield notice.day, notice.landed_on, _row(notice)
        before = notice


def _row(notice: Notice) -> np.ndarray:
    """The event columns of a day with this fixture alone."""
    row = np.zeros(len(EVENT_COLUMNS), np.int64)
    if notice.status == "cancelled":
        row[COLUMN["num_cancelled"]] = 1
        return row
    (part,) = (name for name, (low, high) in _HOURS.items() if low <= notice.start_hour < high)
    names = ["num_matches", f"num_{notice.sport}", f"num_{part}"]
    if notice.tournament in _SERIES:
        names.append(f"num_{notice.tournament}")
    if notice.stage != "group":
        names.append(f"num_{notice.stage}s")
    sides = {notice.home, notice.away}
    names += [f"{side}_plays" for side in (HOME_NATION, *CITIES) if side in sides]
    if HOME_NATION in sides or notice.stage == "final":
        names.append("num_free_to_air")
    row[[COLUMN[name] for name in names]] = 1
    return row


def _prizes(found: Iterable[tuple[int, int, int]]) -> Iterable[tuple[int, int, np.ndarray]]:
    for day, landed_on, crore in found:
        row = np.zeros(len(EVENT_COLUMNS), np.int64)
        row[COLUMN["prize_pool"]] = crore
        yield day, landed_on, row
