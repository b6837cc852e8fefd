import dataclasses

import numpy as np
import pytest

from lumos.experiment.effects import Moments, compare
from lumos.experiment.sequential import bounds, spent
from lumos.experiment.simulate import (
    History,
    always_valid,
    at_the_end,
    bounds_of,
    draw,
    expected,
    group_sequential,
    peeking,
    rate,
    replays,
    split,
    treated,
    true_effect,
    uniform_p,
)

DAYS, USERS = 18, 400
LOOKS = range(3, DAYS + 1, 3)
HALVES = (0.5, 0.5)


def made_up(num_users: int = USERS, seed: int = 0) -> History:
    """Users who come by a chance of their own, of whom few are dear."""
    chance = np.random.default_rng(seed)
    habit = chance.beta(0.5, 1.5, num_users)
    came = chance.random((DAYS, num_users)) < habit
    before = (chance.random((28, num_users)) < habit).sum(axis=0)
    return History(
        np.cumsum(came, axis=0, dtype=float),
        np.broadcast_to(np.arange(1.0, DAYS + 1)[:, None], (DAYS, num_users)),
        {"pre_numerator": before.astype(float), "forecast": habit},
    )


def amounts(num_users: int = USERS) -> History:
    chance = np.random.default_rng(3)
    return History(np.cumsum(chance.lognormal(0, 1, (DAYS, num_users)), axis=0))


def test_replays_say_what_compare_says_of_the_same_users():
    history = made_up()
    analyses = {"plain": (), "both": ("pre_numerator", "forecast")}
    portions = list(split(USERS, (0.4, 0.3), num_replays=3, seed=5))
    found = replays(history, history, portions, looks=(4, DAYS), analyses=analyses, alpha=0.1)
    ((control, treatment),) = portions
    for number in range(3):
        for place, day in enumerate((4, DAYS)):
            arms = []
            for weights in (control, treatment):
                chosen = weights[number] > 0
                columns = {name: x[chosen] for name, x in history.columns(day).items()}
                del columns["one"]
                arms.append(Moments.of(columns))
            for name, adjust in analyses.items():
                said = compare(*arms, alpha=0.1, adjust=adjust)
                ours = found[name]
                assert ours.effect[number, place] == pytest.approx(said.effect, rel=1e-9)
                assert ours.error[number, place] == pytest.approx(said.error, rel=1e-9)
                assert ours.low[number, place] == pytest.approx(said.low, rel=1e-9)
                assert ours.high[number, place] == pytest.approx(said.high, rel=1e-9)
                assert ours.p_value[number, place] == pytest.approx(said.p_value, rel=1e-9)


def test_a_split_puts_nobody_in_two_variants_and_is_the_same_for_the_same_seed(monkeypatch):
    whole = list(split(USERS, (0.3, 0.2), num_replays=40, seed=1))
    control, treatment = whole[0]
    assert not (control * treatment).any()
    assert control.mean() == pytest.approx(0.3, abs=0.02)
    assert treatment.mean() == pytest.approx(0.2, abs=0.02)
    monkeypatch.setattr("lumos.experiment.simulate._CELLS", 7 * USERS)
    portions = list(split(USERS, (0.3, 0.2), num_replays=40, seed=1))
    assert len(portions) == 6
    np.testing.assert_array_equal(np.concatenate([ours for ours, _ in portions]), control)


def test_a_draw_has_as_many_users_as_the_experiment_will_whatever_history_has():
    ((control, treatment),) = draw(1000, (0.5, 0.3), of=USERS, num_replays=50, seed=1)
    both = control.sum(axis=1) + treatment.sum(axis=1)
    assert both.mean() == pytest.approx(800, rel=0.02)
    assert control.sum(axis=1).mean() == pytest.approx(500, rel=0.02)
    assert control.max() > 1


def test_days_are_added_one_by_one_and_amounts_are_multiplied():
    history = made_up()
    more = treated(history, 0.2, seed=2)
    assert np.isin(np.diff(more.numerator, axis=0), (0, 1)).all()
    assert (more.numerator >= history.numerator).all()
    change = more.numerator[-1].sum() / history.numerator[-1].sum() - 1
    assert change == pytest.approx(0.2, abs=1 / history.numerator[-1].sum())
    less = treated(history, -0.2, seed=2)
    assert (less.numerator <= history.numerator).all()
    sums = amounts()
    np.testing.assert_allclose(treated(sums, 0.2, seed=2).numerator, 1.2 * sums.numerator)


def test_more_days_than_there_are_cannot_be_added():
    with pytest.raises(ValueError, match="user-days turned"):
        treated(made_up(), 10.0, seed=0)


@pytest.mark.parametrize("history", [made_up(), made_up().as_mean(), amounts()])
def test_intervals_hold_the_true_effect_as_often_as_they_say(history):
    changed = treated(history, 0.1, seed=4)
    truth = true_effect(history, changed, DAYS)
    weights = draw(USERS, HALVES, of=USERS, num_replays=600, seed=5)
    analyses = {"plain": (), "adjusted": tuple(history.covariates)}
    found = replays(history, changed, weights, looks=[DAYS], analyses=analyses, alpha=0.05)
    for said in found.values():
        holds = (said.low[:, -1] <= truth) & (truth <= said.high[:, -1])
        assert rate(holds, 0.95).is_fair
    plain = found["plain"].effect[:, -1]
    assert plain.mean() == pytest.approx(truth, abs=4 * plain.std() / np.sqrt(600))


def test_the_expected_error_is_what_replays_show():
    history = made_up()
    changed = treated(history, 0.1, seed=4)
    adjust = ("pre_numerator",)
    sizes = (USERS * 0.5, USERS * 0.3)
    said = expected(history, changed, DAYS, sizes=sizes, adjust=adjust)
    weights = draw(USERS, (0.5, 0.3), of=USERS, num_replays=200, seed=6)
    found = replays(history, changed, weights, looks=[DAYS], analyses={"": adjust}, alpha=0.05)[""]
    assert said.effect == pytest.approx(true_effect(history, changed, DAYS))
    assert said.error == pytest.approx(found.error.mean(), rel=0.02)
    assert said.error == pytest.approx(found.effect.std(), rel=0.15)


def test_peeking_finds_too_much_among_equals_and_the_other_rules_do_not():
    history = made_up()
    weights = split(USERS, HALVES, num_replays=600, seed=7)
    found = replays(history, history, weights, looks=LOOKS, analyses={"": ()}, alpha=0.05)[""]
    assert rate(at_the_end(found, 0.05), 0.05).is_fair
    assert rate(group_sequential(found, LOOKS, 0.05), 0.05).is_fair
    valid = rate(always_valid(found, 0.1, 0.05), 0.05)
    assert valid.value <= valid.high
    naive = rate(peeking(found, 0.05), 0.05)
    assert naive.value > naive.high
    assert uniform_p(found.p_value[:, -1]) > 1e-3


def test_bounds_of_the_mean_information_decide_as_each_replays_own_would():
    history = made_up()
    weights = split(USERS, HALVES, num_replays=60, seed=8)
    found = replays(history, history, weights, looks=LOOKS, analyses={"": ()}, alpha=0.05)[""]
    shared = bounds_of(found.information, LOOKS, 0.05)
    shares = [spent(day / DAYS, 0.05) for day in LOOKS]
    for number in range(0, 60, 6):
        information = (found.control[number] / found.error[number]) ** 2
        own = bounds(information.tolist(), shares)
        np.testing.assert_allclose(shared, own, rtol=0.02)


def test_a_look_at_which_nobody_differs_decides_nothing():
    nothing = dataclasses.replace(made_up(), numerator=np.zeros((DAYS, USERS)))
    nothing.numerator[1:, :5] = 1.0
    weights = split(USERS, HALVES, num_replays=10, seed=9)
    found = replays(nothing, nothing, weights, looks=(1, 2), analyses={"": ()}, alpha=0.05)[""]
    assert np.isinf(found.error[:, 0]).all()
    assert (found.p_value[:, 0] == 1).all()
    assert np.isinf(bounds_of(found.information, (1, 2), 0.05)[0])
    assert not always_valid(found, 1.0, 0.05).any()


def test_a_sum_that_grows_with_the_days_gains_information_all_the_same():
    history = amounts()
    weights = split(USERS, HALVES, num_replays=20, seed=10)
    found = replays(history, history, weights, looks=LOOKS, analyses={"": ()}, alpha=0.05)[""]
    assert (np.diff(found.information) > 0).all()
    assert (np.diff(found.error.mean(axis=0)) > 0).all()
