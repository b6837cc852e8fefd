import datetime as dt
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lumos.config import Variant
from lumos.experiment.assignment import (
    NUM_BUCKETS,
    bucket_shares,
    buckets_of,
    variant_of,
)
from lumos.verbs import BadInput
from tests.experiment.conftest import START, Lake, experiment, gym_with

DAY = dt.timedelta(days=1)
TOWELS = experiment()
MANY = [f"user-{n}" for n in range(50_000)]
THREE = (
    Variant(name="control", weight=0.7),
    Variant(name="small", weight=0.1),
    Variant(name="big", weight=0.2),
)


def test_a_known_user_is_in_the_bucket_that_any_other_language_would_compute() -> None:
    digest = hashlib.sha256("towels|m-001é".encode()).digest()
    expected = int.from_bytes(digest[:8], "big") % 10_000
    assert buckets_of(["m-001é"], "towels").tolist() == [expected]


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.lists(st.text(), max_size=20))
def test_a_users_variant_depends_on_nothing_but_the_user_and_the_experiment(
    users: list[str],
) -> None:
    whole = dict(zip(users, variant_of(users, TOWELS).tolist(), strict=True))
    shuffled = random.Random(1).sample(users, len(users))
    assert {user: variant_of([user], TOWELS).item() for user in shuffled} == whole


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6))
def test_every_bucket_belongs_to_one_variant_and_shares_are_the_weights(
    weights: list[float],
) -> None:
    total = sum(weights)
    variants = tuple(
        Variant(name=f"v{n}", weight=weight / total) for n, weight in enumerate(weights)
    )
    shares = bucket_shares(experiment(variants=variants))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares, np.array(weights) / total, atol=1 / NUM_BUCKETS)


def test_buckets_are_uniform() -> None:
    counts = np.bincount(buckets_of(MANY, "towels") // 100, minlength=100)
    assert stats.chisquare(counts).pvalue > 0.001


def test_variants_have_their_weights() -> None:
    found = variant_of(MANY, experiment(variants=THREE))
    counts = [(found == variant.name).sum() for variant in THREE]
    expected = [variant.weight * len(MANY) for variant in THREE]
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_two_experiments_split_users_independently() -> None:
    one = variant_of(MANY, experiment(name="one", variants=THREE))
    two = variant_of(MANY, experiment(name="two"))
    table = [[((one == a.name) & (two == b)).sum() for b in ("control", "target")] for a in THREE]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_user_is_exposed_from_the_start_or_from_registration(lake: Lake) -> None:
    date = START + 5 * DAY
    lake.users({"old": START - 90 * DAY, "new": START + 2 * DAY, "future": date + DAY}, date)
    report = lake.run("assign", date)
    exposed = {row["user_id"]: row["exposed_on"] for row in lake.rows("exposures")}
    assert exposed == {"old": START, "new": START + 2 * DAY}
    assert report.tables[0].rows == 2
    assert sum(value or 0 for value in report.metrics.values()) == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_dates_in_any_order_give_the_same_exposures(lake: Lake, order: tuple[int, ...]) -> None:
    # Late data found on the last date moves u0's first visit to before the start.
    known = [
        {"u0": START + 2 * DAY, "u1": START},
        {"u0": START + 2 * DAY, "u1": START, "u2": START + 3 * DAY},
        {"u0": START, "u1": START, "u2": START + 3 * DAY, "u3": START + 4 * DAY},
    ]
    dates = [START + n * DAY for n in (2, 3, 4)]
    for n in order:
        lake.users(known[n], dates[n])
        lake.run("assign", dates[n])
    exposed = {row["user_id"]: row["exposed_on"] for row in lake.rows("exposures")}
    assert exposed == known[2]
    assert len(lake.rows("exposures")) == 4


def test_rerunning_an_older_date_loses_nothing_and_changes_nothing(lake: Lake) -> None:
    early, late = START + 1 * DAY, START + 4 * DAY
    lake.users({f"u{n}": START + n * DAY for n in range(5)}, late, early)
    lake.run("assign", early)
    lake.run("assign", late)
    before = lake.rows("exposures")
    again = lake.run("assign", early, force=True)
    assert len(before) == 5
    assert lake.rows("exposures") == before
    assert again.tables[0].rows == 2
    assert lake.run("assign", late).already_done


def test_a_user_keeps_the_variant_when_the_weights_are_edited(lake: Lake) -> None:
    date = START + DAY
    users = [f"u{n}" for n in range(40)]
    lake.users(dict.fromkeys(users, date), date)
    lake.run("assign", date)
    before = {row["user_id"]: row["variant"] for row in lake.rows("exposures")}
    all_target = (Variant(name="control", weight=0.0001), Variant(name="target", weight=0.9999))
    lake.recipe = gym_with(experiment(variants=all_target))
    # Late data moves everyone's first day as well, so every row is written again.
    lake.users(dict.fromkeys(users, START), date)
    lake.run("assign", date)
    after = lake.rows("exposures")
    assert {row["user_id"]: row["variant"] for row in after} == before
    assert {row["exposed_on"] for row in after} == {START}
    assert set(before.values()) == {"control", "target"}


def test_two_dates_at_the_same_moment_lose_no_user(lake: Lake) -> None:
    dates = [START + n * DAY for n in range(4)]
    lake.users({f"u{n}": START + (n % 4) * DAY for n in range(80)}, *dates)
    lake.run("assign", dates[0])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda date: lake.run("assign", date), dates[1:]))
    rows = lake.rows("exposures")
    assert len(rows) == 80
    assert len({row["user_id"] for row in rows}) == 80


def test_all_running_experiments_are_assigned_side_by_side(lake: Lake) -> None:
    lake.recipe = gym_with(
        experiment(), experiment(name="other"), experiment(name="later", start=START + 30 * DAY)
    )
    lake.users({"a": START, "b": START}, START)
    report = lake.run("assign", START)
    assert report.details["experiments"] == ["towels", "other"]
    found = [(row["experiment"], row["user_id"]) for row in lake.rows("exposures")]
    assert sorted(found) == [("other", "a"), ("other", "b"), ("towels", "a"), ("towels", "b")]


@pytest.mark.parametrize("verb", ["assign", "measure"])
def test_a_recipe_without_experiments_ends_well_and_says_so(lake: Lake, verb: str) -> None:
    lake.recipe = gym_with()
    report = lake.run(verb, START)
    assert "has no experiments" in report.details["note"]
    assert not report.tables


@pytest.mark.parametrize("verb", ["assign", "measure"])
def test_a_date_before_every_experiment_ends_well(lake: Lake, verb: str) -> None:
    assert not lake.run(verb, START - DAY).tables


@pytest.mark.parametrize("verb", ["assign", "measure"])
def test_bad_requests_end_in_a_sentence_with_the_choices(lake: Lake, verb: str) -> None:
    with pytest.raises(BadInput, match=r"no experiment 'towel'; it has towels"):
        lake.run(verb, START, experiment="towel")
    with pytest.raises(BadInput, match=r"towels on 2024-04-20 has yet to start"):
        lake.run(verb, START - DAY, experiment="towels")
    with pytest.raises(BadInput, match=r"not ready for 2024-04-20.*Run lumos aggregate"):
        lake.run(verb, START)


def test_a_cost_that_is_no_activity_column_is_refused_by_the_recipe() -> None:
    with pytest.raises(ValueError, match=r"cost='coins' is no activity column; choose from"):
        gym_with(experiment(cost="coins"))
