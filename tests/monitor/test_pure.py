"""Histograms, drift and limits, which know no table."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.monitor import MONITORS, runbook_link
from lumos.monitor.drift import distance, psi, stability
from lumos.monitor.histograms import MISSING, bins, count, least_of, merged
from lumos.monitor.history import FEWEST_DAYS, Limits, Usual, usual

NUMBERS = st.one_of(st.floats(-1e12, 1e12), st.sampled_from([0.0, np.nan, np.inf]))
SOME = st.lists(NUMBERS, min_size=1, max_size=60).map(np.array)
COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)
DAY = dt.date(2024, 5, 10)
ORDER = ("ok", "warning", "critical")


@given(SOME, SOME)
def test_histograms_of_parts_add_up_to_that_of_the_whole(one, other):
    assert merged([count(one), count(other)]) == count(np.concatenate([one, other]))
    assert sum(count(one).values()) == len(one)


@given(st.floats(1e-3, 1e14), st.floats(1e-3, 1e14))
def test_bins_keep_the_order_of_values_and_begin_where_they_say(one, other):
    low, high = sorted((one, other))
    numbers = bins(np.array([-high, -low, 0.0, low, high, np.nan]))
    assert list(numbers) == sorted(numbers)
    assert numbers[-1] == MISSING
    assert least_of(int(numbers[3])) <= low * (1 + 1e-9)
    assert least_of(int(numbers[3]) + 1) > low * (1 - 1e-9)


def test_a_doubled_column_moves_by_four_bins():
    values = np.array([0.5, 3.0, 1e6])
    assert list(bins(2 * values) - bins(values)) == [4, 4, 4]


@given(COUNTS)
def test_the_stability_index_of_equals_is_zero(counts):
    assert psi(counts, counts) == pytest.approx(0, abs=1e-12)


@given(st.integers(2, 9).flatmap(lambda k: st.tuples(*[st.lists(
    st.integers(0, 1000), min_size=k, max_size=k)] * 2)))  # fmt: skip
def test_the_stability_index_is_symmetric_and_never_negative(pair):
    one, other = pair
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, other) >= 0


@given(SOME, SOME)
def test_the_distance_lies_between_0_and_1_and_is_symmetric(one, other):
    found = distance(count(one), count(other))
    assert 0 <= found <= 1
    assert found == pytest.approx(distance(count(other), count(one)))
    assert distance(count(one), count(one)) == 0


def test_distributions_without_a_common_value_are_as_far_apart_as_can_be():
    assert distance(count(np.ones(5)), count(np.full(9, 100.0))) == 1
    assert stability(count(np.full(900, 1e6)), count(np.ones(900))) > 1


@given(SOME)
def test_an_empty_day_has_no_drift_rather_than_none(values):
    for measure in (stability, distance):
        assert measure({}, count(values)) is None
        assert measure(count(values), {}) is None


def test_a_few_missing_values_count_as_drift_where_there_were_none():
    whole = np.arange(1.0, 1001.0)
    assert stability(count(np.where(whole > 950, np.nan, whole)), count(whole)) > 0.1


def test_missing_values_count_as_drift():
    whole = np.arange(1.0, 101.0)
    holed = np.where(np.arange(100) % 2 == 0, np.nan, whole)
    assert stability(count(holed), count(whole)) > 0.25
    assert distance(count(holed), count(whole)) == pytest.approx(0.5)


@given(
    centre=st.floats(-100, 100),
    spread=st.floats(0, 10),
    values=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
    side=st.sampled_from(["both", "above", "below"]),
)
def test_a_value_further_out_never_gets_a_milder_verdict(centre, spread, values, side):
    limits, known = Limits(0.5, 1.0, side), Usual(centre, spread, 30)
    away = [abs(v - centre) if side == "both" else v - centre for v in values]
    if side == "below":
        away = [-each for each in away]
    near, far = (v for _, v in sorted(zip(away, values, strict=True)))
    found = [ORDER.index(known.verdict(v, limits)) for v in (near, far)]
    assert found == sorted(found)
    assert known.verdict(centre, limits) == "ok"


@given(st.floats(0, 5), st.floats(0, 5))
def test_limits_widen_with_the_spread_and_never_below_what_matters(one, other):
    low, high = sorted((one, other))
    limits = Limits(0.5, 1.0)
    narrow, wide = (Usual(0.0, spread, 30).allowed(limits) for spread in (low, high))
    assert all(a <= b for a, b in zip(narrow, wide, strict=True))
    assert narrow[0] >= 0.5
    assert narrow[1] >= max(1.0, narrow[0])


@given(st.integers(0, FEWEST_DAYS - 1))
def test_a_short_history_tells_nothing(num_days):
    history = {DAY - dt.timedelta(days=n + 1): 1.0 for n in range(num_days)}
    assert usual(history, DAY) is None


def test_days_from_the_date_on_are_not_looked_at():
    past = {DAY - dt.timedelta(days=n + 1): float(n % 3) for n in range(40)}
    ahead = {DAY + dt.timedelta(days=n): 1e6 for n in range(40)}
    assert usual(past | ahead, DAY) == usual(past, DAY)


def test_a_weekend_is_compared_with_weekends():
    past = {
        day: 100.0 if day.weekday() >= 5 else 10.0
        for day in (DAY - dt.timedelta(days=n + 1) for n in range(56))
    }
    saturday, friday = DAY + dt.timedelta(days=1), DAY
    assert usual(past, friday) == Usual(10.0, 0.0, 56)
    assert usual(past, saturday).centre == 100.0


def test_one_burst_among_the_days_before_hides_no_fault():
    past = {DAY - dt.timedelta(days=n + 1): 1.0 + 0.01 * (n % 5) for n in range(56)}
    past[DAY - dt.timedelta(days=20)] = 3.0
    assert usual(past, DAY).verdict(2.5, Limits(0.1, 0.5)) == "critical"


def test_every_monitor_has_a_place_in_the_runbook():
    assert runbook_link("drift_psi") == "/lumos/runbook#monitor-drift-psi"
    assert len({runbook_link(name) for name in MONITORS}) == len(MONITORS)
    with pytest.raises(ValueError, match="no monitor is named"):
        runbook_link("mood")
