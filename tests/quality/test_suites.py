"""The suites follow from the declarations: what a recipe adds is checked from its first day."""

import datetime as dt

import pytest

from lumos.config import Recipe
from lumos.quality.suites import checks, flags
from lumos.recipes import load
from lumos.tables import tables
from tests.conftest import RECIPE

DATE = dt.date(2024, 5, 10)
RECIPES = ["complete_journey", "fantasy_sports", RECIPE, "gym_world.recipe:recipe_without_events"]
CHECKED = ("activity", "event_context", "users")


def suite(recipe, table):
    return {(check.name, check.column): check for check in checks(recipe, table, last_day=DATE)}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("table", [*CHECKED, "quarantine", "scores", "metrics"])
def test_every_declared_column_has_its_type_checked_and_its_nulls(name, table):
    recipe = load(name)
    found = suite(recipe, table)
    for column in tables(recipe)[table].columns:
        assert ("type", column.name) in found
        assert (("not_null", column.name) in found) is not column.nullable


@pytest.mark.parametrize("name", RECIPES)
def test_every_activity_column_is_held_to_its_kind(name):
    recipe = load(name)
    found = suite(recipe, "activity")
    assert {column for check, column in found if check == "in_set" and column} == set(recipe.binary)
    assert {column for check, column in found if check == "between"} == {
        *recipe.continuous,
        "num_raw_rows",
    }


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("table", CHECKED)
def test_every_check_has_a_row_of_its_own_in_metrics(name, table):
    found = checks(load(name), table, last_day=DATE)
    assert len({(check.name, check.segment) for check in found}) == len(found)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("table", CHECKED)
def test_keys_are_unique_and_only_flags_are_mere_warnings(name, table):
    recipe = load(name)
    found = checks(recipe, table, last_day=DATE)
    (unique,) = [check for check in found if check.name == "unique"]
    assert unique.arguments == {"column_list": list(tables(recipe)[table].key)}
    odd = {flag.name.removeprefix("_") for flag in flags(recipe, table)}
    assert {check.name for check in found if check.severity == "warning"} == odd


def test_a_column_that_a_recipe_adds_is_checked_with_its_own_minimum():
    fields = load(RECIPE).model_dump()
    fields["activity"] = [
        *fields["activity"],
        {"name": "balance", "kind": "continuous", "unit": "INR", "minimum": None},
        {"name": "degrees", "kind": "continuous", "unit": "C", "minimum": -40.5},
    ]
    found = suite(Recipe.model_validate(fields), "activity")
    assert found["between", "degrees"].arguments["min_value"] == -40.5
    assert "below -40.5 or not finite" in found["between", "degrees"].fault
    assert found["between", "balance"].arguments["min_value"] < -1e300
    assert "below" not in found["between", "balance"].fault


def test_a_platform_with_one_binary_column_has_nothing_to_be_inactive_in():
    fields = load("gym_world.recipe:recipe_without_events").model_dump()
    fields |= {
        "activity": [{"name": "visited", "kind": "binary", "unit": "0 or 1"}],
        "tasks": [{"name": "t", "kind": "any", "column": "visited", "window_days": 1}],
    }
    recipe = Recipe.model_validate(fields)
    assert [flag.name for flag in flags(recipe, "activity")] == ["_empty"]


def test_nobody_can_have_registered_after_the_business_date():
    check = suite(load(RECIPE), "users")["between", "registered_on"]
    assert check.arguments["max_value"] == DATE
