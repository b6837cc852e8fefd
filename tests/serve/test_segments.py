"""Groups for whom calibration is off are named, and chance is not taken for an error."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lumos.accio.users import Users
from lumos.config import Task
from lumos.delta import read
from lumos.recipes import load
from lumos.serve.features import Examples
from lumos.serve.segments import Grouping, Segment, groupings, judge, off, warnings
from lumos.tables import table_uri
from tests.conftest import RECIPE, World

ANY = Task(name="a", kind="any", column="x", window_days=1)
SUM = Task(name="s", kind="sum", column="y", window_days=1)
MEDIAN = Task(name="m", kind="sum", column="y", window_days=1, metric="wape", has_head=True)
WEEKS = 4


def groups(num_users: int, num_groups: int) -> Grouping:
    """Users in turn; each has a row a week."""
    names = tuple(f"plan={n}" for n in range(num_groups))
    return Grouping(names, np.tile(np.arange(num_users) % num_groups, WEEKS))


def users(num: int) -> np.ndarray:
    return np.tile(np.array([f"u{n}" for n in range(num)], object), WEEKS)


def judged(
    task: Task, grouping: Grouping, outcome: np.ndarray, forecast: np.ndarray
) -> list[Segment]:
    user = users(len(outcome) // WEEKS)
    return judge([task], 0.05, [grouping], user, {task.name: outcome}, {task.name: forecast})


def lasting(num: int, forecast: np.ndarray, seed: int) -> np.ndarray:
    """Outcomes of these chances; a user does the same every week."""
    random = np.random.default_rng(seed)
    return (np.tile(random.random(num), WEEKS) < forecast).astype(float)


def test_a_group_that_is_off_is_named_and_the_others_are_not() -> None:
    num, grouping = 6000, groups(6000, 6)
    forecast = np.tile(np.random.default_rng(0).uniform(0.1, 0.5, num), WEEKS)
    outcome = lasting(num, np.where(grouping.group_N == 2, 1.4 * forecast, forecast), 1)

    (wrong,) = off(judged(ANY, grouping, outcome, forecast))

    assert wrong.name == "plan=2"
    assert wrong.num_users == 1000
    assert wrong.observed / wrong.expected == pytest.approx(1.4, abs=0.15)
    number, warned = warnings([wrong], "challenger")
    assert number.value == 1
    assert warned.verdict == "warning"
    assert warned.segment == "challenger|plan=2"
    assert "a of 1000 users with plan=2: 0.4" in warned.message


def test_right_forecasts_raise_a_warning_in_one_evaluation_of_twenty_at_most() -> None:
    warned = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        forecast = np.tile(random.beta(0.5, 5, 800), WEEKS)
        outcome = lasting(800, forecast, 1000 + seed)
        warned += bool(off(judged(ANY, groups(800, 8), outcome, forecast)))
    assert warned / 200 <= 0.05


def test_a_group_that_did_nothing_yet_is_named_only_if_it_should_have() -> None:
    grouping = groups(1200, 12)
    for chance, names in ((0.02, []), (0.3, ["plan=0"])):
        forecast = np.where(grouping.group_N == 0, chance, 0.3)
        outcome = np.where(grouping.group_N == 0, 0.0, lasting(1200, forecast, 3))
        assert [x.name for x in off(judged(ANY, grouping, outcome, forecast))] == names


def test_what_is_tolerated_is_no_warning_however_sure() -> None:
    random = np.random.default_rng(0)
    forecast = np.tile(random.gamma(4, 10, 60_000), WEEKS)
    for factor, is_off in ((1.03, False), (1.12, True)):
        outcome = factor * forecast * random.gamma(4, 0.25, len(forecast))
        assert bool(off(judged(SUM, groups(60_000, 1), outcome, forecast))) == is_off


def test_a_median_is_off_by_the_side_that_has_more_than_half() -> None:
    random = np.random.default_rng(0)
    num, grouping = 4000, groups(4000, 2)
    median = np.tile(random.gamma(4, 10, num), WEEKS)
    outcome = median * random.exponential(1 / np.log(2), num * WEEKS)
    said = np.where(grouping.group_N == 1, median * 1.5, median)

    (wrong,) = off(judged(MEDIAN, grouping, outcome, said))

    assert wrong.name == "plan=1"
    assert wrong.observed == pytest.approx(1 - 0.5**1.5, abs=0.02)


def test_groups_of_few_users_are_not_judged() -> None:
    forecast = np.full(49 * WEEKS, 0.5)
    assert judged(ANY, groups(49, 1), np.zeros_like(forecast), forecast) == []
    assert off([]) == []


def test_evaluate_names_the_groups_that_are_off(registered: World) -> None:
    """A forecaster that never learned has one forecast for regulars and for those who quit."""
    report = registered.run("evaluate")

    rows = read(table_uri(registered.settings, load(RECIPE), "metrics"))
    assert rows is not None
    warned = rows.filter(pc.equal(rows["verdict"], "warning")).to_pylist()
    assert report.metrics["challenger.segments_off"] == len(warned) > 0
    assert {row["message"] for row in warned} == set(report.details["segments_off"])
    segments = {row["segment"] for row in warned}
    assert any(name.startswith("challenger|active_days_of_28=") for name in segments)
    quitters = [
        row
        for row in warned
        if row["name"] == "visit_10d.observed_to_expected"
        and row["segment"] == "challenger|active_days_of_28=0"
    ]
    assert [row["value"] < 0.7 for row in quitters] == [True]
    assert 0.8 < report.metrics["challenger.minutes_10d.coverage"] < 1


def test_every_forecast_is_in_one_group_of_each_kind_and_missing_is_a_value() -> None:
    recipe, num = load(RECIPE), 44
    plans = [None, "gold", *(f"rare {n}" for n in range(40)), "gold", None]
    nobody, none = np.zeros(num, np.int32), np.zeros(0, np.float32)
    users_N = Users(
        user_id=np.arange(num).astype(str).astype(object),
        registered=nobody,
        static=pa.table({"plan": plans, "age": [1.0] * num}),
        columns=(none,) * len(recipe.activity),
        days=none.astype(np.int32),
        splits=np.zeros(num + 1, np.int64),
    )
    user = np.array([0, 1, 1, 43])
    values = {
        "tenure": np.array([100.0, 100.0, 3.0, 28.0]),
        f"{recipe.active}_28": np.array([0.0, 5 / 28, 1.0, 1.0]),
    }
    asked = Examples(user, np.zeros(4, np.int64), values, ("plan",), {}, {})

    plan, days, seen = groupings(recipe, users_N, asked, np.arange(num) == 43)

    def named(grouping: Grouping) -> list[str]:
        return [grouping.names[k] for k in grouping.group_N]

    assert named(plan) == ["plan=(missing)", "plan=gold", "plan=gold", "plan=(missing)"]
    assert len(plan.names) == 31
    assert plan.names[-1] == "plan=(others)"
    assert [name.partition("=")[2] for name in named(days)] == ["0", "4-7", "2-3", "15-28"]
    assert [name.partition("=")[2] for name in named(seen)] == ["yes", "yes", "yes", "no"]
