import numpy as np
import pytest

from lumos.experiment.plan import Plan, covariates, looks_until
from lumos.experiment.simulate import History, draw, group_sequential, rate, replays, treated
from tests.experiment.conftest import experiment
from tests.experiment.test_simulate import DAYS, HALVES, LOOKS, USERS, amounts, made_up


def plan_of(history: History, num_users: float, adjust: tuple[str, ...] = ()) -> Plan:
    half = num_users / 2
    return Plan.of(history, looks=LOOKS, sizes=(half, half), adjust=adjust, alpha=0.05)


@pytest.mark.parametrize("history", [made_up(), amounts()])
def test_planned_power_is_what_replays_find(history):
    adjust = tuple(history.covariates)
    plan = plan_of(history, USERS, adjust)
    effect = plan.smallest(0.7)
    assert plan.power(effect) == pytest.approx(0.7, abs=0.001)
    weights = draw(USERS, HALVES, of=USERS, num_replays=400, seed=1)
    changed = treated(history, effect, seed=2)
    found = replays(
        history, changed, weights, looks=LOOKS, analyses={"": adjust}, alpha=0.05
    )[""]  # fmt: skip
    assert rate(group_sequential(found, LOOKS, 0.05), 0.7).is_fair


def test_no_effect_is_found_as_often_as_alpha_says():
    assert plan_of(made_up(), USERS).power(0.0) == pytest.approx(0.05, abs=0.001)


def test_four_times_the_users_find_half_the_effect():
    history = made_up()
    few, many = (plan_of(history, USERS * times).smallest(0.8) for times in (1, 4))
    assert many == pytest.approx(few / 2, rel=0.005)


def test_a_metric_in_which_nobody_differs_cannot_be_planned():
    with pytest.raises(ValueError, match="no variance between users"):
        plan_of(History(np.ones((DAYS, USERS))), USERS)


def test_a_shorter_plan_keeps_the_declared_looks_and_ends_with_one():
    trial = experiment(planned_days=28, looks=(7, 14, 28))
    assert looks_until(trial, 20) == (7, 14, 20)
    assert looks_until(trial, 5) == (5,)
    assert looks_until(experiment(planned_days=28), 3) == (1, 2, 3)


def test_a_mean_per_user_is_adjusted_without_a_denominator():
    assert covariates(experiment(adjust="pre_period"), made_up()) == ("pre_numerator",)
