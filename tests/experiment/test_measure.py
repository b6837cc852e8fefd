"""What Spark adds up, against the same arithmetic in plain Python."""

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from lumos.config import Experiment, Variant
from lumos.delta import open_table, read, replace
from lumos.experiment.assignment import variant_of
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.experiment.conftest import START, Lake, experiment, gym_with

pytestmark = pytest.mark.usefixtures("spark")
DAY = dt.timedelta(days=1)
DATE = START + 9 * DAY
USERS = {f"m-{n:02d}é": START + max(0, n - 30) * DAY for n in range(40)}


def visits(seed: int = 5) -> dict[tuple[str, dt.date], float]:
    """Some before the start, some before registration (late data), most after both."""
    random = np.random.default_rng(seed)
    return {
        (user, START + n * DAY): round(float(random.gamma(1, 3)), 2)
        for user in USERS
        for n in range(-3, 12)
        if random.random() < 0.4
    }


@pytest.fixture(scope="module")
def measured(spark: object, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Measured once, for the tests that change nothing."""
    lake = Lake.at(tmp_path_factory.mktemp("measured"), gym_with(experiment()))
    lake.users(USERS, DATE)
    lake.activity(visits(), DATE)
    lake.run("assign", DATE)
    lake.run("measure", DATE)
    return lake


def test_outcomes_are_what_plain_python_counts(measured: Lake) -> None:
    variant = dict(zip(USERS, variant_of(USERS, measured.recipe.experiments[0]), strict=True))
    found = {(row["day"], row["variant"]): row for row in measured.rows("outcomes")}
    assert len(found) == 10 * 2
    for (day, name), row in found.items():
        present = {u for u, joined in USERS.items() if variant[u] == name and joined <= day}
        spent = [s for (u, d), s in visits().items() if d == day and u in present]
        assert row["num_users"] == len(present)
        assert row["num_active"] == len(spent)
        assert row["cost"] == pytest.approx(sum(spent), abs=1e-9)


def test_a_cost_from_before_its_column_came_is_zero(lake: Lake, tmp_path: Path) -> None:
    since = START + 4 * DAY
    spent = {key: cost if key[1] >= since else 0.0 for key, cost in visits().items()}
    other = Lake.at(tmp_path / "other", lake.recipe)
    for each in (lake, other):
        each.users(USERS, DATE)
        each.activity(spent, DATE)
    uri = table_uri(lake.settings, lake.recipe, "activity")
    rows = read(uri)
    spend = pc.if_else(pc.less(rows["day"], since), None, rows["spend"])
    rows = rows.set_column(rows.column_names.index("spend"), "spend", spend)
    shutil.rmtree(uri)
    lake.ready("activity", DATE, replace(uri, rows, where=None, partition=["day"]))
    for each in (lake, other):
        each.run("assign", DATE)
        each.run("measure", DATE)
    for name in ("outcomes", "effects"):
        assert lake.rows(name) == other.rows(name)


def test_effects_and_outcomes_agree(measured: Lake) -> None:
    rows = measured.rows("outcomes")
    (dau,) = (row for row in measured.rows("effects") if row["metric"] == "dau")
    (cost,) = (row for row in measured.rows("effects") if row["metric"] == "offer_cost")
    for side, name in (("control", "control"), ("treatment", "target")):
        ours = [row for row in rows if row["variant"] == name]
        active = sum(row["num_active"] for row in ours) / sum(row["num_users"] for row in ours)
        assert dau[side] == pytest.approx(active, rel=1e-12)
        total = sum(row["cost"] for row in ours)
        assert cost[side] * cost[f"num_{side}"] == pytest.approx(total, rel=1e-9)
    assert dau["effect_low"] < dau["effect"] < dau["effect_high"]
    assert dau["num_control"] + dau["num_treatment"] == len(USERS)


def test_measuring_twice_equals_measuring_once_to_the_last_bit(measured: Lake) -> None:
    before = {name: measured.rows(name) for name in ("outcomes", "effects", "metrics")}
    uri = table_uri(measured.settings, measured.recipe, "outcomes")
    version = open_table(uri).version()
    assert measured.run("measure", DATE).already_done
    assert open_table(uri).version() == version
    assert not measured.run("measure", DATE, force=True).already_done
    assert {name: measured.rows(name) for name in before} == before


def test_an_older_date_undoes_neither_later_days_nor_late_data_but_may_bring_its_own(
    lake: Lake,
) -> None:
    early = DATE - 4 * DAY
    lake.users(USERS, DATE, early)
    first, late = visits(), {(user, START + DAY): 9.0 for user in USERS}

    def is_full(day: dt.date) -> bool:
        rows = [row for row in lake.rows("outcomes") if row["day"] == day]
        return all(row["num_active"] == row["num_users"] for row in rows)

    lake.activity(first, early)
    lake.run("assign", early)
    lake.run("measure", early)
    assert not is_full(START + DAY)
    lake.activity(first | late, DATE)
    lake.run("assign", DATE)
    lake.run("measure", DATE)
    before, effects = lake.rows("outcomes"), lake.rows("effects")
    assert is_full(START + DAY)

    again = lake.run("measure", early, force=True)
    assert (lake.rows("outcomes"), lake.rows("effects")) == (before, effects)
    assert again.tables[0].rows == 6 * 2

    later_still = {(user, START): 1.0 for user in USERS}
    lake.activity(first | late | later_still, early)
    lake.run("measure", early)
    assert is_full(START)
    assert is_full(START + DAY)
    assert len(lake.rows("outcomes")) == 10 * 2


def test_a_broken_split_of_three_variants_is_recorded_as_critical(lake: Lake) -> None:
    def three(*weights: float) -> Experiment:
        pairs = zip(("control", "small", "big"), weights, strict=True)
        variants = tuple(Variant(name=name, weight=weight) for name, weight in pairs)
        return experiment(variants=variants, is_simulated_split=True)

    lake.recipe = gym_with(three(0.4, 0.3, 0.3))
    users = {f"u{n}": START for n in range(300)}
    lake.users(users, START)
    lake.activity({(user, START): 1.0 for user in list(users)[::3]}, START)
    lake.run("assign", START)
    # Users keep their variants, so editing the weights of a running experiment breaks its split.
    lake.recipe = gym_with(three(0.8, 0.1, 0.1))
    report = lake.run("measure", START)

    (row,) = (row for row in lake.rows("metrics") if row["name"] == "srm_p_value")
    assert row["verdict"] == "critical"
    assert "believe no effect" in row["message"]
    assert any("sample ratio broken" in note for note in report.details["notes"])
    assert any("nobody was treated" in note for note in report.details["notes"])
    effects = lake.rows("effects")
    assert all(row["srm_p_value"] < 0.001 for row in effects)
    keys = [(row["metric"], row["variant"]) for row in effects]
    assert sorted(keys) == [(m, v) for m in ("dau", "offer_cost") for v in ("big", "small")]


def test_one_day_of_equal_costs_and_no_visit_gives_effects_without_p(lake: Lake) -> None:
    lake.users(USERS, START)
    present = [user for user, joined in USERS.items() if joined == START]
    lake.activity({(user, START): 2.5 for user in present}, START, inactive=True)
    lake.run("assign", START)
    lake.run("measure", START)
    assert all(row["num_active"] == 0 for row in lake.rows("outcomes"))
    assert sum(row["cost"] for row in lake.rows("outcomes")) == 2.5 * len(present)
    for row in lake.rows("effects"):
        assert row["effect"] == 0
        assert row["p_value"] is row["effect_low"] is row["effect_high"] is None
    messages = [row["message"] for row in lake.rows("metrics") if row["name"].endswith(".effect")]
    assert all("without variance between users there is no interval" in m for m in messages)


def test_a_variant_without_users_and_activity_that_starts_too_late_are_bad_input(
    lake: Lake,
) -> None:
    alone = "u0"
    lake.users({alone: START}, DATE)
    lake.activity({(alone, START): 1.0}, DATE)
    lake.run("assign", DATE)
    (mine,) = variant_of([alone], experiment())
    other = {"control": "target", "target": "control"}[str(mine)]
    with pytest.raises(BadInput, match=f"has no users in {other} by {DATE}"):
        lake.run("measure", DATE)
    lake.activity({(alone, START + DAY): 1.0}, DATE)
    with pytest.raises(BadInput, match=r"begins on 2024-04-21.*--days 10"):
        lake.run("measure", DATE)
