import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from lumos.experiment.effects import Sample, Sums, compare, sample_of, sample_ratio_p_value


def sums(x: np.ndarray, y: np.ndarray) -> Sums:
    """Sums of small whole numbers, which float64 adds exactly."""
    exact = [Fraction(float(v)) for v in (x.sum(), x @ x, y.sum(), y @ y, x @ y)]
    return Sums(len(x), *exact)


def mean_sample(total: float, squares: float, n: int) -> Sample:
    return sample_of(Sums.of_mean(n, Fraction(str(total)), Fraction(str(squares))))


def test_growthbooks_own_cells_come_out_to_the_printed_digits() -> None:
    control = mean_sample(1396.87, 52377.9767, 3407)
    treatment = mean_sample(2422.7, 134698.29, 3461)
    found = compare(control, treatment, alpha=0.05)
    assert round(found.effect, 5) == 0.29
    assert (round(found.low or 0, 5), round(found.high or 0, 5)) == (0.04538, 0.53462)
    assert round(found.p_value or 0, 5) == 0.02016
    assert round(found.relative or 0, 5) == 0.70732
    assert round(found.relative_low or 0, 5) == -0.03526
    assert round(found.relative_high or 0, 5) == 1.44989


def test_a_plain_mean_agrees_with_scipys_welch_test() -> None:
    random = np.random.default_rng(3)
    a, b = random.poisson(2, 300).astype(float), random.poisson(2.2, 200).astype(float)
    found = compare(sample_of(sums(a, np.ones(300))), sample_of(sums(b, np.ones(200))), alpha=0.1)
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-9)


def test_a_ratio_agrees_with_tea_tasting() -> None:
    random = np.random.default_rng(4)
    days = random.integers(1, 22, (2, 400)).astype(float)
    active = random.binomial(days.astype(int), random.beta(1, 4, (2, 400))).astype(float)
    ours = compare(*(sample_of(sums(x, y)) for x, y in zip(active, days, strict=True)), alpha=0.05)
    sides = [
        Aggregates(
            count_=len(x),
            mean_={"x": x.mean(), "y": y.mean()},
            var_={"x": x.var(ddof=1), "y": y.var(ddof=1)},
            cov_={("x", "y"): np.cov(x, y)[0, 1]},
        )
        for x, y in zip(active, days, strict=True)
    ]
    theirs = RatioOfMeans("x", "y", use_t=True, equal_var=False).analyze_aggregates(*sides)
    assert ours.effect == pytest.approx(theirs.effect_size, rel=1e-9)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.low == pytest.approx(theirs.effect_size_ci_lower, rel=1e-9)
    assert ours.relative == pytest.approx(theirs.rel_effect_size, rel=1e-9)


@pytest.mark.parametrize(("unit", "low", "high"), [("user", 0.036, 0.066), ("user-day", 0.3, 1)])
def test_comparing_equals_finds_an_effect_in_5_percent_of_replays_at_user_level_only(
    unit: str, low: float, high: float
) -> None:
    """1,500 replays of 18 days; .036 to .066 holds 99% of the binomial around .05.

    Each user has a habit of their own, so days of one user are alike: taking each user-day as
    an independent unit finds far too much, and that is why nothing here does.
    """
    random = np.random.default_rng(20171120)
    num_replays, num_users, num_days = 1500, 400, 18
    found = 0
    for _ in range(num_replays):
        habit = random.beta(0.5, 3, num_users)
        active = random.binomial(num_days, habit).astype(float)
        target = random.random(num_users) < 0.5
        sides = []
        for chosen in (~target, target):
            x, n = active[chosen], int(chosen.sum())
            if unit == "user":
                sides.append(sample_of(sums(x, np.full(n, float(num_days)))))
            else:
                cells, ones = n * num_days, Fraction(float(x.sum()))
                sides.append(sample_of(Sums.of_mean(cells, ones, ones)))
        p_value = compare(*sides, alpha=0.05).p_value
        found += p_value is not None and p_value < 0.05
    assert low <= found / num_replays <= high


def test_without_variance_there_is_an_effect_but_no_interval_and_no_p() -> None:
    found = compare(Sample(0.5, 0.0, 10), Sample(1.0, 0.0, 10), alpha=0.05)
    assert (found.effect, found.relative) == (0.5, 1.0)
    assert found.low is found.high is found.p_value is found.relative_low is None


def test_a_single_user_has_no_variance() -> None:
    alone = sample_of(Sums.of_mean(1, Fraction(3), Fraction(9)))
    assert alone == Sample(3.0, None, 1)
    assert compare(alone, Sample(1.0, 1.0, 10), alpha=0.05).p_value is None


def test_a_control_of_zero_has_no_relative_effect() -> None:
    found = compare(Sample(0.0, 0.0, 10), Sample(1.0, 1.0, 10), alpha=0.05)
    assert found.relative is None
    assert found.p_value is not None


def test_nobody_is_an_error_and_not_a_number() -> None:
    with pytest.raises(ValueError, match="not 0 users"):
        sample_of(Sums.of_mean(0, Fraction(0), Fraction(0)))
    with pytest.raises(ValueError, match="needs users"):
        sample_ratio_p_value([0, 0], [0.5, 0.5])


def test_the_sample_ratio_check_is_pearsons_chi_square() -> None:
    expected = stats.chisquare([480, 130, 390], [500, 100, 400]).pvalue
    found = sample_ratio_p_value([480, 130, 390], [0.5, 0.1, 0.4])
    assert found == pytest.approx(expected, rel=1e-9)
    assert math.isclose(sample_ratio_p_value([500, 500], [0.5, 0.5]), 1.0)
