import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumos.config import Task
from lumos.study.curves import (
    at_quantiles,
    cross_fitted,
    gain,
    median_reliability,
    reliability,
)

ANY = Task(name="come", kind="any", column="visited", window_days=1)


def test_bins_hold_their_means_and_every_forecast_once() -> None:
    forecast = np.repeat([0.1, 0.9], 500)
    outcome = np.concatenate([np.arange(500) < 100, np.arange(500) < 400]).astype(float)
    found = reliability(outcome, forecast, [f"u{n}" for n in range(1000)], num_bins=2)
    np.testing.assert_allclose(found.forecast, [0.1, 0.9])
    np.testing.assert_allclose(found.outcome, [0.2, 0.8])
    assert found.size.tolist() == [500, 500]
    np.testing.assert_allclose(found.half_width, 1.96 * np.sqrt(0.2 * 0.8 / 500), rtol=1e-3)


def test_the_interval_counts_users_and_not_their_repeated_outcomes() -> None:
    random = np.random.default_rng(0)
    outcome = np.repeat((random.random(200) < 0.3).astype(float), 4)
    forecast = np.full(800, 0.3)
    alike = reliability(outcome, forecast, [f"u{n // 4}" for n in range(800)], num_bins=1)
    apart = reliability(outcome, forecast, [f"u{n}" for n in range(800)], num_bins=1)
    np.testing.assert_allclose(alike.half_width, 2 * apart.half_width, rtol=1e-9)


def test_the_interval_holds_the_truth_in_95_percent_of_replays() -> None:
    random = np.random.default_rng(1)
    users = [f"u{n // 4}" for n in range(400)]
    inside = 0
    for _ in range(400):
        chance = np.repeat(random.beta(2, 3, 100), 4)
        outcome = (random.random(400) < chance).astype(float)
        found = reliability(outcome, np.full(400, 0.5), users, num_bins=1)
        inside += abs(found.outcome[0] - 0.4) <= found.half_width[0]
    assert 0.91 <= inside / 400 <= 0.98


def test_medians_are_compared_with_medians() -> None:
    random = np.random.default_rng(4)
    scale = np.repeat([10.0, 50.0], 400)
    outcome = scale * random.exponential(1, 800)
    users = [f"u{n // 2}" for n in range(800)]
    found = median_reliability(outcome, scale * np.log(2), users, num_bins=2)
    np.testing.assert_allclose(found.forecast, [10 * np.log(2), 50 * np.log(2)])
    assert (np.abs(found.outcome - found.forecast) <= found.half_width * 1.5).all()
    # Of an exponential's median, 1 / sqrt(users) of its scale.
    np.testing.assert_allclose(found.half_width / [10, 50], 1.96 / np.sqrt(200), rtol=0.35)
    assert found.size.tolist() == [400, 400]
    assert median_reliability(outcome[:1], scale[:1], ["u"]).half_width.tolist() == [0]


def test_a_perfect_order_finds_everything_first_and_a_constant_finds_the_diagonal() -> None:
    outcome = (np.arange(100) < 20).astype(float)
    share, found = gain(outcome, outcome)
    assert np.interp(0.2, share, found) == pytest.approx(1)
    share, found = gain(outcome, np.full(100, 0.2))
    np.testing.assert_allclose(found, share, atol=1e-12)


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60))
def test_a_gain_rises_from_nothing_to_everything_whatever_the_order_of_rows(
    pairs: list[tuple[int, int]],
) -> None:
    forecast, outcome = (np.array(side, float) for side in zip(*pairs, strict=True))
    share, found = gain(outcome, forecast)
    assert found[0] == share[0] == 0
    assert found[-1] == pytest.approx(1)
    assert (np.diff(found) >= -1e-12).all()
    _, again = gain(outcome[::-1], forecast[::-1])
    np.testing.assert_allclose(found, again, atol=1e-12)


def test_no_user_is_calibrated_by_their_own_outcomes() -> None:
    random = np.random.default_rng(2)
    users = [f"u{n}" for n in range(2000)]
    forecast = random.random(2000)
    outcome = (random.random(2000) < forecast**2).astype(float)
    before = cross_fitted(ANY, outcome, forecast, users)
    changed = outcome.copy()
    changed[7] = 1 - changed[7]
    after = cross_fitted(ANY, changed, forecast, users)
    assert before is not None
    assert after is not None
    assert before[7] == after[7]
    assert (before != after).any()
    assert abs(before.mean() - outcome.mean()) < abs(forecast.mean() - outcome.mean()) / 5


def test_one_user_cannot_be_calibrated_by_others() -> None:
    assert cross_fitted(ANY, np.ones(3), np.full(3, 0.5), ["a", "a", "a"]) is None


def test_chosen_users_go_from_the_top_down_and_come_once() -> None:
    assert at_quantiles([5, 1, 9], (1.0, 0.5, 0.0)) == [2, 0, 1]
    assert at_quantiles([5], (1.0, 0.5)) == [0]
    assert at_quantiles([], (1.0,)) == []
