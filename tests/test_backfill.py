"""Backfills: out of order, the tables are those of the straight run, or a day is refused."""

import datetime as dt

import pyarrow as pa
import pytest
from gym_world import raw

from lumos import ledger
from lumos.delta import read
from lumos.recipes import load
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World

pytestmark = pytest.mark.timeout(600)
LAST = raw.BUSINESS_DATE
DAYS = tuple(LAST - dt.timedelta(days=n) for n in (3, 2, 1, 0))


@pytest.fixture(scope="module")
def before(_raw_world, spark, tmp_path_factory) -> World:
    """The days before the range as they were on their morning."""
    world = _raw_world.copy(tmp_path_factory.mktemp("before") / "home")
    days = raw.NUM_DAYS_TO_BUSINESS_DATE - len(DAYS)
    world.run("aggregate", date=DAYS[0] - dt.timedelta(days=1), days=days)
    return world


def rows(world: World, table: str, date: dt.date) -> pa.Table:
    """What a reader of the date sees: the version that the ledger names."""
    recipe = load(world.recipe_name)
    entry = ledger.find(world.settings, recipe, table, date)
    assert entry is not None, (table, date)
    found = read(table_uri(world.settings, recipe, table), version=entry.version)
    assert found is not None
    return in_order(found, table)


def newest(world: World, table: str) -> pa.Table:
    """The newest version, which holds of each day what the latest date knows of it."""
    found = read(table_uri(world.settings, load(world.recipe_name), table))
    assert found is not None
    return in_order(found, table)


def in_order(found: pa.Table, table: str) -> pa.Table:
    key = tables(load(RECIPE))[table].key
    return found.sort_by([(name, "ascending") for name in key])


@pytest.fixture(scope="module")
def straight(before, tmp_path_factory) -> World:
    world = before.copy(tmp_path_factory.mktemp("straight") / "home")
    for day in DAYS:
        world.run("aggregate", date=day)
    world.run("sequences", date=LAST)
    return world


def same_tables(world: World, straight: World) -> None:
    for table in ("activity", "users", "event_context", "sequences"):
        assert rows(world, table, LAST).equals(rows(straight, table, LAST)), table


def test_a_day_after_a_gap_is_refused_until_the_gap_is_filled_in_any_order(
    before, straight, tmp_path
):
    world = before.copy(tmp_path / "home")
    world.run("aggregate", date=LAST)
    # Its window looks back three days: the one before it is a gap that nobody may read over.
    with pytest.raises(BadInput, match=rf"no ready run for {DAYS[0]}.*this date again"):
        world.run("sequences", date=LAST)
    world.run("aggregate", date=DAYS[0])
    assert not world.run("aggregate", date=LAST).already_done
    world.run("sequences", date=LAST)
    same_tables(world, straight)
    assert world.run("aggregate", date=LAST).already_done

    # The days between come last, the later one first: what LAST knows of them stays.
    for number in (2, 1):
        world.run("aggregate", date=DAYS[number])
    for table in ("activity", "users", "event_context"):
        assert newest(world, table).equals(newest(straight, table)), table


def test_a_year_loaded_after_its_last_day_is_taken_up_when_that_day_is_run_again(gym_raw, straight):
    """The worst order: the newest day first, of which nothing before was known."""
    world = gym_raw
    world.run("aggregate", date=LAST)
    days = raw.NUM_DAYS_TO_BUSINESS_DATE - len(DAYS)
    world.run("aggregate", date=DAYS[0] - dt.timedelta(days=1), days=days)
    for date in (DAYS[0], LAST):
        world.run("aggregate", date=date)
    world.run("sequences", date=LAST)
    same_tables(world, straight)
