"""The gym's contract tables made by hand, as Spark would have left them: real Delta, no JVM."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from gym_world.raw import BUSINESS_DATE, FIRST_DAY

from lumos import ledger
from lumos.config import Recipe
from lumos.dates import EPOCH, day_number
from lumos.delta import read, replace
from lumos.recipes import load
from lumos.tables import table_uri, tables
from lumos.verbs import Request, TableWritten
from tests.conftest import RECIPE, World

NUM_USERS = 240
DATES = (BUSINESS_DATE, BUSINESS_DATE + dt.timedelta(days=1))


@dataclass(frozen=True)
class Member:
    """A user and what they did: day number -> a row of the recipe's four activity columns."""

    user_id: str
    registered: int
    plan: str | None
    age: float | None
    days: dict[int, list[float]]


def members() -> list[Member]:
    """Regulars, week-enders and quitters, so that there is something to forecast."""
    random = np.random.default_rng(11)
    first, last = day_number(FIRST_DAY), day_number(DATES[-1])
    made = []
    for number in range(NUM_USERS):
        registered = first + (0 if random.random() < 0.7 else int(random.integers(1, 100)))
        habit, is_weekender = random.beta(0.7, 1.5), random.random() < 0.3
        quits = int(random.integers(registered + 5, last + 60))
        days = {}
        for day in range(registered, last + 1):
            # 1970-01-01 was a Thursday.
            share = (0.8 if (day + 3) % 7 >= 5 else 0.02) if is_weekender else habit
            if day == registered or (day < quits and random.random() < share):
                minutes = float(random.gamma(6, 10 if habit < 0.5 else 5))
                spend = float(random.gamma(2, 100)) if random.random() < 0.2 else 0.0
                days[day] = [1.0, float(random.random() < 0.3), minutes, spend]
        age = None if random.random() < 0.2 else float(random.integers(16, 70))
        plan = [None, "basic", "gold"][int(random.integers(3))]
        made.append(Member(f"m-{number:03d}é", registered, plan, age, days))
    return made


def write_lake(home: Path, recipe_name: str = RECIPE) -> World:
    """Sequences, event context and a good quality verdict for each of :data:`DATES`."""
    world = World(home, recipe_name)
    everyone = members()
    for date in DATES:
        write_sequences(world, date, everyone)
        write_events(world, date)
        enter(world, "aggregate", "users", date)
        enter(world, "validate", "quality", date)
    return world


def write_sequences(world: World, date: dt.date, everyone: list[Member]) -> None:
    """What was known by ``date``, as a new version that the ledger pins."""
    recipe = load(world.recipe_name)
    last = day_number(date)
    names = [column.name for column in recipe.activity]
    rows = [
        {
            "user_id": member.user_id,
            "registered_on": EPOCH + dt.timedelta(days=member.registered),
            "plan": member.plan,
            "age": member.age,
            "days": [
                {"day": day, **dict(zip(names, values, strict=True))}
                for day, values in sorted(member.days.items())
                if day <= last
            ],
            "bucket": number % recipe.num_buckets,
        }
        for number, member in enumerate(everyone)
        if member.registered <= last
    ]
    table = tables(recipe)["sequences"]
    version = replace(
        table_uri(world.settings, recipe, "sequences"),
        pa.Table.from_pylist(rows, schema=table.arrow_schema(recipe)),
        where=None,
        partition=table.partition,
    )
    enter(world, "sequences", "sequences", date, version=version, rows=len(rows))


def write_events(
    world: World, date: dt.date, other: Mapping[dt.date, Mapping[str, float]] | None = None
) -> None:
    """A timetable that is announced twenty days ahead; ``other`` replaces cells of some days."""
    recipe = load(world.recipe_name)
    if not recipe.events:
        return
    first = day_number(FIRST_DAY)
    rows = []
    for day in range(first, day_number(date) + 21):
        at = EPOCH + dt.timedelta(days=day)
        rows.append(
            {
                "day": at,
                "known_on": at - dt.timedelta(days=20),
                "num_classes": 6.0 if at.weekday() in (1, 5) else 2.0,
                "open_day": float(at.day == 15),
                **(other or {}).get(at, {}),
            }
        )
    version = replace(
        table_uri(world.settings, recipe, "event_context"),
        pa.Table.from_pylist(rows, schema=tables(recipe)["event_context"].arrow_schema(recipe)),
        where=None,
    )
    enter(world, "aggregate", "event_context", date, version=version, rows=len(rows))


def enter(
    world: World,
    verb: str,
    table: str,
    date: dt.date,
    *,
    version: int = 0,
    rows: int = 1,
    verdict: str = ledger.READY,
) -> None:
    """One row of the ledger."""
    request: Request = world.request(verb, date=date)
    report = request.report(tables=(TableWritten(table=table, version=version, rows=rows),))
    ledger.record(request, report, inputs={}, first_day=FIRST_DAY, verdict=verdict)


def contents(world: World, name: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """All rows of a table as text, in an order of their own."""
    recipe: Recipe = load(world.recipe_name)
    rows = read(table_uri(world.settings, recipe, name))
    if rows is None:
        return []
    kept = rows.drop_columns([column for column in without if column in rows.column_names])
    return sorted(str(row) for row in kept.to_pylist())
