"""The ledger says what is ready, at which version; half an entry never looks like a whole one."""

import datetime as dt

import pytest

from lumos import ledger
from lumos.delta import open_table
from lumos.ledger import already_done, entries, find, of_date, record, require
from lumos.recipes import load
from lumos.tables import table_uri
from lumos.verbs import BadInput, TableWritten
from tests.conftest import RECIPE, World

DAY = dt.date(2024, 5, 10)
RECIPE_OBJECT = load(RECIPE)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "home")


def enter(world, *names, date=DAY, inputs=None, version=3, **fields):
    request = world.request("aggregate", date=date)
    written = tuple(TableWritten(table=name, version=version, rows=5) for name in names)
    report = request.report(tables=written, metrics={"lost": float("nan")}, details={"é": [1]})
    return request, record(request, report, inputs=inputs or {"raw": 1}, **fields)


def test_what_was_entered_is_found_with_all_that_was_said(world):
    request, report = enter(world, "activity", first_day=DAY - dt.timedelta(days=2))
    entry = find(world.settings, RECIPE_OBJECT, "activity", DAY)
    assert (entry.version, entry.rows, entry.verdict) == (3, 5, "ready")
    assert entry.first_day == DAY - dt.timedelta(days=2)
    assert entry.inputs == {"raw": 1}
    assert entry.report.details == report.details
    assert entry.fingerprint == ledger.fingerprint(request, {"raw": 1})


def test_nothing_is_found_in_an_empty_lake(world):
    assert find(world.settings, RECIPE_OBJECT, "activity", DAY) is None
    assert entries(world.settings, RECIPE_OBJECT, "activity") == []
    assert of_date(world.settings, RECIPE_OBJECT, DAY) == []


def test_all_tables_of_a_run_are_entered_in_one_commit(world):
    # Two commits would leave, after a kill between them, a run that looks done and is not.
    enter(world, "other")
    uri = table_uri(world.settings, RECIPE_OBJECT, "ledger")
    before = open_table(uri).version()
    enter(world, "activity", "event_context", "users")
    assert open_table(uri).version() == before + 1
    assert len(of_date(world.settings, RECIPE_OBJECT, DAY)) == 4


def test_entering_again_replaces_the_entry_of_that_table_and_date_only(world):
    enter(world, "activity", "users", version=1)
    enter(world, "activity", date=DAY + dt.timedelta(days=1), version=2)
    enter(world, "activity", version=3)
    versions = {
        (entry.table, entry.business_date): entry.version
        for name in ("activity", "users")
        for entry in entries(world.settings, RECIPE_OBJECT, name)
    }
    assert versions == {
        ("activity", DAY): 3,
        ("activity", DAY + dt.timedelta(days=1)): 2,
        ("users", DAY): 1,
    }


def test_a_run_that_wrote_nothing_enters_nothing(world):
    enter(world)
    assert open_table(table_uri(world.settings, RECIPE_OBJECT, "ledger")) is None


def test_the_same_run_is_done_already_and_prints_the_same_report(world):
    request, report = enter(world, "activity")
    again = already_done(request, "activity", {"raw": 1})
    assert again.already_done
    assert again.tables == report.tables
    assert again.details == report.details


@pytest.mark.parametrize("what", ["inputs", "options", "recipe", "force", "verdict", "date"])
def test_a_run_that_differs_in_anything_is_not_done(world, what):
    enter(world, "activity", verdict="refused" if what == "verdict" else "ready")
    date = DAY + dt.timedelta(days=1) if what == "date" else DAY
    recipe = type(RECIPE_OBJECT).model_validate({**RECIPE_OBJECT.model_dump(), "late_days": 9})
    request = world.request(
        "aggregate",
        date=date,
        force=what == "force",
        recipe=recipe if what == "recipe" else RECIPE_OBJECT,
        days=9 if what == "options" else None,
    )
    inputs = {"raw": 2 if what == "inputs" else 1}
    assert already_done(request, "activity", inputs) is None


def test_a_table_that_is_not_ready_is_refused_with_the_dates_that_are(world):
    enter(world, "activity", date=DAY - dt.timedelta(days=1))
    enter(world, "activity", date=DAY - dt.timedelta(days=2), verdict="refused")
    with pytest.raises(BadInput) as caught:
        require(world.settings, RECIPE_OBJECT, "activity", DAY, remedy="Run it.")
    assert str(caught.value) == (
        "activity of recipe gym is not ready for 2024-05-10; ready are 2024-05-09. Run it."
    )


def test_a_lake_without_an_entry_says_so(world):
    with pytest.raises(BadInput, match=r"ready are no dates at all\. Run it\."):
        require(world.settings, RECIPE_OBJECT, "activity", DAY, remedy="Run it.")


def test_a_refused_table_is_not_ready(world):
    enter(world, "quality", verdict="refused")
    with pytest.raises(BadInput, match=r"quality of recipe gym was refused for 2024-05-10\. Look"):
        require(world.settings, RECIPE_OBJECT, "quality", DAY, remedy="Look.")


def test_recipes_do_not_see_each_others_entries(world):
    enter(world, "activity")
    other = load("gym_world.recipe:recipe_without_events")
    assert find(world.settings, other, "activity", DAY) is None
