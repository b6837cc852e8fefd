"""docs/adopt.md is true: its SQL is the SQL that the tests run, and its recipe is a recipe."""

import re
from pathlib import Path

import pytest
from gym_world import recipe as gym

from lumos.config import Recipe

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "adopt.md"
SQL = Path(gym.HERE) / "sql"


def blocks(language: str) -> list[str]:
    """Fenced blocks of the guide in one language."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.mark.parametrize("name", ["activity", "event_context", "static"])
def test_the_guide_shows_the_very_sql_that_runs(name: str) -> None:
    assert (SQL / f"{name}.sql").read_text() in blocks("sql")


def test_the_recipe_in_the_guide_is_valid() -> None:
    scope: dict[str, object] = {}
    exec(blocks("python")[0], scope)
    build = scope["recipe"]
    assert callable(build)
    assert isinstance(build(), Recipe)


def test_the_gym_shares_nothing_with_the_shipped_recipe_but_the_contract() -> None:
    lumos = Path(gym.HERE).parents[2] / "lumos"
    mentions = [path for path in lumos.rglob("*.py") if "gym" in path.read_text()]
    assert not mentions
