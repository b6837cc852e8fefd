"""Power and replays on a lake: what a metric was on each evening, and what two verbs say of it."""

import datetime as dt

import numpy as np
import pytest

from lumos.experiment import replay
from lumos.experiment.history import past
from lumos.experiment.views import pinned, pinned_views
from lumos.verbs import BadInput, GateRefused
from tests.experiment.conftest import Lake, experiment

DAYS, BEFORE, USERS = 6, 4, 60
DATE = dt.date(2024, 3, 10)
FIRST = DATE - dt.timedelta(days=DAYS - 1)


@pytest.fixture
def planned(tmp_path, spark) -> tuple[Lake, np.ndarray]:
    """Users who come by chance, with what they spend, long before the experiment starts."""
    trial = experiment(planned_days=DAYS, pre_days=BEFORE, adjust="pre_period", minimum_effect=0.2)
    lake = Lake.at(tmp_path / "home", trial)
    chance = np.random.default_rng(0)
    spend = np.where(chance.random((BEFORE + DAYS, USERS)) < 0.4, chance.integers(1, 9, USERS), 0)
    begins = FIRST - dt.timedelta(days=BEFORE)
    ids = [f"u|{number:02d}" for number in range(USERS)]
    # Who is registered after the window's first day could not have taken part from it.
    lake.users(dict.fromkeys(ids, begins) | {"late": FIRST + dt.timedelta(days=1)}, DATE)
    visits = {
        (ids[user], begins + dt.timedelta(days=int(day))): float(spend[day, user])
        for day, user in zip(*np.nonzero(spend), strict=True)
    }
    lake.activity({**visits, ("late", DATE): 1000.0}, DATE)
    return lake, spend


def test_history_is_what_the_metric_would_have_been_on_each_evening(planned, spark):
    lake, spend = planned
    request = lake.request("replay", DATE)
    with pinned_views(request, pinned(request, ("activity", "users"))) as session:
        found = past(session, request, experiment(planned_days=DAYS, pre_days=BEFORE),
                     names=("dau", "offer_cost"), num_days=DAYS)  # fmt: skip
    assert (found.num_users, found.users[0]) == (USERS, "u|00")
    dau, cost = found.metrics["dau"], found.metrics["offer_cost"]
    since, before = spend[BEFORE:], spend[:BEFORE]
    np.testing.assert_array_equal(dau.numerator, np.cumsum(since > 0, axis=0))
    np.testing.assert_array_equal(
        dau.denominator, np.arange(1, DAYS + 1)[:, None] + np.zeros(USERS)
    )
    np.testing.assert_array_equal(dau.covariates["pre_numerator"], (before > 0).sum(axis=0))
    np.testing.assert_array_equal(dau.covariates["pre_denominator"], np.full(USERS, BEFORE))
    sums = np.cumsum(since, axis=0)
    caps = np.quantile(sums, 0.999, axis=1, keepdims=True)
    np.testing.assert_allclose(cost.numerator, np.minimum(sums, caps))
    assert cost.denominator is None


def test_power_is_told_before_the_start_and_users_needed_follow_from_it(planned, spark):
    lake, _ = planned
    report = lake.run("power", DATE, experiment="towels", replays=100, effects="0.05,0.6")
    assert report.metrics["power.0.05"] < 0.3 < 0.8 < report.metrics["power.0.6"]
    assert report.metrics["smallest_effect_power"] == pytest.approx(0.8, abs=0.15)
    smallest = report.metrics["smallest_effect"]
    needed = USERS * (smallest / 0.2) ** 2
    assert report.metrics["users_needed"] == pytest.approx(needed, abs=1)
    rows = [row for row in lake.rows("metrics") if row["job"] == "power"]
    assert {row["segment"] for row in rows} == {"towels"}
    assert lake.run(
        "power", DATE, experiment="towels", replays=100, effects="0.05,0.6"
    ).already_done


def test_a_history_that_is_too_short_says_how_to_mend_it(planned, spark):
    lake, _ = planned
    lake.declare(experiment(planned_days=DAYS + 1, pre_days=BEFORE))
    with pytest.raises(BadInput, match=f"lumos aggregate --date {DATE} --days {DAYS + 1 + BEFORE}"):
        lake.run("power", DATE, experiment="towels")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"experiment": None}, r"power --experiment: which one\?; declared are towels"),
        ({"experiment": "gowns"}, "no experiment 'gowns'; declared are towels"),
        ({"experiment": "towels", "effects": "5%"}, "expected relative changes such as"),
        ({"experiment": "towels", "effects": "0.01,-1"}, "expected relative changes such as"),
    ],
)
def test_power_refuses_what_it_cannot_work_on_in_a_sentence(planned, spark, options, says):
    with pytest.raises(BadInput, match=says):
        planned[0].run("power", DATE, **options)


def test_replays_of_honest_tests_pass_and_are_not_done_twice(planned, spark):
    lake, _ = planned
    report = lake.run("replay", DATE, replays=400)
    assert report.details["critical"] == []
    rows = {row["name"]: row for row in lake.rows("metrics") if row["job"] == "replay"}
    for rule in ("at_the_end", "group_sequential", "always_valid"):
        assert rows[f"dau.none.{rule}"]["verdict"] == "ok"
        assert rows[f"dau.pre_period.{rule}"]["verdict"] == "ok"
    assert rows["dau.none.peeking"]["verdict"] == "info"
    assert rows["dau.none.peeking"]["value"] > rows["dau.none.group_sequential"]["value"]
    assert rows["offer_cost.pre_period.at_the_end"]["verdict"] == "ok"
    assert lake.run("replay", DATE, replays=400).already_done


def test_a_test_that_finds_too_much_among_equals_is_refused_and_stays_so(
    planned, spark, monkeypatch
):
    lake, _ = planned
    monkeypatch.setattr(replay, "at_the_end", replay.peeking)
    with pytest.raises(GateRefused, match=r"towels: dau.none.at_the_end finds .*% among equals"):
        lake.run("replay", DATE, replays=400)
    monkeypatch.undo()
    with pytest.raises(GateRefused, match="among equals"):
        lake.run("replay", DATE, replays=400)
