"""Two platforms under one name: the second is refused before anything of the first is lost."""

import json
from pathlib import Path

import pytest

from lumos import cli, stored
from lumos.claim import claim
from lumos.config import Recipe
from lumos.delta import read, replace
from lumos.recipes import load
from lumos.tables import table_uri, tables
from lumos.train import tracking
from lumos.verbs import BAD_INPUT, BadInput
from tests.conftest import RECIPE, World

GYM = load(RECIPE)


def other(**changes: object) -> Recipe:
    return Recipe.model_validate({**GYM.model_dump(), **changes})


def with_activity(world: World) -> None:
    schema = tables(GYM)["activity"].arrow_schema(GYM)
    replace(table_uri(world.settings, GYM, "activity"), schema.empty_table(), where=None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "home")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.parametrize("change", [{"dataset": "sea"}, {"timezone": "Asia/Tokyo"}])
def test_a_second_platform_of_the_same_name_is_refused(
    world: World, change: dict[str, object]
) -> None:
    claim(world.settings, GYM)
    with_activity(world)
    with pytest.raises(BadInput, match=r"belongs to another platform \(dataset gym, time zone"):
        claim(world.settings, other(**change))
    claim(world.settings, GYM)


def test_a_platform_may_change_its_own_selects_columns_and_limits(world: World) -> None:
    claim(world.settings, GYM)
    with_activity(world)
    claim(world.settings, other(sql="elsewhere", late_days=9, num_buckets=7))


def test_a_lake_from_before_this_was_kept_belongs_to_the_first_that_comes(world: World) -> None:
    with_activity(world)
    claim(world.settings, GYM)
    with pytest.raises(BadInput, match="belongs to another platform"):
        claim(world.settings, other(dataset="sea"))


def test_a_name_that_has_no_days_yet_is_bound_to_nobody(world: World) -> None:
    claim(world.settings, other(timezone="Asia/Tokyo"))
    claim(world.settings, GYM)
    found = Path(world.settings.lake) / "gym" / "platform.json"
    assert json.loads(found.read_text())["timezone"] == GYM.timezone


def test_a_verb_of_another_platform_writes_nothing_at_all(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    claim(world.settings, GYM)
    with_activity(world)
    stored.store(world.settings, RECIPE, GYM)
    before = {path: path.stat().st_mtime_ns for path in world.home.rglob("*")}
    code = cli.main(["assign", "--date", "2024-05-10", "--set", "timezone=Asia/Tokyo"])
    assert code == BAD_INPUT
    assert "belongs to another platform" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in world.home.rglob("*")}
    assert read(table_uri(world.settings, GYM, "exposures")) is None


def test_a_registered_model_of_another_platform_is_neither_served_nor_replaced(
    world: World,
) -> None:
    registry = tracking.client(world.settings)
    tags = {"lumos.platform.dataset": "sea", "lumos.platform.timezone": "UTC"}
    registry.create_registered_model(tracking.model_name(GYM), tags=tags)
    said = r"registered model lumos_gym belongs to another platform \(dataset sea, time zone UTC\)"
    with pytest.raises(BadInput, match=said):
        tracking.version_of(world.settings, GYM, "champion")
    with pytest.raises(BadInput, match=said):
        tracking.Run.start(world.settings, GYM, "f", tags={"as_of": "2024-05-10"})
    assert registry.search_experiments(filter_string="name = 'lumos_gym'") == []
