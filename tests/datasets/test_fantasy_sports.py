"""The made-up platform: the same rows however it is cut, lawful, and true to its stated laws."""

import datetime as dt
import functools
import tracemalloc

import numpy as np
import pytest

from lumos.accio.contract import event_calendar
from lumos.accio.events import EventCalendar
from lumos.datasets.fantasy_sports import World, effects, recipe
from lumos.datasets.fantasy_sports import activity as laws
from lumos.datasets.fantasy_sports.activity import (
    ACTIVITY_COLUMNS,
    Activity,
    activity_of,
    another_draw,
)
from lumos.datasets.fantasy_sports.context import COLUMN, EVENT_COLUMNS, context_of
from lumos.datasets.fantasy_sports.fixtures import Notice, fixture_notices
from lumos.datasets.fantasy_sports.truth import (
    event_effect,
    expected,
    offer_effect,
    policy_effect,
)
from lumos.datasets.fantasy_sports.users import INTERESTS, STATIC_COLUMNS, Users, users_of
from lumos.datasets.fantasy_sports.world import BLOCK_USERS, user_ids
from lumos.experiment.assignment import variant_of
from lumos.experiment.declaration import declared
from lumos.settings import Settings

FOUR_YEARS = World(4 * BLOCK_USERS)
# Long enough for a season, a world cup and the offer, and quick to make.
SHORT = World(40 * BLOCK_USERS, first_day=dt.date(2024, 3, 1), last_day=dt.date(2024, 11, 10))

RECIPE = recipe()

Block = tuple[Users, Activity]


def made(world: World, block: int) -> Block:
    users = users_of(world, block)
    return users, activity_of(world, users)


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    """Four years of a few thousand users."""
    return [made(FOUR_YEARS, block) for block in range(FOUR_YEARS.num_blocks)]


def assert_same(left: Block, right: Block, size: int) -> None:
    """The first ``size`` users of two blocks do the same."""
    rows = left[1].splits[size]
    np.testing.assert_array_equal(left[0].user_id[:size], right[0].user_id[:size])
    np.testing.assert_array_equal(left[0].registered[:size], right[0].registered[:size])
    for name in STATIC_COLUMNS:
        np.testing.assert_array_equal(left[0].static[name][:size], right[0].static[name][:size])
    np.testing.assert_array_equal(left[1].splits[: size + 1], right[1].splits[: size + 1])
    np.testing.assert_array_equal(left[1].days[:rows], right[1].days[:rows])
    np.testing.assert_array_equal(left[1].values[:rows], right[1].values[:rows])


def test_a_block_made_alone_is_the_block_of_the_whole_world(blocks: list[Block]) -> None:
    alone = made(FOUR_YEARS, 2)
    assert_same(blocks[2], alone, BLOCK_USERS)


def test_a_larger_world_begins_with_the_users_of_a_smaller_one(blocks: list[Block]) -> None:
    small = made(World(BLOCK_USERS + 100), 1)
    assert len(small[0]) == 100
    assert_same(blocks[1], small, 100)


def test_another_seed_gives_another_world(blocks: list[Block]) -> None:
    other = World(FOUR_YEARS.num_users, seed=1)
    users, activity = made(other, 0)
    assert (users.registered != blocks[0][0].registered).mean() > 0.9
    assert len(activity.days) != len(blocks[0][1].days)
    came = context_of(other).as_it_came
    assert (came != context_of(FOUR_YEARS).as_it_came).any(axis=1).mean() > 0.2


def test_about_a_tenth_of_the_days_since_registration_are_active(blocks: list[Block]) -> None:
    end = FOUR_YEARS.first + FOUR_YEARS.num_days
    active = sum(len(activity.days) for _, activity in blocks)
    since = sum((end - users.registered).sum() for users, _ in blocks)
    assert 0.08 < active / since < 0.12


def test_nobody_is_active_before_registering_or_outside_the_world(blocks: list[Block]) -> None:
    for users, activity in blocks:
        registered = users.registered[activity.owner]
        assert (activity.days >= registered).all()
        assert (activity.days < FOUR_YEARS.first + FOUR_YEARS.num_days).all()
        ascending = np.diff(activity.days) > 0
        assert (ascending | (np.diff(activity.owner) > 0)).all()
    registered = np.concatenate([users.registered for users, _ in blocks])
    years = np.bincount((registered - FOUR_YEARS.first) // 366, minlength=4)
    assert (years > 0.15 * len(registered)).all()


def test_every_column_is_of_its_declared_kind_and_at_least_its_minimum(
    blocks: list[Block],
) -> None:
    declared = RECIPE.activity
    values = np.concatenate([activity.values for _, activity in blocks])
    assert [column.name for column in declared] == list(ACTIVITY_COLUMNS)
    for number, column in enumerate(declared):
        cell = values[:, number]
        if column.kind == "binary":
            assert set(np.unique(cell)) <= {0, 1}
        assert column.minimum is not None
        assert cell.min() >= column.minimum
        assert (cell == np.floor(cell)).all()
        assert cell.max() > column.minimum
    cell = dict(zip(ACTIVITY_COLUMNS, values.T, strict=True))
    assert cell["active"].all()
    assert ((cell["num_contests"] > 0) == (cell["joined"] > 0)).all()
    assert ((cell["deposits"] > 0) == (cell["deposited"] > 0)).all()
    assert (cell["num_lineups"] <= cell["num_contests"]).all()
    assert (cell["bonus"] <= cell["entry_fees"]).all()


def test_the_recipe_has_the_published_numbers_of_columns() -> None:
    assert (len(RECIPE.binary), len(RECIPE.continuous)) == (3, 10)
    assert (len(RECIPE.events), len(RECIPE.static)) == (32, 9)
    assert (RECIPE.history_days, RECIPE.horizon_days) == (364, 7)


@functools.cache
def fates() -> dict[str, list[Notice]]:
    found: dict[str, list[Notice]] = {}
    for notice in fixture_notices(FOUR_YEARS):
        found.setdefault(notice.fixture, []).append(notice)
    return found


def test_every_notice_lands_after_the_one_before_and_by_the_days_it_concerns() -> None:
    for notices in fates().values():
        landed = [notice.landed_on for notice in notices]
        assert landed == sorted(set(landed))
        assert landed[-1] <= min(notice.day for notice in notices)


def test_nothing_of_a_fixture_is_known_before_it_is_announced() -> None:
    calendar = calendar_of(FOUR_YEARS)
    announced: dict[int, int] = {}
    for first, *_ in fates().values():
        announced[first.day] = min(first.landed_on, announced.get(first.day, first.landed_on))
    for day, landed_on in announced.items():
        if FOUR_YEARS.first <= landed_on and day < FOUR_YEARS.first + FOUR_YEARS.num_days:
            assert not matches_known(calendar, landed_on - 1, day)["num_matches"]
            assert matches_known(calendar, landed_on, day)["num_matches"]


def calendar_of(world: World) -> EventCalendar:
    context = context_of(world)
    calendar = event_calendar(RECIPE, context.day, context.known_on, context.values)
    calendar.window(world.first, world.first - 800, world.num_days + 1600)  # computed once
    return calendar


def matches_known(calendar: EventCalendar, as_of: int, day: int) -> dict[str, float]:
    row = calendar.window(as_of, day, 1)[0, len(RECIPE.calendar) :]
    return dict(zip(EVENT_COLUMNS, row, strict=True))


def test_a_moved_fixture_leaves_its_day_and_joins_another_when_that_is_known() -> None:
    calendar = calendar_of(FOUR_YEARS)
    moved = [n for n in fates().values() if n[-1].day != n[0].day]
    assert len(moved) > 20
    for before, after in moved:
        if after.landed_on > FOUR_YEARS.first + FOUR_YEARS.num_days - 1:
            continue
        news = others(after)
        for day, step in ((before.day, -1), (after.day, 1)):
            eve = matches_known(calendar, after.landed_on - 1, day)
            then = matches_known(calendar, after.landed_on, day)
            assert then["num_matches"] - eve["num_matches"] == step + news.get(day, 0)


def others(notice: Notice) -> dict[int, int]:
    """By how much the notices that landed beside this one change the matches of each day."""
    change: dict[int, int] = {}
    for notices in fates().values():
        for place, found in enumerate(notices):
            if found.landed_on != notice.landed_on or found.fixture == notice.fixture:
                continue
            if place:
                before = notices[place - 1]
                change[before.day] = change.get(before.day, 0) - 1
            if found.status == "scheduled":
                change[found.day] = change.get(found.day, 0) + 1
    return change


def test_a_cancelled_fixture_is_on_the_calendar_until_it_is_called_off() -> None:
    calendar = calendar_of(FOUR_YEARS)
    called_off = [n for n in fates().values() if n[-1].status == "cancelled"]
    in_world = [n for n in called_off if FOUR_YEARS.first <= n[0].day < FOUR_YEARS.first + 4 * 365]
    assert len(in_world) > 20
    assert {n[1].landed_on == n[0].day for n in in_world} == {False, True}
    for before, after in in_world:
        eve = matches_known(calendar, after.landed_on - 1, before.day)
        then = matches_known(calendar, after.landed_on, before.day)
        assert then["num_cancelled"] > eve["num_cancelled"]


def test_who_plays_a_final_is_known_two_days_ahead() -> None:
    calendar = calendar_of(FOUR_YEARS)
    finals = [n for n in fates().values() if n[0].tournament == "league" and n[0].stage == "final"]
    for first, named in finals:
        if first.landed_on > FOUR_YEARS.first and named.day < FOUR_YEARS.first + 4 * 365:
            eve = matches_known(calendar, named.day - 3, named.day)
            then = matches_known(calendar, named.day - 2, named.day)
            assert eve["num_finals"] == then["num_finals"] == 1
            assert not eve[f"{named.home}_plays"]
            assert then[f"{named.home}_plays"]


def log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def test_a_final_and_a_city_add_exactly_their_stated_log_odds() -> None:
    users = users_of(SHORT, 0)
    events = context_of(SHORT).as_it_came.copy()
    events[100] = 0
    before = laws.probability(SHORT, users, events=events)[:, 100].astype(np.float64)
    events[100, [COLUMN["num_finals"], COLUMN["mumbai_plays"]]] = 1
    after = laws.probability(SHORT, users, events=events)[:, 100].astype(np.float64)
    here = users.registered <= SHORT.first + 100
    fans = users.liking[:, INTERESTS.index("mumbai")]
    expected = effects.COMMON_PULLS["num_finals"] + effects.PULLS["mumbai"] * fans
    found = log_odds(after[here]) - log_odds(before[here])
    np.testing.assert_allclose(found, expected[here], atol=2e-3)
    assert (fans > 0).mean() == pytest.approx(0.17, abs=0.05)


def test_activity_follows_the_stated_log_odds_of_every_cause(blocks: list[Block]) -> None:
    # The score of a coefficient is zero on average only at its true value.
    world = FOUR_YEARS
    events = context_of(world).as_it_came
    signals = effects.interest_signals(events)
    scores = np.zeros(signals.shape[1] + 32)
    information = np.zeros_like(scores)
    chances, hits = np.zeros(10), np.zeros(10)
    for users, activity in blocks:
        p = laws.probability(world, users).astype(np.float64)
        active = np.zeros_like(p)
        active[activity.owner, activity.days - world.first] = 1
        beyond, spread = active - p, p * (1 - p)
        scores += np.concatenate(
            [(users.liking * (beyond @ signals)).sum(axis=0), (beyond @ events).sum(axis=0)]
        )
        information += np.concatenate(
            [
                (users.liking**2 * (spread @ signals**2)).sum(axis=0),
                (spread @ events**2).sum(axis=0),
            ]
        )
        band = np.minimum((p * 10).astype(int), 9)
        chances += np.bincount(band.ravel(), p.ravel(), 10)
        hits += np.bincount(band.ravel(), active.ravel(), 10)
    assert np.abs(scores / np.sqrt(information)).max() < 4
    np.testing.assert_allclose(hits, chances, rtol=0.05)


def test_minutes_follow_the_stated_lift_of_finals_and_prizes(blocks: list[Block]) -> None:
    events = context_of(FOUR_YEARS).as_it_came
    lifts = effects.lift(events)
    difference, variance = 0.0, 0.0
    for users, activity in blocks:
        day = activity.days - FOUR_YEARS.first
        lifted = lifts[day] > 0
        busy = np.exp(users.busy)[activity.owner]
        offered = effects.is_offered(users.user_id)[activity.owner]
        days = effects.offer_days(FOUR_YEARS)
        offered &= (day >= days.start) & (day < days.stop)
        lift = np.exp(lifts[day] + effects.OFFER_LIFT * offered)
        expected = 1 + busy * (laws.MEAN_SESSIONS + laws.MEAN_MINUTES * lift)
        minutes = activity.values[:, ACTIVITY_COLUMNS.index("session_minutes")]
        beyond = (minutes - expected)[lifted]
        difference += beyond.sum()
        variance += (beyond**2).sum()
    assert abs(difference) < 4 * np.sqrt(variance)


def test_the_estimated_effect_of_the_offer_lies_by_the_true_one() -> None:
    outcomes, offered, true = [], [], []
    days = effects.offer_days(SHORT)
    assert days.stop - days.start == effects.OFFER_DAYS
    for block in range(SHORT.num_blocks):
        users, activity = made(SHORT, block)
        effect = offer_effect(SHORT, users)
        day = activity.days - SHORT.first
        during = (day >= days.start) & (day < days.stop)
        outcomes.append(np.bincount(activity.owner[during], minlength=len(users)))
        offered.append(effect.offered)
        true.append(effect.average)
    outcome, target = np.concatenate(outcomes), np.concatenate(offered)
    assert target.mean() == pytest.approx(0.5, abs=0.01)
    estimate = outcome[target].mean() - outcome[~target].mean()
    error = np.sqrt(sum(outcome[arm].var() / arm.sum() for arm in (target, ~target)))
    assert np.mean(true) > 3 * error, "an effect that could not be found would prove nothing"
    assert abs(estimate - np.mean(true)) < 3 * error


def test_the_offer_goes_to_whom_the_platform_says() -> None:
    (experiment,) = (
        e for e in declared(Settings.from_environment({}), RECIPE) if e.name == effects.OFFER_NAME
    )
    assert (experiment.start, experiment.planned_days) == (effects.OFFER_START, effects.OFFER_DAYS)
    ids = user_ids(np.arange(500))
    variants = variant_of([name.decode() for name in ids], experiment)
    np.testing.assert_array_equal(variants == "target", effects.is_offered(ids))
    assert not experiment.is_simulated_split


def users_rows(activity: Activity, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days and values of some users."""
    rows = chosen[activity.owner]
    return activity.days[rows], activity.values[rows]


def test_an_offer_moves_exactly_those_who_get_it_and_from_its_first_day_on() -> None:
    users = users_of(SHORT, 0)
    some = np.arange(len(users)) % 3 == 0
    more = some | (np.arange(len(users)) % 5 == 0)
    few, many = (activity_of(SHORT, users, offered=mask) for mask in (some, more))
    alike = [users_rows(activity, some == more) for activity in (few, many)]
    np.testing.assert_array_equal(alike[0][0], alike[1][0])
    np.testing.assert_array_equal(alike[0][1], alike[1][1])
    eve = SHORT.first + effects.offer_days(SHORT).start - 1
    for before, after in zip(
        vars(few.until(eve)).values(), vars(many.until(eve)).values(), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    offered_later = more & ~some
    days_few, days_many = (users_rows(a, offered_later)[0] for a in (few, many))
    assert len(days_many) > 1.02 * len(days_few)
    bonus = ACTIVITY_COLUMNS.index("bonus")
    paid_few, paid_many = (
        users_rows(a, offered_later)[1][days > eve, bonus].sum()
        for a, days in ((few, days_few), (many, days_many))
    )
    assert paid_many > 2 * paid_few


def test_offers_by_the_platforms_hash_give_the_world_as_it_is() -> None:
    world = World(BLOCK_USERS + 100)
    users = users_of(world, 1)
    by_mask = activity_of(world, users, offered=effects.is_offered(users.user_id))
    assert_same((users, by_mask), (users, activity_of(world, users)), len(users))


def test_the_true_effect_of_offering_everybody_is_that_of_the_offer() -> None:
    world = World(2 * BLOCK_USERS, first_day=SHORT.first_day, last_day=SHORT.last_day)
    effect = policy_effect(world, np.zeros(world.num_users, bool), np.ones(world.num_users, bool))
    blocks = [users_of(world, block) for block in range(world.num_blocks)]
    gained = sum(offer_effect(world, users).average * len(users) for users in blocks)
    days = effects.offer_days(world)
    since = np.concatenate([users.registered for users in blocks]) - world.first
    there = (days.stop - since.clip(min=days.start)).clip(min=0)
    assert effect.dau == pytest.approx(gained / there.sum(), rel=1e-9)
    assert effect.bonus > 0
    nothing = policy_effect(world, np.ones(world.num_users, bool), np.ones(world.num_users, bool))
    assert (nothing.dau, nothing.bonus) == (0, 0)


def test_the_expected_days_and_bonus_are_the_means_of_many_draws() -> None:
    users = users_of(SHORT, 0)
    offered = np.arange(len(users)) % 2 == 0
    p = laws.probability(SHORT, users, offered=offered)[:, effects.offer_days(SHORT)]
    law, chance = expected(SHORT, users, offered), np.random.default_rng(0)
    true = np.array(
        [[each[mask].sum() for mask in (offered, ~offered)] for each in vars(law).values()]
    )
    draws = np.zeros((60, 2, 2))
    for number in range(len(draws)):
        drawn = another_draw(SHORT, users, p, offered=offered, chance=chance)
        bonus = drawn.values[:, ACTIVITY_COLUMNS.index("bonus")]
        for arm, is_mine in enumerate((offered[drawn.owner], ~offered[drawn.owner])):
            draws[number, :, arm] = is_mine.sum(), bonus[is_mine].sum()
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - true) < 4 * error).all()
    assert (error < 0.02 * true).all(), "a check that sees nothing"


def test_the_effect_of_the_league_is_felt_while_it_is_on_and_most_by_its_fans() -> None:
    users = users_of(SHORT, 0)
    brought = event_effect(SHORT, users, [name for name in EVENT_COLUMNS if "_plays" in name])
    events = context_of(SHORT).as_it_came
    league = events[:, COLUMN["num_league"]] > 0
    assert brought[:, league].mean() > 0.005
    quiet = ~events[:, [COLUMN[n] for n in EVENT_COLUMNS if "_plays" in n]].any(axis=1)
    assert not brought[:, quiet].any()


def test_a_block_takes_bounded_memory_whatever_the_size_of_the_world() -> None:
    context_of(World(250_000_000))
    tracemalloc.start()
    try:
        made(World(250_000_000), 200_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6


def test_a_world_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="num_users=0 is not from 1 to"):
        World(0)
    with pytest.raises(ValueError, match="block 1 is not from 0 to 0"):
        users_of(World(5), 1)
    with pytest.raises(ValueError, match=r"lies after last_day=2020-01-01"):
        World(5, last_day=dt.date(2020, 1, 1))
