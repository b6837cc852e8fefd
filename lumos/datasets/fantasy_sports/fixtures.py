"""The sports year: fixtures announced ahead, moved and called off, as a log of notices.

A fixture is never edited. Each thing that becomes known of it is one more notice, in force from
the day it lands on; the last one landed says how the fixture stands. Every notice lands on or
before the days that it concerns, so a day's calendar is settled by the end of that day.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lumos.datasets.fantasy_sports.world import FIXTURES, PROMOTIONS, World
from lumos.dates import day_number

# Ten cities whose franchises meet in the premier league, with the share of the fans of each.
CITY_FANS = {
    "mumbai": 0.17, "chennai": 0.18, "bengaluru": 0.16, "kolkata": 0.13, "delhi": 0.09,
    "hyderabad": 0.08, "punjab": 0.06, "jaipur": 0.05, "lucknow": 0.04, "ahmedabad": 0.04,
}  # fmt: skip
CITIES = tuple(CITY_FANS)
HOME_NATION = "india"
_NATIONS = ("australia", "england", "pakistan", "new zealand", "south africa", "sri lanka")
_SHARE_MOVED, _SHARE_CANCELLED = 0.03, 0.02
_NAMED_DAYS_AHEAD = 2  # who plays a knock-out is known once the round before it is over
_PROMOTION_SHARE, _PROMOTION_LEAD_DAYS = 0.06, 3
_PRIZE_POOLS_CRORE = (5, 10, 20, 50)


@dataclass(frozen=True)
class Tournament:
    """A season that comes back every year.

    Attributes:
        name: Also its series in the event columns.
        sport: Format of its matches: t20, odi, test, football or kabaddi.
        starts: Month and day of its first match.
        num_days: From the first to the last match.
        matches: Matches on weekdays and on weekend days.
        hours: When matches of a day start, in order, local time.
        lead_days: The schedule is published so long before the first match.
        every: Days from one match day to the next.
        knockouts: So many last matches are knock-outs, the last of all the final.
        sides: Who plays: cities, a tour of the home nation, nations, or nobody followed.
    """

    name: str
    sport: str
    starts: tuple[int, int]
    num_days: int
    matches: tuple[int, int]
    hours: tuple[int, ...]
    lead_days: int
    every: int = 1
    knockouts: int = 0
    sides: str = ""


# After India's sports year: dates, lengths and hours to within days of the seasons 2021-2024.
TOURNAMENTS = (
    Tournament("league", "t20", (3, 24), 62, (1, 2), (19, 15), 30, 1, 4, "cities"),
    Tournament("womens", "t20", (2, 23), 24, (1, 1), (19,), 21, 1, 2),
    Tournament("world_cup", "odi", (10, 5), 42, (1, 2), (14, 10), 100, 1, 3, "nations"),
    Tournament("tour", "test", (1, 10), 50, (1, 1), (9,), 60, 2, 0, "tour"),
    Tournament("tour", "odi", (7, 3), 24, (1, 1), (18,), 45, 3, 0, "tour"),
    Tournament("tour", "t20", (8, 2), 20, (1, 1), (20,), 45, 2, 0, "tour"),
    Tournament("tour", "t20", (12, 1), 20, (1, 1), (19,), 45, 2, 0, "tour"),
    Tournament("overseas", "t20", (12, 13), 45, (1, 2), (13, 8), 60, 1, 3),
    Tournament("overseas", "t20", (7, 25), 28, (1, 2), (23, 22), 60, 1, 2),
    Tournament("clubs", "football", (9, 20), 165, (0, 2), (19, 17), 40, 1, 1),
    Tournament("clubs", "football", (8, 14), 280, (0, 3), (21, 19, 23), 60, 1, 0),
    Tournament("kabaddi", "kabaddi", (10, 22), 75, (2, 2), (20, 21), 30, 1, 3),
)


@dataclass(frozen=True)
class Notice:
    """What became known of one fixture on one day; days are day numbers."""

    fixture: str
    landed_on: int
    day: int
    start_hour: int
    status: str
    tournament: str
    sport: str
    stage: str
    home: str | None
    away: str | None


def fixture_notices(world: World) -> list[Notice]:
    """All notices about matches from the world's first year to the year after its last.

    In the order in which they were made, a fixture's own one after another.
    """
    years = range(world.first_day.year - 1, world.last_day.year + 2)
    return [
        notice
        for year in years
        for number, tournament in enumerate(TOURNAMENTS)
        for notice in _season(
            world.chance(FIXTURES, year * 100 + number), tournament, f"{year}-{number:02d}", year
        )
    ]


def promotions(world: World) -> list[tuple[int, int, int]]:
    """Contests with a large prize pool: (day, landed_on, crore rupees), in order of days."""
    found = []
    for year in range(world.first_day.year - 1, world.last_day.year + 2):
        chance = world.chance(PROMOTIONS, year)
        first = day_number(dt.date(year, 1, 1))
        days = first + np.flatnonzero(chance.random(365) < _PROMOTION_SHARE)
        pools = chance.choice(_PRIZE_POOLS_CRORE, len(days), p=(0.4, 0.3, 0.2, 0.1))
        found += [
            (int(day), int(day) - _PROMOTION_LEAD_DAYS, int(pool))
            for day, pool in zip(days, pools, strict=True)
        ]
    return found


def _season(
    chance: np.random.Generator, tournament: Tournament, name: str, year: int
) -> Iterator[Notice]:
    sport = tournament.sport
    if tournament.name == "world_cup":
        sport = "odi" if year % 2 else "t20"  # they take turns
    slots = list(_slots(tournament, year))
    announced = slots[0][0] - tournament.lead_days
    for number, (day, hour) in enumerate(slots):
        left = len(slots) - number
        stage = "final" if tournament.knockouts and left == 1 else "group"
        if 1 < left <= tournament.knockouts:
            stage = "knockout"
        home, away = _sides(chance, tournament.sides)
        first = Notice(
            f"{name}-{number:03d}", announced, day, hour, "scheduled", tournament.name,
            sport, "opener" if number == 0 else stage, home, away,
        )  # fmt: skip
        yield from _fate(chance, first)


def _slots(tournament: Tournament, year: int) -> Iterator[tuple[int, int]]:
    """Day and hour of each match of a season, in order."""
    first = day_number(dt.date(year, *tournament.starts))
    for day in range(first, first + tournament.num_days, tournament.every):
        is_weekend = (day + 3) % 7 >= 5  # day 0, 1970-01-01, was a Thursday
        for match in range(tournament.matches[is_weekend]):
            yield day, tournament.hours[match % len(tournament.hours)]


def _sides(chance: np.random.Generator, kind: str) -> tuple[str | None, str | None]:
    if kind == "cities":
        home, away = chance.choice(len(CITIES), 2, replace=False)
        return CITIES[home], CITIES[away]
    if kind == "tour":
        return HOME_NATION, _NATIONS[chance.integers(len(_NATIONS))]
    if kind == "nations":
        names = (HOME_NATION, *_NATIONS)
        home, away = chance.choice(len(names), 2, replace=False)
        return names[home], names[away]
    return None, None


def _fate(chance: np.random.Generator, first: Notice) -> Iterator[Notice]:
    """The notices of one fixture: as announced, then what changes."""
    draw, shift, ahead = chance.random(), int(chance.integers(1, 4)), int(chance.integers(0, 8))
    if first.stage in ("knockout", "final") and first.home is not None:
        yield replace(first, home=None, away=None)
        yield replace(first, landed_on=first.day - _NAMED_DAYS_AHEAD)
        return
    yield first
    if draw < _SHARE_MOVED:
        day = first.day + (shift if ahead % 2 else -shift)
        # At least a day before both days.
        yield replace(first, landed_on=min(day, first.day) - 1 - ahead, day=day)
    elif draw < _SHARE_MOVED + _SHARE_CANCELLED:
        # Half of them by rain, on the day itself.
        landed = first.day - (0 if ahead % 2 else 1 + shift)
        yield replace(first, landed_on=landed, status="cancelled")
