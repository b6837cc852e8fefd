import dataclasses
import math

import numpy as np
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from tea_tasting.metrics import Mean, RatioOfMeans

from lumos.experiment.effects import (
    DENOMINATOR,
    NUMERATOR,
    ONE,
    Effect,
    Moments,
    adjusted_p_values,
    compare,
    sample_ratio_p_value,
)

INTERVALS = [
    *("error", "low", "high", "p_value", "variance_reduction"),
    *("relative_low", "relative_high", "relative_p_value"),
]


def mean_moments(total: float, squares: float, n: int) -> Moments:
    return Moments((ONE, NUMERATOR), np.array([[n, total], [total, squares]]))


def of(x: NDArray[np.float64], *others: NDArray[np.float64]) -> Moments:
    """Moments of a mean with the covariates a, b, ..."""
    return Moments.of({NUMERATOR: x, **dict(zip("abcdef", others, strict=False))})


def correlated(seed: int, num_users: int, num_covariates: int = 1) -> list[NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    covariates = random.gamma(2, 3, (num_covariates, num_users))
    x = covariates.sum(axis=0) + random.gamma(1, 4, num_users)
    return [x, *covariates]


def fields(found: Effect, *names: str) -> list[float | None]:
    return [getattr(found, name) for name in names or dataclasses.asdict(found)]


def test_growthbooks_own_cells_come_out_to_the_printed_digits() -> None:
    # github.com/growthbook/growthbook, packages/stats/tests/frequentist/test_tests.py:
    # test_two_sided_ttest, test_two_sided_ttest_absolute.
    control = mean_moments(1396.87, 52377.9767, 3407)
    treatment = mean_moments(2422.7, 134698.29, 3461)
    found = compare(control, treatment, alpha=0.05)
    rounded = {k: v and round(v, 5) for k, v in dataclasses.asdict(found).items()}
    assert rounded == {
        "control": 0.41,
        "treatment": 0.7,
        "effect": 0.29,
        "error": 0.12478,
        "low": 0.04538,
        "high": 0.53462,
        "p_value": 0.02016,
        "relative": 0.70732,
        "relative_error": 0.37879,
        "relative_low": -0.03526,
        "relative_high": 1.44989,
        "relative_p_value": 0.06191,
        "variance_reduction": 0.0,
    }


def tea_arms(columns: dict[str, str], *, covariates: bool) -> list[Moments]:
    """The users of tea-tasting's documentation, control and treatment."""
    data = tt.make_users_data(rng=42, covariates=covariates)
    values = {ours: data[theirs].to_numpy().astype(float) for ours, theirs in columns.items()}
    chosen = data["variant"].to_numpy()
    return [Moments.of({k: v[chosen == side] for k, v in values.items()}) for side in (0, 1)]


@pytest.mark.parametrize(
    ("columns", "printed"),
    [
        ({NUMERATOR: "orders"}, ("0.530", "0.573", "8.0%", "0.118")),
        ({NUMERATOR: "revenue"}, ("5.24", "5.73", "9.3%", "0.123")),
        (
            {NUMERATOR: "orders", DENOMINATOR: "sessions"},
            ("0.266", "0.289", "8.8%", "0.0762"),
        ),
        (
            {NUMERATOR: "orders", "before": "orders_covariate"},
            ("0.523", "0.581", "11%", "0.00733"),
        ),
        (
            {NUMERATOR: "revenue", "before": "revenue_covariate"},
            ("5.12", "5.85", "14%", "0.00674"),
        ),
    ],
)
def test_tea_tastings_documented_examples_come_out_to_the_printed_digits(
    columns: dict[str, str], printed: tuple[str, ...]
) -> None:
    # tea-tasting.e10v.me/api/metrics/mean: the examples of Mean and RatioOfMeans, with CUPED and
    # without.
    adjust = ["before"] if "before" in columns else []
    control, treatment = tea_arms(columns, covariates=bool(adjust))
    found = compare(control, treatment, alpha=0.05, adjust=adjust)
    digits = [len(number.strip("%").replace(".", "").lstrip("0")) for number in printed]
    values = [found.control, found.treatment, (found.relative or 0) * 100, found.p_value or 0]
    shown = [float(f"{v:.{n}g}") for v, n in zip(values, digits, strict=True)]
    expected = [float(number.strip("%")) for number in printed]
    assert shown[:3] == expected[:3]
    # Its theta is that of all users, ours that within variants: then p is the same to .5%.
    assert shown[3] == pytest.approx(expected[3], rel=0.005 if adjust else 0)


def test_benjamini_hochberg_comes_out_as_tea_tastings_documentation_prints_it() -> None:
    # tea-tasting.e10v.me/api/multiplicity: the example of adjust_fdr.
    found = adjusted_p_values([0.118, 0.0211, None, 0.0213, 0.00218])
    assert [p and round(p, 5) for p in found] == [0.118, 0.0284, None, 0.0284, 0.00872]


def test_p_values_that_are_missing_are_not_counted() -> None:
    assert adjusted_p_values([None, 0.04, None]) == [None, 0.04, None]
    assert adjusted_p_values([None]) == [None]
    assert adjusted_p_values([]) == []


@pytest.mark.parametrize(
    ("counts", "printed"),
    [
        # Kohavi, Tang, Xu (2020), "Trustworthy Online Controlled Experiments", ch. 21, scenario 1.
        ([821_588, 815_482], "1.8e-06"),
        # en.wikipedia.org/wiki/Sample_ratio_mismatch, Example.
        ([600, 400], "2.5e-10"),
        # srm.osc.garden, its example.
        ([44_000, 45_000], "0.0008"),
    ],
)
def test_published_broken_splits_are_as_unlikely_as_printed(
    counts: list[int], printed: str
) -> None:
    found = sample_ratio_p_value(counts, [0.5, 0.5])
    assert f"{found:.{1 if printed[0] == '0' else 2}g}" == printed


def test_the_sample_ratio_check_is_pearsons_chi_square() -> None:
    expected = stats.chisquare([480, 130, 390], [500, 100, 400]).pvalue
    found = sample_ratio_p_value([480, 130, 390], [0.5, 0.1, 0.4])
    assert found == pytest.approx(expected, rel=1e-9)
    assert math.isclose(sample_ratio_p_value([500, 500], [0.5, 0.5]), 1.0)


def test_a_plain_mean_agrees_with_scipys_welch_test() -> None:
    random = np.random.default_rng(3)
    a, b = random.poisson(2, 300).astype(float), random.poisson(2.2, 200).astype(float)
    found = compare(of(a), of(b), alpha=0.1)
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-9)


def test_a_ratio_agrees_with_tea_tasting() -> None:
    control, treatment = tea_arms({NUMERATOR: "orders", DENOMINATOR: "sessions"}, covariates=False)
    ours = compare(control, treatment, alpha=0.05)
    metric = RatioOfMeans("orders", "sessions", use_t=True, equal_var=False)
    theirs = metric.analyze(tt.make_users_data(rng=42), 0, 1, "variant")
    assert ours.effect == pytest.approx(theirs.effect_size, rel=1e-9)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.low == pytest.approx(theirs.effect_size_ci_lower, rel=1e-9)
    assert ours.relative == pytest.approx(theirs.rel_effect_size, rel=1e-9)


def test_an_adjusted_mean_agrees_with_tea_tasting() -> None:
    """Exactly where both variants have the same past: tea-tasting's theta is not within variants.

    With a past that differs, the same to the printed digits: the documented examples above.
    """
    x, before = correlated(5, 600)
    y = before * 0.8 + np.random.default_rng(6).gamma(1, 5, 600)
    ours = compare(of(x, before), of(y, before), alpha=0.05, adjust=["a"])
    metric = Mean("x", "before", use_t=True, equal_var=False)
    data = {
        "x": np.concatenate([x, y]),
        "before": np.concatenate([before, before]),
        "variant": np.repeat([0, 1], 600),
    }
    theirs = metric.analyze(tt.utils.pa.table(data), 0, 1, "variant")
    assert ours.effect == pytest.approx(theirs.effect_size, rel=1e-9)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.high == pytest.approx(theirs.effect_size_ci_upper, rel=1e-9)
    assert (ours.control, ours.treatment) == pytest.approx((theirs.control, theirs.treatment))


@pytest.mark.parametrize("num_covariates", [1, 3])
def test_adjusting_is_the_regression_of_the_outcome_on_variant_and_covariates(
    num_covariates: int,
) -> None:
    control = correlated(7, 300, num_covariates)
    treatment = correlated(8, 200, num_covariates)
    found = compare(of(*control), of(*treatment), alpha=0.05, adjust="abc"[:num_covariates])
    x, *covariates = np.concatenate([control, treatment], axis=1)
    target = np.repeat([0.0, 1.0], [300, 200])
    design = np.column_stack([np.ones(500), target, *covariates])
    coefficients, rss, *_ = np.linalg.lstsq(design, x)
    assert found.effect == pytest.approx(coefficients[1], rel=1e-9)
    # The regression takes both variants' variances as one and pays for its coefficients.
    error = math.sqrt(rss[0] / (500 - 2 - num_covariates) * (1 / 300 + 1 / 200))
    assert found.error == pytest.approx(error, rel=0.05)
    centre = [column.mean() for column in covariates]
    assert found.control == pytest.approx(coefficients @ [1, 0, *centre], rel=1e-9)


def test_a_past_that_foretells_takes_its_share_of_the_variance_away() -> None:
    control, treatment = correlated(9, 2000), correlated(10, 2000)
    plain = compare(of(*control), of(*treatment), alpha=0.05)
    found = compare(of(*control), of(*treatment), alpha=0.05, adjust=["a"])
    # The covariate has variance 18 of the outcome's 34.
    assert found.variance_reduction == pytest.approx(18 / 34, abs=0.04)
    assert found.error == pytest.approx((plain.error or 0) * math.sqrt(16 / 34), rel=0.04)
    assert plain.variance_reduction == 0


def test_a_ratio_is_adjusted_as_the_mean_of_its_linearised_users() -> None:
    random = np.random.default_rng(11)
    sides, lines = [], []
    for size in (400, 500):
        days = random.integers(1, 22, size).astype(float)
        habit = random.beta(1, 4, size)
        active = random.binomial(days.astype(int), habit).astype(float)
        before = random.binomial(20, habit).astype(float)
        columns = {NUMERATOR: active, DENOMINATOR: days, "before": before}
        sides.append(Moments.of(columns))
        ratio = active.sum() / days.sum()
        lines.append(of(ratio + (active - ratio * days) / days.mean(), before))
    found = compare(*sides, alpha=0.05, adjust=["before"])
    assert fields(found) == pytest.approx(
        fields(compare(*lines, alpha=0.05, adjust=["a"])), rel=1e-8
    )
    assert found.variance_reduction is not None
    assert found.variance_reduction > 0.3


def test_covariates_that_say_nothing_or_the_same_twice_change_nothing() -> None:
    sides = [correlated(12, 250, 2), correlated(13, 350, 2)]
    plain = compare(*(of(x, a, b) for x, a, b in sides), alpha=0.05, adjust="ab")
    repeated = (
        of(x, a, b, np.full(len(x), 1e6), a + 1e-3 * b, np.zeros(len(x))) for x, a, b in sides
    )
    found = compare(*repeated, alpha=0.05, adjust="abcde")
    assert fields(found) == pytest.approx(fields(plain), rel=1e-6)


def test_a_covariate_without_variance_alone_is_no_adjustment() -> None:
    sides = [(correlated(14, n)[0], np.full(n, 7.0)) for n in (100, 90)]
    plain = compare(*(of(x) for x, _ in sides), alpha=0.05)
    found = compare(*(of(*side) for side in sides), alpha=0.05, adjust=["a"])
    assert fields(found) == pytest.approx(fields(plain), rel=1e-12)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_a_covariate_does_not_matter(unit: float) -> None:
    sides = [correlated(15, 250, 2), correlated(16, 350, 2)]
    plain = compare(*(of(x, a, b) for x, a, b in sides), alpha=0.05, adjust="ab")
    scaled = compare(*(of(x, a * unit, b) for x, a, b in sides), alpha=0.05, adjust="ab")
    assert fields(scaled) == pytest.approx(fields(plain), rel=1e-6)


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
                sides.append(Moments.of({NUMERATOR: x, DENOMINATOR: np.full(n, float(num_days))}))
            else:
                sides.append(mean_moments(x.sum(), x.sum(), n * num_days))
        p_value = compare(*sides, alpha=0.05).p_value
        found += p_value is not None and p_value < 0.05
    assert low <= found / num_replays <= high


def test_adjusted_comparisons_of_equals_find_an_effect_in_5_percent_too() -> None:
    random = np.random.default_rng(17)
    found = 0
    for _ in range(1500):
        before = random.poisson(3, 300).astype(float)
        x = before + random.poisson(1, 300)
        target = random.random(300) < 0.5
        sides = [of(x[chosen], before[chosen]) for chosen in (~target, target)]
        p_value = compare(*sides, alpha=0.05, adjust=["a"]).p_value
        found += p_value is not None and p_value < 0.05
    assert 0.036 <= found / 1500 <= 0.066


def test_without_variance_there_is_an_effect_but_no_interval_and_no_p() -> None:
    # .1 is not exact in binary: its sums have a variance of rounding errors.
    found = compare(of(np.full(1001, 0.1)), of(np.full(999, 0.3)), alpha=0.05)
    assert (found.effect, found.relative) == pytest.approx((0.2, 2.0))
    assert fields(found, *INTERVALS) == [None] * len(INTERVALS)


def test_an_outcome_that_the_past_explains_whole_has_no_interval() -> None:
    before = np.arange(10.0)
    found = compare(of(2 * before, before), of(2 * before + 1, before), alpha=0.05, adjust=["a"])
    assert found.effect == pytest.approx(1)
    assert found.error is None


def test_a_single_user_has_no_variance() -> None:
    found = compare(of(np.array([3.0])), of(np.array([1.0, 2.0])), alpha=0.05)
    assert found.effect == -1.5
    assert fields(found, *INTERVALS) == [None] * len(INTERVALS)


def test_a_control_of_zero_has_no_relative_effect() -> None:
    found = compare(of(np.zeros(10)), of(np.arange(10.0)), alpha=0.05)
    assert found.relative is found.relative_low is found.relative_p_value is None
    assert found.p_value is not None


def test_a_treatment_of_zero_is_all_of_the_control_gone() -> None:
    found = compare(of(np.arange(10.0)), of(np.zeros(10)), alpha=0.05)
    assert found.relative == -1
    assert found.relative_low is found.relative_p_value is None
    assert found.p_value is not None


@pytest.mark.parametrize(
    ("names", "matrix", "complaint"),
    [
        ((ONE, NUMERATOR), [[0, 0], [0, 0]], "not 0 users"),
        ((ONE, NUMERATOR), [[5, math.nan], [math.nan, 5]], "must be finite"),
        ((ONE, NUMERATOR), [[5, 1], [2, 5]], "must be symmetric"),
        ((ONE, NUMERATOR), [[5, 1, 1], [1, 5, 1]], "square matrix"),
        ((NUMERATOR, ONE), [[5, 1], [1, 5]], "moments are of 'one', 'numerator'"),
        ((ONE, NUMERATOR, "a", "a"), np.ones((4, 4)), "others once"),
    ],
)
def test_sums_that_cannot_be_are_an_error_and_not_a_number(
    names: tuple[str, ...], matrix: list[list[float]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Moments(names, np.array(matrix))


def test_nothing_to_divide_by_is_an_error_where_it_is_divided() -> None:
    nothing = Moments.of({NUMERATOR: np.ones(3), DENOMINATOR: np.zeros(3)})
    assert not nothing.has_ratio
    with pytest.raises(ValueError, match=r"needs a positive denominator, not \[0\.0, 0\.0\]"):
        compare(nothing, nothing, alpha=0.05)


def test_what_was_measured_differently_is_not_compared() -> None:
    plain, adjusted = of(np.arange(3.0)), of(np.arange(3.0), np.arange(3.0))
    with pytest.raises(ValueError, match="cannot compare"):
        compare(plain, adjusted, alpha=0.05)
    with pytest.raises(ValueError, match=r"adjusted for \['b'\]"):
        compare(adjusted, adjusted, alpha=0.05, adjust=["b"])
    with pytest.raises(ValueError, match=r"adjusted for \['numerator'\]"):
        compare(adjusted, adjusted, alpha=0.05, adjust=[NUMERATOR])
    with pytest.raises(ValueError, match="do not add up"):
        plain + adjusted
    with pytest.raises(ValueError, match="needs users"):
        sample_ratio_p_value([0, 0], [0.5, 0.5])


ARMS = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(seed=ARMS, size=st.integers(2, 60), cut=st.integers(1, 59))
def test_users_in_two_groups_add_up_to_all_of_them(seed: int, size: int, cut: int) -> None:
    cut = min(cut, size - 1)
    columns = dict(zip([NUMERATOR, DENOMINATOR, "a"], correlated(seed, size, 2), strict=True))
    parts = [
        Moments.of({k: v[part] for k, v in columns.items()}) for part in (np.s_[:cut], np.s_[cut:])
    ]
    whole = Moments.of(columns)
    assert (parts[0] + parts[1]).matrix == pytest.approx(whole.matrix, rel=1e-12)
    assert (parts[0] + parts[1]).num_users == size


@settings(max_examples=50, deadline=None)
@given(seeds=st.tuples(ARMS, ARMS), sizes=st.tuples(st.integers(5, 60), st.integers(5, 60)))
def test_the_effect_of_a_on_b_is_that_of_b_on_a_turned_round(
    seeds: tuple[int, int], sizes: tuple[int, int]
) -> None:
    a, b = (of(*correlated(*side, 2)) for side in zip(seeds, sizes, strict=True))
    there = compare(a, b, alpha=0.05, adjust="ab")
    back = compare(b, a, alpha=0.05, adjust="ab")
    assert there.effect == pytest.approx(-back.effect, rel=1e-9, abs=1e-9)
    assert there.low == pytest.approx(-(back.high or 0), rel=1e-9, abs=1e-9)
    same = ("error", "p_value", "variance_reduction")
    assert fields(there, *same) == pytest.approx(fields(back, *same), rel=1e-9)
    assert (there.control, there.treatment) == pytest.approx((back.treatment, back.control))
