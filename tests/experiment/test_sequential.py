import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, optimize, special

from lumos.experiment.sequential import (
    NEVER,
    always_valid_p,
    always_valid_reach,
    bounds,
    crossing,
    spent,
)


def planned(num_looks: int, alpha: float = 0.05) -> tuple[list[float], list[float]]:
    """Looks equally far apart, and what O'Brien and Fleming's kind has spent by each."""
    information = [float(look) for look in range(1, num_looks + 1)]
    return information, [spent(look / num_looks, alpha) for look in information]


def pocock_spent(fraction: float, alpha: float) -> float:
    return alpha * math.log(1 + (math.e - 1) * fraction)


@pytest.mark.parametrize(
    ("fractions", "printed"),
    [
        # The ldbounds vignette, cran.r-project.org/web/packages/ldbounds/vignettes/ldbounds.pdf:
        # five equal looks, two-sided .05.
        ([0.2, 0.4, 0.6, 0.8, 1], [4.877, 3.357, 2.680, 2.290, 2.031]),
        # What gsDesign's sfLDOF is cited for at .025 a side, two and three equal looks.
        ([0.5, 1], [2.963, 1.969]),
        ([1 / 3, 2 / 3, 1], [3.710, 2.511, 1.993]),
    ],
)
def test_published_bounds_of_obrien_and_flemings_kind_come_out_to_the_printed_digits(
    fractions: list[float], printed: list[float]
) -> None:
    found = bounds(fractions, [spent(fraction, 0.05) for fraction in fractions])
    assert [round(bound, 3) for bound in found] == printed


def test_published_bounds_of_pococks_kind_come_out_to_the_printed_digits() -> None:
    # What gsDesign's sfLDPocock is cited for at .025 a side, five equal looks.
    information = [0.2, 0.4, 0.6, 0.8, 1]
    found = bounds(information, [pocock_spent(fraction, 0.05) for fraction in information])
    assert found == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=1e-4)


# github.com/rpact-com/rpact, tests/testthat/test-f_design_group_sequential.R, designs x8b, x8d and
# x8e: two-sided .025 and information that does not grow evenly.
RPACT = [
    (
        [0.3, 0.8, 1],
        [0.0013603353, 0.013978861, 0.02499999],
        [3.2029374, 2.4819703, 2.3420706],
    ),
    (
        [0.3, 0.6, 0.8, 1],
        [0.0082512101, 0.015455479, 0.020598238, 0.025],
        [2.6416137, 2.6052458, 2.5902992, 2.5787648],
    ),
    (
        [0.3, 0.6, 0.8, 1],
        [0.00054745752, 0.0059439465, 0.014151805, 0.02499999],
        [3.4563925, 2.7688119, 2.5253005, 2.3512665],
    ),
]


@pytest.mark.parametrize(("information", "alpha_spent", "printed"), RPACT)
def test_rpacts_bounds_at_uneven_information_come_out_to_six_digits(
    information: list[float], alpha_spent: list[float], printed: list[float]
) -> None:
    assert bounds(information, alpha_spent) == pytest.approx(printed, abs=2e-6)
    assert np.cumsum(crossing(information, printed)) == pytest.approx(alpha_spent, abs=5e-8)


@pytest.mark.parametrize(
    ("design", "power"),
    [
        (RPACT[1], [0.27985915, 0.63939135, 0.80444921, 0.9]),
        (RPACT[2], [0.067932398, 0.50628745, 0.76237915, 0.9]),
    ],
)
def test_rpacts_power_comes_out_look_by_look(
    design: tuple[list[float], list[float], list[float]], power: list[float]
) -> None:
    information, _, limits = design

    def missing(drift: float) -> float:
        return sum(crossing(information, limits, drift)) - power[-1]

    drift = optimize.brentq(missing, 1.0, 10.0)
    assert np.cumsum(crossing(information, limits, drift)) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize(
    ("num_looks", "pocock", "obrien_fleming"),
    # Jennison and Turnbull (2000), tables 2.1 and 2.3, two-sided .05.
    [(2, 2.178, 1.977), (3, 2.289, 2.004), (5, 2.413, 2.040), (10, 2.555, 2.087)],
)
def test_jennison_and_turnbulls_constants_are_crossed_with_probability_5_percent(
    num_looks: int, pocock: float, obrien_fleming: float
) -> None:
    looks = [float(look) for look in range(1, num_looks + 1)]
    assert sum(crossing(looks, [pocock] * num_looks)) == pytest.approx(0.05, abs=1e-4)
    falling = [obrien_fleming * math.sqrt(num_looks / look) for look in looks]
    assert sum(crossing(looks, falling)) == pytest.approx(0.05, abs=1e-4)


def test_looking_every_day_at_196_finds_an_effect_as_often_as_is_published() -> None:
    # Armitage, McPherson, Rowe (1969), table 2: .142 for five looks, .193 for ten.
    for num_looks, printed in [(1, 0.05), (2, 0.083), (5, 0.142), (10, 0.193), (20, 0.248)]:
        looks = [float(look) for look in range(1, num_looks + 1)]
        assert sum(crossing(looks, [1.96] * num_looks)) == pytest.approx(printed, abs=6e-4)


def test_one_look_is_the_plain_test() -> None:
    assert bounds([7.0], [0.05]) == pytest.approx([special.ndtri(0.975)], abs=1e-9)
    power = special.ndtr(3 - 1.96) + special.ndtr(-3 - 1.96)
    assert crossing([4.0], [1.96], drift=1.5) == pytest.approx([power], abs=1e-12)


def test_two_looks_agree_with_a_direct_integration() -> None:
    first, drift, edge = 2.5, 0.7, 2.1 * math.sqrt(3)

    def crosses_next(score: float) -> float:
        centre = score + 2 * drift
        outside = special.ndtr((centre - edge) / math.sqrt(2))
        outside += special.ndtr((-centre - edge) / math.sqrt(2))
        return float(outside) * math.exp(-0.5 * (score - drift) ** 2) / math.sqrt(2 * math.pi)

    expected, _ = integrate.quad(crosses_next, -first, first)
    found = crossing([1.0, 3.0], [first, 2.1], drift)[1]
    assert found == pytest.approx(expected, abs=1e-9)


def test_alpha_is_spent_late_and_whole_at_the_end() -> None:
    assert spent(1.0, 0.05) == pytest.approx(0.05)
    assert spent(1.3, 0.05) == spent(1.0, 0.05)
    # Lan and DeMets (1983): half of the plan has spent .0031 of .05.
    assert spent(0.5, 0.05) == pytest.approx(0.0031, abs=5e-5)


GROWTH = st.lists(st.floats(0.01, 3.0), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(growth=GROWTH, alpha=st.floats(0.001, 0.3), fraction=st.floats(0.2, 1.0))
def test_bounds_spend_exactly_what_they_are_given(
    growth: list[float], alpha: float, fraction: float
) -> None:
    information = list(itertools.accumulate(growth, lambda total, more: total * (1 + more)))
    times = np.linspace(fraction / len(growth), fraction, len(growth))
    alpha_spent = [spent(time, alpha) for time in times]
    chances = crossing(information, bounds(information, alpha_spent))
    assert np.cumsum(chances) == pytest.approx(alpha_spent, rel=1e-7, abs=1e-13)


def test_what_later_looks_know_never_changes_an_earlier_bound() -> None:
    information, alpha_spent = planned(10)
    whole = bounds(information, alpha_spent)
    for look in range(1, 11):
        assert bounds(information[:look], alpha_spent[:look]) == pytest.approx(
            whole[:look], abs=1e-8
        )


def test_bounds_do_not_depend_on_the_unit_of_information() -> None:
    information, alpha_spent = planned(6)
    scaled = bounds([1e-9 * now for now in information], alpha_spent)
    assert scaled == pytest.approx(bounds(information, alpha_spent), abs=1e-9)


def test_information_that_falls_keeps_past_bounds_and_narrows_none() -> None:
    information, alpha_spent = planned(8)
    expected = bounds(information, alpha_spent)
    # The fifth day's late data cost a third of the information; on the sixth it is back.
    fallen = [*information[:4], information[3] * 2 / 3, *information[5:]]
    found = bounds(fallen, alpha_spent)
    assert found[:4] == expected[:4]
    smooth = bounds([*information[:4], information[3] * 1.002, *information[5:]], alpha_spent)
    assert all(b >= a - 1e-9 for a, b in zip(smooth[4:], found[4:], strict=True))


@pytest.mark.parametrize(("look", "left"), [(5, 0.5), (10, 0.5), (15, 0.7), (18, 0.7)])
def test_information_that_falls_for_good_costs_a_tenth_of_alpha_at_worst(
    look: int, left: float
) -> None:
    information, alpha_spent = planned(18)
    claimed = [*information[: look - 1], *(now * left for now in information[look - 1 :])]
    found = bounds(claimed, alpha_spent)
    assert found[: look - 1] == bounds(information, alpha_spent)[: look - 1]
    assert 0.049 < sum(crossing(information, found)) < 0.055


def test_looks_without_new_information_still_hold_alpha() -> None:
    information, alpha_spent = [1.0] * 12, planned(12)[1]
    found = bounds(information, alpha_spent)
    # One look seen twelve times is one look: nothing but its last bound matters.
    assert found[-1] == pytest.approx(special.ndtri(0.975), abs=0.05)
    assert sum(crossing(information, found)) == pytest.approx(0.05, abs=1e-7)


def test_a_look_that_is_given_nothing_never_stops() -> None:
    found = bounds([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.02, 0.02])
    assert found[:2] == [NEVER, NEVER]
    assert found[3] == NEVER
    assert bounds([1.0, 100.0], [spent(0.01, 0.05), 0.05]) == pytest.approx([NEVER, 1.96], abs=1e-3)
    never = crossing([1.0, 2.0, 3.0], [math.inf, math.inf, found[2]], drift=3.0)
    assert never[:2] == [0, 0]
    z = 3.0 * math.sqrt(3)
    assert never[2] == pytest.approx(special.ndtr(z - found[2]), abs=1e-7)


def test_what_makes_no_plan_is_an_error() -> None:
    with pytest.raises(ValueError, match="alpha spent grows"):
        bounds([1.0, 2.0], [0.02, 0.01])
    with pytest.raises(ValueError, match="alpha spent grows"):
        bounds([1.0], [1.5])
    with pytest.raises(ValueError, match="alpha spent grows"):
        bounds([1.0], [math.nan])
    with pytest.raises(ValueError, match="positive information"):
        bounds([1.0, 0.0], [0.01, 0.02])
    with pytest.raises(ValueError, match="positive information"):
        crossing([math.nan], [2.0])
    with pytest.raises(ValueError, match="once time has passed"):
        spent(0.0, 0.05)
    with pytest.raises(ValueError, match="positive error and tau"):
        always_valid_p(1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="positive error and tau"):
        always_valid_reach(1.0, 0.05, 0.0)


def test_growthbooks_sequential_interval_comes_out_to_the_printed_digits() -> None:
    # github.com/growthbook/growthbook, packages/stats/tests/frequentist/test_tests.py:
    # test_sequential_test_runs. Its rho is for a thousand users, by eq. 161 of Waudby-Smith et
    # al. (2023), arxiv.org/abs/2103.06476: tau is rho standard deviations of one user.
    a, b = (1396.87, 52377.9767, 3000), (2422.7, 134698.29, 3461)
    (mean_a, of_a), (mean_b, of_b) = (
        (total / n, (squares / n - (total / n) ** 2) / (n - 1)) for total, squares, n in (a, b)
    )
    relative = mean_b / mean_a - 1
    error = math.sqrt(of_b + (mean_b / mean_a) ** 2 * of_a) / mean_a
    rho = math.sqrt((-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 1000)
    tau = rho * error * math.sqrt(3000 + 3461)
    reach = always_valid_reach(error, 0.05, tau)
    assert round(error, 5) == 0.33341
    assert (round(relative - reach, 5), round(relative + reach, 5)) == (-0.55844, 1.56516)
    assert always_valid_p(relative, error, tau) == 1


@settings(max_examples=100, deadline=None)
@given(
    error=st.floats(1e-3, 1e3),
    tau=st.floats(1e-3, 1e3),
    alpha=st.floats(1e-6, 0.5),
    nearer=st.floats(1e-6, 0.5),
)
def test_always_valid_p_is_below_alpha_where_the_interval_excludes_zero(
    error: float, tau: float, alpha: float, nearer: float
) -> None:
    reach = always_valid_reach(error, alpha, tau)
    assert always_valid_p(reach, error, tau) == pytest.approx(alpha, rel=1e-6)
    assert always_valid_p(-reach * (1 + nearer), error, tau) < alpha
    assert always_valid_p(reach * (1 - nearer), error, tau) > alpha


def null_walks(num_walks: int, num_looks: int) -> NDArray[np.float64]:
    """Effects of nothing, looked at every day; variance one a day."""
    random = np.random.default_rng(20171121)
    steps = random.normal(size=(num_walks, num_looks))
    return np.cumsum(steps, axis=1) / np.arange(1, num_looks + 1)


def test_of_18_looks_at_nothing_5_percent_find_something_unless_they_are_taken_as_one() -> None:
    """20,000 walks; .046 to .054 holds 99% of the binomial around .05."""
    effects = null_walks(20_000, 18)
    information, alpha_spent = planned(18)
    z = abs(effects) * np.sqrt(information)
    assert 0.046 <= (z > bounds(information, alpha_spent)).any(axis=1).mean() <= 0.054
    errors = 1 / np.sqrt(information)
    reach = np.array([always_valid_reach(error, 0.05, 0.5) for error in errors])
    assert 0.005 < (abs(effects) > reach).any(axis=1).mean() <= 0.054
    assert (z > special.ndtri(0.975)).any(axis=1).mean() > 0.2


def test_an_effect_is_found_as_often_as_crossing_says() -> None:
    """20,000 walks; the 99% range of the binomial is .009 to either side."""
    information, alpha_spent = planned(18)
    limits = bounds(information, alpha_spent)
    effects = null_walks(20_000, 18) + 0.65
    found = (abs(effects) * np.sqrt(information) > limits).any(axis=1).mean()
    assert found == pytest.approx(sum(crossing(information, limits, 0.65)), abs=0.009)
