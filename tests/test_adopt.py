"""docs/adopt.md is true: its SQL is the SQL that the tests run, and its Python runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from gym_world import recipe as gym

from lumos.config import Recipe, Task
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.tasks import DayForecasts, task_outcomes, task_scores

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


def declarations() -> list[str]:
    """The guide's tasks."""
    return [block for block in blocks("python") if "@task(" in block]


def variants() -> list[str]:
    """The guide's forms of the model."""
    return [block for block in blocks("python") if "lumos.presets" in block]


def num_lines(block: str) -> int:
    """Lines that somebody has to write."""
    return sum(bool(line.strip()) for line in block.splitlines())


@pytest.mark.parametrize("block", [*declarations(), *variants()])
def test_a_question_and_a_form_of_the_model_take_under_ten_lines(block: str) -> None:
    assert num_lines(block) < 10


def declared() -> dict[str, Task]:
    """The tasks in the guide, by name."""
    scope: dict[str, object] = {"__name__": "guide"}
    for block in declarations():
        exec(block, scope)
    return {name: made for name, made in scope.items() if isinstance(made, Task)}


def test_the_questions_in_the_guide_are_answered() -> None:
    tasks = declared()
    assert list(tasks) == ["churn_7d", "spend_28d", "visits_day_9"]
    fields = gym.recipe().model_dump() | {"horizon_days": 28}
    recipe = Recipe.model_validate(fields | {"tasks": [vars(made) for made in tasks.values()]})
    targets = np.zeros((2, 28, 4), np.float32)
    targets[0, 8, 0], targets[0, 27, 3], targets[1, 6, 0] = 1, 90, 1

    outcomes = task_outcomes(recipe, targets)

    assert {name: answer.tolist() for name, answer in outcomes.items()} == {
        "churn_7d": [1, 0],
        "spend_28d": [90, 0],
        "visits_day_9": [1, 0],
    }
    p, mean = (np.full((1, 28, 2), value, np.float32) for value in (0.25, 3))
    scores = task_scores(recipe, DayForecasts(p, mean, mean, {"spend_28d": np.array([50.0])}))
    assert scores["churn_7d"] == pytest.approx([0.75**7])
    assert scores["visits_day_9"] == pytest.approx([0.25])
    assert scores["spend_28d"].tolist() == [50]


def test_the_form_of_the_model_in_the_guide_is_one() -> None:
    assert len(variants()) == 1
    scope: dict[str, object] = {}
    exec(variants()[0], scope)
    build = scope["with_daily_tokens"]
    assert callable(build)

    changed = build(gym.recipe())

    assert (changed.model.d_model, changed.model.patch_days) == (96, 1)
    Forecaster(ForecasterConfig.of(changed, num_static=3, num_events=4))


def test_the_gym_shares_nothing_with_the_shipped_recipe_but_the_contract() -> None:
    lumos = Path(gym.HERE).parents[2] / "lumos"
    mentions = [path for path in lumos.rglob("*.py") if "gym" in path.read_text()]
    assert not mentions
