"""A gym of seventy days as `aggregate` and `publish` would have left it: real Delta, no JVM."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from lumos import ledger
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.delta import predicate, read, replace
from lumos.recipes import load
from lumos.serve import spread
from lumos.tables import table_uri, tables
from lumos.verbs import TableWritten
from tests.conftest import RECIPE, World
from tests.serve import lake as serving

DATE = serving.DATES[0]
NUM_DAYS = 70
FIRST = DATE - dt.timedelta(days=NUM_DAYS - 1)
NUM_USERS = 120
GYM: Recipe = load(RECIPE)
RAW = {table.name: dict(table.columns) for table in GYM.raw}

Rows = dict[str, np.ndarray]


def ordinary(day: dt.date) -> Rows:
    """Who came and what they did: more on weekends, and alike from week to week."""
    random = np.random.default_rng(day_number(day))
    num = int(NUM_USERS * (0.9 if day.weekday() >= 5 else 0.6)) + int(random.integers(0, 6))
    return {
        "user_id": np.array([f"m-{n:03d}é" for n in range(num)], object),
        "visited": np.ones(num),
        "took_class": (random.random(num) < 0.3).astype(float),
        "minutes": random.gamma(6, 10, num),
        "spend": np.where(random.random(num) < 0.4, random.gamma(2, 100, num), 0.0),
        "num_raw_rows": random.integers(1, 4, num),
    }


def write_day(world: World, day: dt.date, change: Callable[[Rows], Rows] | None = None) -> int:
    """A day's rows in the place of what was there; returns the version."""
    uri = table_uri(world.settings, GYM, "activity")
    return replace(uri, day_rows(day, change), where=predicate(day=day), partition=("day",))


def day_rows(day: dt.date, change: Callable[[Rows], Rows] | None = None) -> pa.Table:
    """Rows of `activity`."""
    rows = ordinary(day)
    rows = change(rows) if change else rows
    rows["day"] = np.full(len(rows["user_id"]), day, object)
    schema = tables(GYM)["activity"].arrow_schema(GYM)
    return pa.table({f.name: pa.array(rows[f.name], f.type) for f in schema}, schema=schema)


def enter_day(
    world: World,
    day: dt.date,
    version: int,
    *,
    first_day: dt.date | None = None,
    raw_schema: dict[str, dict[str, str]] | None = None,
    rejected: dict[str, int] | None = None,
    late_rows: int = 0,
) -> None:
    """What `aggregate` enters of a day."""
    request = world.request("aggregate", date=day)
    written = tuple(
        TableWritten(table=name, version=at, rows=1)
        for name, at in (("activity", version), ("users", 1), ("event_context", 1))
    )
    reasons = rejected or {}
    report = request.report(
        tables=written,
        rows_rejected=sum(reasons.values()) + late_rows,
        metrics={"raw_rows_landed": 100.0},
        details={"raw_schema": raw_schema or RAW, "rejected": reasons, "late_rows": late_rows},
    )
    ledger.record(request, report, inputs={"raw": version}, first_day=first_day or day)


def write_gym(home: Path) -> World:
    """Seventy ordinary days; the first forty by one load, then each by its own morning."""
    world = World(home)
    table = tables(GYM)["users"]
    empty = table.arrow_schema(GYM).empty_table()
    replace(table_uri(world.settings, GYM, "users"), empty, where=None)
    serving.write_events(world, DATE)
    loaded = [FIRST + dt.timedelta(days=n) for n in range(40)]
    uri = table_uri(world.settings, GYM, "activity")
    rows = pa.concat_tables([day_rows(day) for day in loaded])
    version = replace(uri, rows, where=None, partition=("day",))
    enter_day(world, loaded[-1], version, first_day=FIRST)
    for n in range(40, NUM_DAYS):
        day = FIRST + dt.timedelta(days=n)
        enter_day(world, day, write_day(world, day))
    return world


def metrics(world: World, date: dt.date = DATE) -> dict[tuple[str, str], dict]:
    """Rows that `monitor` left for a date, by name and segment."""
    rows = read(table_uri(world.settings, GYM, "metrics"), where=predicate(job="monitor", day=date))
    return {} if rows is None else {(r["name"], r["segment"]): r for r in rows.to_pylist()}


def publish_days(
    world: World,
    days: list[dt.date],
    *,
    change: Callable[[dt.date, np.ndarray], np.ndarray] = lambda _, p: p,
) -> None:
    """Scores and manifests: the frequency of the last weeks, which is about right."""
    everyone = serving.members(NUM_USERS)
    manifests, parts = [], []
    for day in days:
        last = day_number(day)
        there = [m for m in everyone if m.registered <= last]
        often = np.array([
            (sum(last - 28 < d <= last for d in m.days) + 0.3) / 29 for m in there
        ])  # fmt: skip
        minutes = np.array([
            sum(v[2] for d, v in m.days.items() if last - 28 < d <= last) / 28 for m in there
        ])  # fmt: skip
        scores = {
            "visit_10d": change(day, 0.05 + 0.8 * (1 - (1 - often) ** 10)),
            "visit_3d": change(day, 1 - (1 - often) ** 3),
            "minutes_10d": 10 * minutes,
        }
        schema = tables(GYM)["scores"].arrow_schema(GYM)
        cells = {
            "as_of": [day] * len(there),
            "user_id": [m.user_id for m in there],
            **scores,
            "minutes_10d_low": scores["minutes_10d"] * 0.5,
            "minutes_10d_high": scores["minutes_10d"] * 2 + 1,
            "model_version": ["1"] * len(there),
            "calibrator_version": ["1"] * len(there),
        }
        rows = pa.table({f.name: pa.array(cells[f.name], f.type) for f in schema}, schema=schema)
        parts.append(rows)
        counted = {t.name: spread.to_json(spread.count(t, scores[t.name])) for t in GYM.tasks}
        manifests.append(
            {
                "as_of": day, "scores_version": 0, "state": "live", "num_rows": len(there),
                "columns": ",".join(schema.names), "checksum": "0", "model_version": "1",
                "calibrator_version": "1", "inputs": "{}", "spread": json.dumps(counted),
                "created": dt.datetime(2024, 5, 1, tzinfo=dt.UTC),
                "valid_until": day + dt.timedelta(days=2),
            }
        )  # fmt: skip
    uri = table_uri(world.settings, GYM, "scores")
    version = replace(uri, pa.concat_tables(parts), where=None, partition=("as_of",))
    for manifest in manifests:
        manifest["scores_version"] = version
    schema = tables(GYM)["manifests"].arrow_schema(GYM)
    uri = table_uri(world.settings, GYM, "manifests")
    replace(uri, pa.Table.from_pylist(manifests, schema=schema), where=None)
