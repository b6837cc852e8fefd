"""An interval holds what comes true as often as it says, where most amounts are nothing too."""

import numpy as np
import pytest

from lumos.config import Task
from lumos.serve.intervals import Interval, cross_fitted_inside, fit_interval

SUM = Task(name="s", kind="sum", column="y", window_days=1)


def spending(num: int, seed: int = 0, share: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Amounts, nothing for many, and each one's true mean; the share of spenders differs."""
    random = np.random.default_rng(seed)
    chance = random.beta(2, 2, num) if share is None else np.full(num, share)
    scale = random.gamma(2, 20, num)
    amount = scale * random.exponential(1, num) * (random.random(num) < chance)
    return amount, chance * scale


def covered(outcome: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    low, high = ends
    return (low <= outcome) & (outcome <= high)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_new_outcomes_lie_inside_as_often_as_promised(level: float) -> None:
    interval = fit_interval(SUM, level, *spending(10_000))
    outcome, score = spending(20_000, seed=1)

    inside = covered(outcome, interval(score))

    assert inside.mean() == pytest.approx(level, abs=0.01)
    for part in np.array_split(np.argsort(score), 5)[1:]:
        assert inside[part].mean() == pytest.approx(level, abs=0.03)


def test_amounts_that_are_never_nothing_are_missed_on_both_sides_alike() -> None:
    random = np.random.default_rng(0)
    score = random.gamma(5, 10, 20_000)
    outcome = score * random.lognormal(0, 0.3, 20_000)

    low, high = fit_interval(SUM, 0.9, outcome, score)(score)

    assert np.mean(outcome < low) == pytest.approx(0.05, abs=0.007)
    assert np.mean(outcome > high) == pytest.approx(0.05, abs=0.007)


def test_where_nothing_is_likely_the_lower_end_is_nothing_and_all_misses_are_above() -> None:
    outcome, score = spending(20_000, share=0.6)

    low, high = fit_interval(SUM, 0.9, outcome, score)(score)

    assert np.all(low == 0)
    assert np.mean(outcome > high) == pytest.approx(0.1, abs=0.007)


def test_the_score_is_inside_and_both_ends_rise_with_it() -> None:
    for seed in range(5):
        outcome, score = spending(1500, seed, share=0.04)  # nearly all outcomes are nothing
        interval = fit_interval(SUM, 0.9, outcome, score)
        asked = np.sort(np.append(score, [0.0, 1e-9, score.max() * 10]))

        low, high = interval(asked)

        assert np.all((low <= asked) & (asked <= high))
        assert np.all(np.diff(low) >= 0)
        assert np.all(np.diff(high) >= 0)


def test_the_ends_grow_with_a_forecast_beyond_all_that_was_seen() -> None:
    interval = Interval(task="s", level=0.9, x=(1.0, 10.0), low=(0.0, 2.0), high=(5.0, 30.0))
    low, high = interval(np.array([5.5, 10.0, 40.0]))
    assert low.tolist() == [1.0, 2.0, 8.0]
    assert high.tolist() == [17.5, 30.0, 120.0]


def test_intervals_of_losses_are_those_of_gains_mirrored() -> None:
    random = np.random.default_rng(0)
    score = random.gamma(2, 20, 4_000)
    outcome = np.where(random.random(4_000) < 0.4, 0, score * random.gamma(2, 1, 4_000))
    asked = np.array([0.0, 10.0, 40.0, 5 * score.max()])

    low, high = fit_interval(SUM, 0.9, outcome, score)(asked)
    mirrored = fit_interval(SUM, 0.9, -outcome, -score)(-asked)

    np.testing.assert_allclose(mirrored, (-high, -low))
    assert high[3] - low[3] > high[2] - low[2]


@pytest.mark.parametrize("num", [1, 2, 30])
def test_few_outcomes_make_an_interval_of_all_of_them_not_a_fault(num: int) -> None:
    outcome = np.arange(num, dtype=float)
    low, high = fit_interval(SUM, 0.95, outcome, outcome + 1)(np.array([0.5, 15.0]))
    assert low[0] == 0
    assert high[1] >= outcome.max()


def test_amounts_below_zero_have_intervals_too() -> None:
    random = np.random.default_rng(0)
    score = random.normal(-5, 3, 10_000)
    outcome = score + random.normal(0, 2, 10_000)

    ends = fit_interval(SUM, 0.9, outcome, score)(score)

    assert covered(outcome, ends).mean() == pytest.approx(0.9, abs=0.01)


def test_coverage_is_measured_on_users_that_the_interval_has_not_seen() -> None:
    random = np.random.default_rng(0)
    outcome = random.exponential(1, 60)
    user = np.array([f"u{n}" for n in range(60)], object)

    inside = [
        cross_fitted_inside(SUM, 0.95, shuffled, np.ones(60), user).mean()
        for shuffled in (random.permutation(outcome) for _ in range(100))
    ]

    # Of the 60 themselves, never more than one would lie outside.
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    assert min(inside) < 0.93
