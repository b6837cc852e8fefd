"""What the network says of a task itself reaches Pacman as it was said."""

import numpy as np
import pyarrow as pa
import pytest

from lumos.config import Recipe
from lumos.delta import read, replace
from lumos.ledger import require
from lumos.recipes import load
from lumos.serve.inputs import check_columns
from lumos.serve.publish import read_scores
from lumos.tables import table_uri, tables
from lumos.tasks import Days, task
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.serve.models import crown, register


@task(answer="binary", window_days=7, metric="auc", has_head=True)
def stays_away(days: Days) -> np.ndarray:
    """Nobody comes for a week."""
    return 1 - days.any("visited")


@task(answer="amount", window_days=7, metric="wape", has_head=True)
def usual_minutes(days: Days) -> np.ndarray:
    """Minutes in a week, as a median."""
    return days.sum("minutes")


@task(answer="amount", window_days=10)
def spend_10d(days: Days) -> np.ndarray:
    """Money in ten days, from the day forecasts."""
    return days.sum("spend")


def asking(*made: object) -> Recipe:
    """The gym with other questions."""
    fields = load(RECIPE).model_dump() | {"tasks": [vars(task) for task in made]}
    # The model is drawn, not trained: whether it is calibrated is chance.
    return Recipe.model_validate(fields | {"publishing": {"max_calibration_error": 1.0}})


WITH_HEADS = asking(stays_away, usual_minutes, spend_10d)


def rows_of(world: World, name: str) -> pa.Table:
    """A table's rows."""
    rows = read(table_uri(world.settings, WITH_HEADS, name))
    assert rows is not None
    return rows


def test_a_recipe_without_heads_has_the_table_that_it_had() -> None:
    plain, headed = (tables(r)["forecasts"].column_names for r in (load(RECIPE), WITH_HEADS))
    assert set(headed) - set(plain) == {"task_stays_away", "task_usual_minutes"}
    assert [name for name in headed if name in plain] == list(plain)
    assert not [name for name in plain if name.startswith("task_")]


def test_a_heads_answer_is_judged_calibrated_and_published(registered: World) -> None:
    version = register(registered, seed=3, recipe=WITH_HEADS)
    report = registered.run("evaluate", recipe=WITH_HEADS)
    crown(registered, version)
    registered.run("score", recipe=WITH_HEADS)
    registered.run("publish", recipe=WITH_HEADS)

    forecasts, names = rows_of(registered, "forecasts"), ["task_stays_away", "task_usual_minutes"]
    said = forecasts.group_by("user_id").aggregate([(n, "count_distinct") for n in names])
    for name in names:
        assert set(said[f"{name}_count_distinct"].to_pylist()) == {1}
    scores = read_scores(registered.settings, WITH_HEADS, today=registered.date)
    by_user = dict(zip(*(forecasts[n].to_pylist() for n in ("user_id", names[1])), strict=True))
    published = dict(
        zip(*(scores[n].to_pylist() for n in ("user_id", "usual_minutes")), strict=True)
    )
    assert published == by_user  # a median is published as it was forecast
    assert all(0 <= p <= 1 for p in scores["stays_away"].to_pylist())
    assert report.metrics["challenger.usual_minutes.median_error"] is not None
    assert report.metrics["recency.stays_away.auc"] > 0.7
    evaluated = rows_of(registered, "evaluations")
    assert set(evaluated["stays_away_outcome"].to_pylist()) == {0.0, 1.0}


def test_a_model_without_the_head_that_is_asked_for_is_refused(crowned: World) -> None:
    with pytest.raises(BadInput, match=r"trained with other task heads .*lumos train"):
        crowned.run("score", recipe=WITH_HEADS)


def test_another_question_under_the_same_name_is_another_head() -> None:
    longer = stays_away.model_dump() | {"window_days": 8}
    changed = Recipe.model_validate(
        WITH_HEADS.model_dump() | {"tasks": [longer, *map(vars, WITH_HEADS.tasks[1:])]}
    )
    check_columns(WITH_HEADS, WITH_HEADS, "1")
    check_columns(WITH_HEADS, load(RECIPE), "1")
    check_columns(WITH_HEADS, asking(spend_10d), "1")
    for trained, asked in ((WITH_HEADS, changed), (load(RECIPE), WITH_HEADS)):
        with pytest.raises(BadInput, match="other task heads"):
            check_columns(trained, asked, "1")


def test_forecasts_from_before_a_head_are_not_published_as_if_it_had_spoken(
    registered: World,
) -> None:
    version = register(registered, seed=3, recipe=WITH_HEADS)
    registered.run("evaluate", recipe=WITH_HEADS)
    crown(registered, version)
    registered.run("score", recipe=WITH_HEADS)
    entry = require(registered.settings, WITH_HEADS, "forecasts", registered.date, remedy="")
    old = rows_of(registered, "forecasts").drop_columns(["task_stays_away"])
    place = registered.home / "lake" / WITH_HEADS.name / "forecasts"
    place.rename(place.with_name("forecasts_as_they_were"))
    for _ in range(entry.version + 1):
        uri = table_uri(registered.settings, WITH_HEADS, "forecasts")
        replace(uri, old, where=None, partition=("as_of", "shard"))

    with pytest.raises(
        BadInput, match=r"no answer of a head to \['stays_away'\]; run `lumos train"
    ):
        registered.run("publish", recipe=WITH_HEADS)
