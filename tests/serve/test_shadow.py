"""A challenger forecasts beside the champion, and is promoted by days that have matured."""

import datetime as dt

import pytest

from lumos import ledger
from lumos.delta import read
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.matured import matured
from lumos.tables import table_uri
from lumos.train import tracking
from lumos.verbs import BadInput, GateRefused
from tests.conftest import RECIPE, World
from tests.serve.lake import contents, enter, members, write_events, write_sequences
from tests.serve.models import alias, crown, register
from tests.serve.test_registry import judge

RECIPE_OBJECT = load(RECIPE)
LONGEST = max(task.window_days for task in RECIPE_OBJECT.tasks)


def by_shadow(num_days: int):
    """The recipe that wants so many shadow days."""
    return override(RECIPE_OBJECT, {"evaluation.shadow_days": num_days})


@pytest.fixture
def rivals(registered: World) -> World:
    """Version 1 is champion, 2 its challenger; both may forecast from ``earlier`` on."""
    crown(registered, "1")
    for date in days(registered):
        write_sequences(registered, date, members())
        write_events(registered, date)
        enter(registered, "validate", "quality", date)
    return registered


def days(world: World) -> list[dt.date]:
    """Two days that have matured by the business date, and the day after them, which has not."""
    last = world.date - dt.timedelta(days=LONGEST)
    return [last - dt.timedelta(days=1), last, last + dt.timedelta(days=1)]


def two_versions(world: World, champion: int, challenger: int) -> tuple[str, str]:
    """Register both as trained long ago; returns their versions."""
    long_ago = str(days(world)[0])
    pair = [register(world, seed=seed, as_of=long_ago) for seed in (champion, challenger)]
    crown(world, pair[0])
    judge(world, pair[1], pair[0], challenger=0.5, champion=0.6, recency=0.7)
    return pair[0], pair[1]


def better_first(world: World) -> tuple[str, str]:
    """Versions of two seeds, the one with the lower loss on the shadow days first."""
    pair = two_versions(world, 11, 12)
    for date in days(world):
        world.run("shadow", date=date)
    losses = matured(world.request("promote"), pair).losses
    return tuple(sorted(pair, key=lambda version: losses[version]))  # type: ignore[arg-type]


def compare(world: World, champion: str, challenger: str) -> None:
    """Give the aliases, and an evaluation in which the challenger wins."""
    crown(world, champion)
    crown(world, challenger, "challenger")
    judge(world, challenger, champion, challenger=0.5, champion=0.6, recency=0.7)


def test_a_shadow_run_forecasts_the_same_users_with_both_versions_and_publishes_nothing(
    rivals: World,
) -> None:
    pair = two_versions(rivals, 11, 12)
    date = days(rivals)[0]

    report = rivals.run("shadow", date=date)

    rows = read(table_uri(rivals.settings, RECIPE_OBJECT, "shadows"))
    assert rows is not None
    asked = {v: {r["user_id"] for r in rows.to_pylist() if r["model_version"] == v} for v in pair}
    assert asked[pair[0]] == asked[pair[1]]
    assert len(asked[pair[0]]) == report.metrics["num_users"] > 100
    assert ledger.find(rivals.settings, RECIPE_OBJECT, "forecasts", date) is None
    before = contents(rivals, "shadows")
    assert rivals.run("shadow", date=date).already_done
    rivals.run("shadow", date=date, force=True)
    assert contents(rivals, "shadows") == before


def test_without_a_challenger_beside_the_champion_a_shadow_run_does_nothing(
    rivals: World,
) -> None:
    report = rivals.run("shadow")

    assert report.already_done
    assert "no challenger beside" in report.details["why_not"]
    assert read(table_uri(rivals.settings, RECIPE_OBJECT, "shadows")) is None


def test_a_challenger_waits_until_enough_shadow_days_have_matured(rivals: World) -> None:
    champion, challenger = two_versions(rivals, 11, 12)
    for date in days(rivals):
        rivals.run("shadow", date=date)

    report = rivals.run("promote", recipe=by_shadow(3))

    # The third day's longest window ends a day after the business date.
    assert report.details["waits_for"] == "2 of 3 shadow days have matured"
    assert (alias(rivals, "champion"), alias(rivals, "challenger")) == (champion, challenger)


def test_a_challenger_that_was_better_on_its_shadow_days_is_promoted(rivals: World) -> None:
    better, worse = better_first(rivals)
    compare(rivals, champion=worse, challenger=better)

    report = rivals.run("promote", recipe=by_shadow(2))

    assert alias(rivals, "champion") == better
    shadow = {n: report.metrics[f"primary_loss.shadow.{n}"] for n in ("challenger", "champion")}
    assert shadow["challenger"] < shadow["champion"]  # type: ignore[operator]


def test_a_challenger_that_was_worse_on_its_shadow_days_is_refused_once(rivals: World) -> None:
    better, worse = better_first(rivals)
    compare(rivals, champion=better, challenger=worse)

    with pytest.raises(GateRefused, match=r"worse than .* of the champion on 2 shadow days"):
        rivals.run("promote", recipe=by_shadow(2))

    assert (alias(rivals, "champion"), alias(rivals, "challenger")) == (better, None)


def test_an_earlier_evaluation_of_the_same_two_counts_on_a_later_day(rivals: World) -> None:
    register(rivals, seed=2)
    judge(rivals, "2", "1", challenger=0.5, champion=0.6, recency=0.7)

    rivals.run("promote", date=rivals.date + dt.timedelta(days=1))

    assert alias(rivals, "champion") == "2"


def test_a_run_is_told_once_which_versions_to_use(rivals: World) -> None:
    second = register(rivals, seed=2)

    assert rivals.run("resolve").details == {"champion": "1", "challenger": second}
    assert rivals.run("resolve", model="2").details["champion"] == "2"
    name = tracking.model_name(RECIPE_OBJECT)
    tracking.client(rivals.settings).delete_registered_model_alias(name, "champion")
    with pytest.raises(BadInput, match=r"no champion yet.*lumos promote"):
        rivals.run("resolve")
