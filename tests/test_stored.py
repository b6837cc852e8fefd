"""What Airflow's components read of a recipe instead of running it."""

import json
from pathlib import Path

import pytest

from lumos import stored
from lumos.allowed import shipped
from lumos.cli import main
from lumos.delta import read
from lumos.recipes import load
from lumos.tables import table_uri
from tests.conftest import RECIPE, World, enter


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    return enter(World(tmp_path / "home"), monkeypatch)


def file_of(world: World) -> Path:
    return world.home / "lake" / "_recipes" / "gym_world.recipe-recipe.json"


@pytest.mark.parametrize("name", [*shipped(), RECIPE])
def test_a_stored_recipe_is_the_recipe(world, name):
    stored.store(world.settings, name, load(name))
    assert stored.read(world.settings, name) == load(name)


def test_every_verb_stores_its_recipe_without_the_overrides_of_its_run(world):
    # Nothing was trained, so the verb fails; what it works on is known all the same.
    assert main(["promote", "--date=2024-05-10", "--set=training.epochs=99"]) == 2
    assert stored.read(world.settings, RECIPE) == load(RECIPE)


def test_a_limit_that_a_run_overrides_is_entered_in_the_audit_table(world, monkeypatch):
    monkeypatch.setenv("LUMOS_ACTOR", "kim")
    changes = ["--set=training.epochs=3", "--set=publishing.max_drift=0.9"]
    assert main(["promote", "--date=2024-05-10", "--reason=a sale", *changes]) == 2
    (row,) = read(table_uri(world.settings, load(RECIPE), "audit")).to_pylist()
    assert (row["actor"], row["verb"], row["why"]) == ("airflow:kim", "promote", "a sale")
    assert row["what"] == "limit publishing.max_drift=0.9 for 2024-05-10"


def test_a_recipe_is_written_only_when_it_has_changed_and_always_whole(world):
    stored.store(world.settings, RECIPE, load(RECIPE))
    first = file_of(world).stat()
    stored.store(world.settings, RECIPE, load(RECIPE))
    assert file_of(world).stat().st_ino == first.st_ino
    other = load("gym_world.recipe:recipe_without_events")
    stored.store(world.settings, RECIPE, other)
    assert stored.read(world.settings, RECIPE) == other
    assert file_of(world).stat().st_ino != first.st_ino  # replaced, not written over
    assert [path.name for path in file_of(world).parent.iterdir()] == [file_of(world).name]


def test_before_any_verb_there_is_a_sentence_instead_of_a_recipe(world):
    with pytest.raises(stored.NotStored, match=f"no verb has run yet for recipe {RECIPE}"):
        stored.read(world.settings, RECIPE)


def test_a_recipe_of_another_version_is_told_so_and_nothing_of_it_is_quoted(world):
    stored.store(world.settings, RECIPE, load(RECIPE))
    fields = json.loads(file_of(world).read_text())
    file_of(world).write_text(json.dumps({**fields, "a_later_field": "a secret"}))
    with pytest.raises(stored.NotStored, match="another version of LUMOS") as caught:
        stored.read(world.settings, RECIPE)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../secret", "a/b:c", "..:x", "", "x" * 300 + ":y", "a:b\0", "é:f"]
)
def test_a_name_never_leads_out_of_the_folder_of_recipes(world, name):
    with pytest.raises(ValueError, match="is not the name of a recipe"):
        stored.read(world.settings, name)
