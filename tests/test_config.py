"""A recipe that cannot work is refused when it is built, in a sentence."""

import re

import pytest
from pydantic import ValidationError

from lumos.allowed import shipped
from lumos.calendar import CALENDAR_COLUMNS
from lumos.config import RESERVED_COLUMNS, Recipe, explain
from lumos.overrides import override
from lumos.recipes import load
from lumos.tables import tables
from tests.conftest import RECIPE


def changed(**fields):
    return Recipe.model_validate({**load(RECIPE).model_dump(), **fields})


def column(name, kind="continuous"):
    return {"name": name, "kind": kind, "unit": "1"}


def with_activity(*names):
    return [*load(RECIPE).model_dump()["activity"], *map(column, names)]


def with_task(**fields):
    return {
        "tasks": [{"name": "t", "kind": "any", "column": "visited", "window_days": 1, **fields}]
    }


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"horizon_dayz": 7}, "horizon_dayz: Extra inputs are not permitted"),
        ({"horizon_days": 0}, "horizon_days: Input should be greater than or equal to 1"),
        ({"timezone": "Asia/Calcuta"}, "timezone 'Asia/Calcuta' is unknown"),
        ({"country": "XX"}, "country 'XX' has no known holidays"),
        ({"calendar": ["caturday"]}, "calendar columns .* are unknown; choose from"),
        ({"active": "minutes"}, "active='minutes' must be one of the binary columns"),
        ({"activity": with_activity("minutes")}, r"\['minutes'\] named more than once"),
        ({"activity": with_activity("monday")}, r"\['monday'\] named more than once"),
        ({"activity": with_activity("Minutes")}, "'Minutes' is not a name"),
        ({"activity": with_activity("x; drop table")}, "is not a name"),
        ({"activity": with_activity("x" * 64)}, "is not a name"),
        ({"activity": with_activity("day")}, r"named \['day'\]: the contract tables have these"),
        ({"static": [{"name": "user_id", "kind": "categorical"}]}, r"named \['user_id'\]"),
        ({"events": [{"name": "known_on", "unit": "1"}]}, r"named \['known_on'\]"),
        (
            {"tasks": [{"name": "as_of", "kind": "any", "column": "visited", "window_days": 1}]},
            r"named \['as_of'\]",
        ),
        (
            {
                "tasks": [
                    {"name": "t", "kind": "sum", "column": "minutes", "window_days": 1},
                    {"name": "t_low", "kind": "any", "column": "visited", "window_days": 1},
                ]
            },
            r"columns of scores: \['t_low'\] named more than once",
        ),
        (
            {"tasks": [{"name": "t", "kind": "any", "column": "minutes", "window_days": 1}]},
            "task t: 'any' needs one of",
        ),
        (
            {"tasks": [{"name": "t", "kind": "any", "column": "visited", "window_days": 11}]},
            "window_days=11 is beyond horizon_days=10",
        ),
        (with_task(column=None), "task t: 'any' needs `column`, and no formula"),
        (with_task(answer="binary"), "task t: 'any' needs `column`, and no formula or answer"),
        (with_task(kind="formula"), "task t: a formula is declared with @task"),
        (with_task(kind="formula", column=None, formula="a:b"), "a formula is declared with @task"),
        (with_task(metric="wape"), r"metric='wape', expected one of \['auc', 'log_loss'\]"),
        (
            with_task(kind="sum", column="minutes", metric="auc"),
            r"metric='auc', expected one of \['squared_error', 'wape'\]",
        ),
        (
            with_task(kind="sum", column="minutes", metric="wape"),
            "metric='wape' asks for a median, .*has_head=True",
        ),
        ({"model": {"d_model": 10, "num_heads": 4}}, "d_model=10 is not divisible by"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_in_a_sentence(fields, complaint):
    with pytest.raises(ValidationError) as caught:
        changed(**fields)
    assert re.search(complaint, explain(caught.value)), explain(caught.value)


@pytest.mark.parametrize("name", [*shipped(), RECIPE, "gym_world.recipe:recipe_without_events"])
def test_no_contract_table_of_a_recipe_names_a_column_twice(name):
    recipe = load(name)
    for table in tables(recipe).values():
        assert len(set(table.column_names)) == len(table.column_names), table.name
        assert set(table.key) <= set(table.column_names)
        assert set(table.partition) <= set(table.column_names)


def test_every_fixed_column_beside_a_recipes_own_is_reserved():
    recipe = load(RECIPE)
    own = {c.name for c in (*recipe.activity, *recipe.events, *recipe.static)}
    own |= {f"{task.name}{end}" for task in recipe.tasks for end in ("", "_low", "_high")}
    declared = tables(recipe)
    shared = {
        name
        for table in ("activity", "event_context", "users", "sequences", "scores")
        for name in declared[table].column_names
    }
    assert shared - own <= RESERVED_COLUMNS


def test_an_override_changes_what_it_names_and_nothing_else():
    recipe = load(RECIPE)
    other = override(recipe, {"training.epochs": 4, "country": "US"})
    assert (other.training.epochs, other.country) == (4, "US")
    back = override(other, {"training.epochs": recipe.training.epochs, "country": recipe.country})
    assert back == recipe


def test_no_override_is_the_recipe_itself():
    assert override(load(RECIPE), {}) == load(RECIPE)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("training.epoch", 3, r"'training.epoch' is no field .* there are .*'epochs'"),
        ("trainin.epochs", 3, r"'trainin.epochs' is no field .*'training'"),
        ("training.epochs.more", 3, "is no field"),
        ("", 3, "is no field"),
        ("training", 3, "training: Input should be a valid dictionary"),
        ("training.epochs", "two", "training.epochs: Input should be a valid integer"),
        ("training.epochs", 2.5, "training.epochs: Input should be a valid integer"),
        ("training.epochs", 0, "training.epochs: Input should be greater than or equal to 1"),
        ("training.learning_rate", float("nan"), "training.learning_rate"),
        ("timezone", 5, "timezone: Input should be a valid string"),
        ("horizon_days", 5, "is beyond horizon_days=5"),
    ],
)
def test_an_override_that_fits_no_field_is_refused_with_the_choices(path, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        override(load(RECIPE), {path: value})


def test_the_calendar_is_all_of_it_unless_a_recipe_chooses():
    assert load("complete_journey").calendar == CALENDAR_COLUMNS


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "complete_jorney",
            "shipped are complete_journey, fantasy_sports; your own is named package",
        ),
        ("", "is unknown"),
        ("os.system", "is unknown"),
        ("no_such_package.module:recipe", "no module 'no_such_package'"),
        ("gym_world.recipe:recipes", "has no function 'recipes'"),
        ("gym_world.recipe:HERE", "has no function 'HERE'"),
        ("gym_world.raw:write_raw", "must be callable without arguments .*folder"),
        ("os:getcwd", "returned str, expected a lumos.config.Recipe"),
    ],
)
def test_an_unknown_recipe_is_refused_with_the_choices(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(name)


def test_a_fault_inside_a_recipes_own_module_is_not_called_a_missing_function(
    tmp_path, monkeypatch
):
    (tmp_path / "faulty_recipe.py").write_text("import os\nos.no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="no_such_thing"):
        load("faulty_recipe:recipe")
