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
from tests.conftest import World

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
    key = tables(recipe)[table].key
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


def test_days_out_of_order_give_the_tables_of_the_straight_run(before, straight, tmp_path):
    world = before.copy(tmp_path / "home")
    for number in (2, 3, 0, 1):
        world.run("aggregate", date=DAYS[number])
    world.run("sequences", date=LAST)
    same_tables(world, straight)


def test_a_day_after_a_gap_is_refused_until_the_gap_is_filled_and_then_is_the_same(
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


def test_a_year_loaded_after_its_last_day_is_taken_up_when_that_day_is_run_again(gym_raw, straight):
    """The worst order: the newest day first, of which nothing before was known."""
    world = gym_raw
    days = raw.NUM_DAYS_TO_BUSINESS_DATE - len(DAYS)
    first, *rest = ((LAST, None), *((day, None) for day in DAYS[:-1]))
    order = [first, (DAYS[0] - dt.timedelta(days=1), days), *rest]
    for day, window in order:
        world.run("aggregate", date=day, days=window)
    for day in DAYS:
        world.run("aggregate", date=day)
    world.run("sequences", date=LAST)
    same_tables(world, straight)
