"""What may be said on a morning, from sums alone."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lumos.experiment.declaration import Experiment
from lumos.experiment.effects import Moments, adjusted_p_values, compare
from lumos.experiment.judge import Judged, judged
from lumos.experiment.sequential import bounds, spent
from lumos.experiment.sums import Reduced
from tests.experiment.conftest import START, experiment

DAY = dt.timedelta(days=1)
NUM_DAYS, NUM_USERS = 8, 500
METRICS = {
    "secondary": tuple({"metric": f"m{n}", "direction": "up"} for n in range(4)),
    "guardrails": ({"metric": "cost", "direction": "down"},),
}


def declared(**changes: Any) -> Experiment:
    return experiment(planned_days=NUM_DAYS, columns={}, **{**METRICS, **changes})


def sums(plan: Experiment, day: int, *, lift: float = 0.0, harm: float = 0.0) -> Reduced:
    """Users with a habit each; the same users do more from day to day."""
    moments: dict[str, dict[str, dict[str, Moments]]] = {}
    for place, metric in enumerate(plan.metrics):
        by_variant = {}
        for arm, variant in enumerate(plan.variants):
            random = np.random.default_rng([place, arm])
            habit = random.beta(2, 5, (NUM_USERS, 1))
            share = {"dau": lift, "cost": harm}.get(metric, 0.02 * place) * arm
            came = random.random((NUM_USERS, NUM_DAYS)) < habit * (1 + share)
            columns = {
                "numerator": came[:, :day].sum(axis=1).astype(float),
                "denominator": np.full(NUM_USERS, float(day)),
            }
            by_variant[variant.name] = Moments.of(columns)
        moments[metric] = {"all": by_variant}
    counts = {variant.name: NUM_USERS for variant in plan.variants}
    return Reduced(plan, counts, {}, 0, pa.table({}), moments)


def mornings(plan: Experiment, days: Sequence[int], **world: float) -> list[Judged]:
    looks: list[dict[str, Any]] = []
    found = []
    for day in days:
        one = judged(sums(plan, day, **world), START + (day - 1) * DAY, looks)
        looks += one.looks
        found.append(one)
    return found


def primary(one: Judged) -> dict[str, Any]:
    (row,) = (row for row in one.effects if row["role"] == "primary" and row["is_declared"])
    return row


def test_each_look_is_held_to_the_bound_of_the_information_up_to_it() -> None:
    plan = declared()
    found = mornings(plan, range(1, NUM_DAYS + 1))
    looks = [one.looks[0] for one in found]
    information = [(row["control"] / row["error"]) ** 2 for row in map(primary, found)]
    shares = [spent(day / NUM_DAYS, plan.alpha) for day in range(1, NUM_DAYS + 1)]
    assert [look["bound"] for look in looks] == pytest.approx(bounds(information, shares), rel=1e-6)
    for look, row in zip(looks, map(primary, found), strict=True):
        assert row["high"] - row["effect"] == pytest.approx(look["bound"] * look["error"])
        assert look["is_crossed"] == (abs(look["effect"]) >= look["bound"] * look["error"])
        assert look["is_crossed"] == (look["p_value"] <= look["alpha_spent"])
    assert looks[-1]["alpha_spent"] == pytest.approx(plan.alpha)


def test_only_declared_days_are_looks_and_the_others_get_a_sequence() -> None:
    found = mornings(declared(looks=(4, 8)), range(1, NUM_DAYS + 1))
    assert [bool(one.looks) for one in found] == [False, False, False, True] * 2
    rules = [primary(one)["rule"] for one in found]
    assert rules == [*["always_valid"] * 3, "group_sequential"] * 2


def test_a_morning_that_nobody_ran_spends_its_alpha_at_the_next_look() -> None:
    skipped = mornings(declared(), (2, 5, 8))
    assert [one.looks[0]["day"] for one in skipped] == [2, 5, 8]
    assert skipped[-1].looks[0]["alpha_spent"] == pytest.approx(0.05)


def test_from_the_first_crossing_on_its_answer_and_its_p_value_stay() -> None:
    looks = [one.looks[0] for one in mornings(declared(), range(1, NUM_DAYS + 1), lift=0.35)]
    crossed = [look["is_crossed"] for look in looks]
    first = crossed.index(True)
    assert 0 < first < NUM_DAYS - 2
    assert all(crossed[first:])
    assert looks[first]["p_value"] <= looks[first]["alpha_spent"]
    assert {look["p_value"] for look in looks[first:]} == {looks[first]["p_value"]}
    assert all(look["p_value"] > look["alpha_spent"] for look in looks[:first])


def test_an_effect_that_falls_back_behind_the_bound_has_still_crossed_it() -> None:
    plan = declared()
    looks = [one.looks[0] for one in mornings(plan, range(1, 6), lift=0.8)]
    assert looks[-1]["is_crossed"]
    (last,) = judged(sums(plan, 6), START + 5 * DAY, looks).looks
    assert abs(last["effect"]) < last["bound"] * last["error"]
    assert last["is_crossed"]


def test_a_true_effect_crosses_and_the_advice_says_which_way() -> None:
    (*_, better) = mornings(declared(), range(1, NUM_DAYS + 1), lift=0.4)
    assert better.looks[0]["is_crossed"]
    assert better.looks[0]["advice"].startswith("Stop: target is better than control in dau")
    down = {"primary": {"metric": "dau", "direction": "down"}}
    (*_, worse) = mornings(declared(**down), range(1, NUM_DAYS + 1), lift=0.4)
    assert worse.looks[0]["advice"].startswith("Stop: target is worse than control in dau")


def test_until_the_end_secondary_metrics_have_no_plain_p_and_at_the_end_a_corrected_one() -> None:
    found = mornings(declared(), range(1, NUM_DAYS + 1))
    plan = declared()
    for one in found[:-1]:
        secondary = [row for row in one.effects if row["role"] == "secondary"]
        assert {row["rule"] for row in secondary} == {"always_valid"}
        assert all(row["p_adjusted"] is None for row in secondary)
    secondary = [row for row in found[-1].effects if row["role"] == "secondary"]
    plain = []
    for row in secondary:
        by_variant = sums(plan, NUM_DAYS).moments[row["metric"]]["all"]
        plain.append(compare(by_variant["control"], by_variant["target"], alpha=0.05).p_value)
    assert [row["p_value"] for row in secondary] == plain
    assert [row["p_adjusted"] for row in secondary] == adjusted_p_values(plain)
    assert {row["rule"] for row in secondary} == {"fixed"}


def test_a_guardrail_is_crossed_only_on_its_bad_side() -> None:
    (*_, harmed) = mornings(declared(), (8,), harm=0.8)
    assert harmed.crossed == [("cost", "target")]
    assert harmed.looks[0]["advice"].startswith("Stop target or find out why: cost got worse")
    cheaper = {**METRICS, "guardrails": ({"metric": "cost", "direction": "up"},)}
    (*_, fine) = mornings(declared(**cheaper), (8,), harm=0.8)
    assert not fine.crossed


def test_several_treatments_share_alpha() -> None:
    names = ("control", "one", "two")
    variants = tuple({"name": name, "weight": 1 / 3} for name in names)
    (*_, last) = mornings(declared(variants=variants), (8,))
    assert [row["alpha_spent"] for row in last.looks] == pytest.approx([0.025, 0.025])


def test_a_ratio_of_nothing_is_unknown_and_not_an_error() -> None:
    plan = declared()
    found = sums(plan, 8)
    nobody = {
        name: Moments.of({"numerator": np.zeros(9), "denominator": np.zeros(9)})
        for name in ("control", "target")
    }
    found.moments["m1"]["all"].update(nobody)  # type: ignore[attr-defined]
    rows = {row["metric"]: row for row in judged(found, START + 7 * DAY, []).effects}
    assert rows["m1"]["effect"] is None
    assert rows["m1"]["rule"] == "none"
    assert rows["m2"]["effect"] is not None
