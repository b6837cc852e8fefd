"""The baselines: no user loop, no look ahead, the same answer twice, and better than chance."""

from dataclasses import replace

import numpy as np
import pytest

from lumos.accio.contract import load_events, open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.recipes import load
from lumos.serve.accuracy import auc, measure, relative_loss
from lumos.serve.baselines import LightGbm, Recency
from lumos.serve.features import Examples, History
from lumos.tasks import Days
from lumos.tasks import task as question
from tests.accio import small
from tests.conftest import RECIPE, World
from tests.serve.lake import members

KINDS = (Recency, LightGbm)


@question(answer="binary", window_days=7)
def stays_away(days: Days) -> np.ndarray:
    """Nobody comes for a week."""
    return 1 - days.any("visited")


@question(answer="amount", window_days=7, metric="wape", has_head=True)
def usual_minutes(days: Days) -> np.ndarray:
    """Minutes in a week, as a median."""
    return days.sum("minutes")


@question(answer="amount", window_days=7)
def mean_minutes(days: Days) -> np.ndarray:
    """The same as a mean."""
    return days.sum("minutes")


@question(answer="binary", window_days=5, has_head=True)
def busy(days: Days) -> np.ndarray:
    """An hour and a class, which only a head can forecast."""
    return (days.sum("minutes") > 60) & (days.sum("took_class") > 0)


def everyone(world: World) -> Users:
    """All users of the hand-made lake."""
    recipe = load(RECIPE)
    return Users.concat([*open_sequences(world.settings, recipe, None).users()])


def calendar(world: World, recipe: Recipe) -> EventCalendar:
    """Its event calendar."""
    return load_events(world.settings, recipe, None)


def split(world: World) -> tuple[Examples, Examples]:
    """Training examples, and examples of a later origin."""
    recipe, users, last = load(RECIPE), everyone(world), day_number(world.date)
    history, events = History(users, recipe), calendar(world, recipe)
    training = range(last - 20 - 42, last - 19, 6)
    return history.examples(list(training), events), history.examples([last - 10], events)


@pytest.mark.parametrize("kind", KINDS)
def test_it_beats_chance_on_every_task(registered: World, kind: type[Recency]) -> None:
    train, later = split(registered)

    forecasts = kind.fit(load(RECIPE), train).forecast(later)

    for task in load(RECIPE).tasks:
        outcome = later.outcomes[task.name]
        if task.is_binary:
            assert auc(outcome, forecasts[task.name]) > 0.8, task.name  # type: ignore[operator]
        else:
            assert measure(task, outcome, forecasts[task.name])["spearman"] > 0.5  # type: ignore[operator]
        assert relative_loss(task, outcome, forecasts[task.name]) < 0.9, task.name  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_twice_gives_equal_forecasts(registered: World, kind: type[Recency]) -> None:
    train, later = split(registered)
    first, second = (kind.fit(load(RECIPE), train).forecast(later) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_features_are_what_counting_by_hand_gives(registered: World) -> None:
    recipe, users = load(RECIPE), everyone(registered)
    origin = day_number(registered.date) - 10
    examples = History(users, recipe).examples([origin], calendar(registered, recipe))
    by_id = {member.user_id: member for member in members()}
    names = [column.name for column in recipe.activity]

    for row, user in enumerate(examples.user):
        member = by_id[users.user_id[user]]
        seen = {day: values for day, values in member.days.items() if day <= origin}
        tenure = origin - member.registered + 1
        values = {name: column[row] for name, column in examples.values.items()}
        assert values["tenure"] == tenure
        for name, days in (("visited", 7), ("minutes", 56), ("spend", 28), ("minutes", 14)):
            inside = [v[names.index(name)] for d, v in seen.items() if d > origin - days]
            assert values[f"{name}_{days}"] == pytest.approx(sum(inside) / min(days, tenure), 1e-5)
        assert values["visited_recency"] == origin - max(seen)
        gaps = np.diff(sorted(seen))
        expected = gaps.mean() if len(gaps) else np.nan
        assert values["gap_mean"] == pytest.approx(expected, nan_ok=True)
        for ahead in range(1, 8):
            same = [d for d in seen if d > origin - 56 and (d - origin - ahead) % 7 == 0]
            assert values[f"weekday_of_day_{ahead}"] == len(same)


def test_nothing_after_the_origin_enters_a_feature(registered: World) -> None:
    recipe, users = load(RECIPE), everyone(registered)
    origin, events = day_number(registered.date) - 30, calendar(registered, recipe)
    future = users.days > origin
    columns = tuple(np.where(future, 1e6, c).astype(np.float32) for c in users.columns)
    changed = replace(users, columns=columns)

    before, after = (History(u, recipe).examples([origin], events) for u in (users, changed))

    assert future.any()
    for name, column in before.values.items():
        assert np.array_equal(column, after.values[name], equal_nan=True), name
    for name, window in before.horizon.items():
        assert np.array_equal(window, after.horizon[name])
    assert not np.array_equal(before.outcomes["minutes_10d"], after.outcomes["minutes_10d"])


def test_users_not_yet_registered_at_an_origin_are_no_examples(registered: World) -> None:
    recipe, users = load(RECIPE), everyone(registered)
    origin = day_number(registered.date) - 60

    examples = History(users, recipe).examples([origin], calendar(registered, recipe))

    assert set(examples.user) == set(np.flatnonzero(users.registered <= origin))
    assert len(examples.user) < len(users)


def test_bare_recipes_and_silent_users_have_baselines_too(registered: World) -> None:
    fields = load(RECIPE).model_dump()
    fields |= {
        "activity": fields["activity"][:1],
        "static": (),
        "events": (),
        "calendar": (),
        "tasks": fields["tasks"][:1],
    }
    recipe = Recipe.model_validate(fields)
    users = everyone(registered)
    bare = users.take(np.arange(100))
    bare = replace(bare, columns=bare.columns[:1], static=bare.static.select([]))
    silent = np.zeros(101, np.int64)
    nobody = Users(
        user_id=bare.user_id,
        registered=bare.registered,
        static=bare.static,
        columns=(np.zeros(0, np.float32),),
        days=np.zeros(0, np.int32),
        splits=silent,
    )
    events = calendar(registered, recipe)
    last = day_number(registered.date)
    for some in (bare, nobody):
        train = History(some, recipe).examples([last - 40, last - 30], events)
        later = History(some, recipe).examples([last - 10], events)
        for kind in KINDS:
            forecast = kind.fit(recipe, train).forecast(later)["visit_10d"]
            assert np.isfinite(forecast).all()
            assert len(forecast) == len(later.user)


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_whatever_a_formula_asks(kind: type[Recency]) -> None:
    asked = [made.model_dump() for made in (stays_away, usual_minutes, mean_minutes, busy)]
    recipe = Recipe.model_validate(load(RECIPE).model_dump() | {"tasks": asked})
    history, last = History(small.users(400), recipe), day_number(small.AS_OF)
    train = history.examples(range(last - 62, last - 19, 6), small.calendar())
    later = history.examples([last - 10], small.calendar())

    forecasts = kind.fit(recipe, train).forecast(later)

    for made in recipe.tasks:
        outcome = later.outcomes[made.name]
        assert relative_loss(made, outcome, forecasts[made.name]) < 0.95, made.name  # type: ignore[operator]
    # Few come with one habit on many days: half of the weeks lie below the mean, and more.
    below = [
        np.mean(later.outcomes["mean_minutes"] < forecasts[f"{n}_minutes"])
        for n in ("usual", "mean")
    ]
    assert abs(below[0] - 0.5) < 0.1
    usual, mean = forecasts["usual_minutes"], forecasts["mean_minutes"]
    assert usual.mean() < mean.mean()


def test_two_days_are_less_evidence_of_a_habit_than_eight_weeks() -> None:
    recipe, origin = load(RECIPE), day_number(small.AS_OF) - 10
    many, tenure = small.users(400), np.array([2, 56])
    train = History(many, recipe).examples(range(origin - 52, origin - 9, 6), small.calendar())
    days = np.concatenate([np.arange(origin - number, origin) + 1 for number in tenure])
    daily_visitors = replace(
        many.take(np.arange(2)),
        registered=(origin + 1 - tenure).astype(np.int32),
        columns=tuple(np.ones(len(days), np.float32) for _ in recipe.activity),
        days=days.astype(np.int32),
        splits=np.array([0, *np.cumsum(tenure)]),
    )
    later = History(daily_visitors, recipe).examples([origin], small.calendar())

    new, old = Recency.fit(recipe, train).forecast(later)["visit_10d"]

    assert new < old


def test_labels_are_those_of_the_loader(registered: World) -> None:
    recipe, users = load(RECIPE), everyone(registered)
    origin = day_number(registered.date) - 10
    examples = History(users, recipe).examples([origin], calendar(registered, recipe))
    targets = cut(users, np.full(len(users), origin), 5, recipe.horizon_days).targets
    minutes = targets[examples.user, :, 2].sum(axis=1)
    assert np.allclose(examples.outcomes["minutes_10d"], minutes)
