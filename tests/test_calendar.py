"""The calendar is right on any day, for any stretch of days, and the same however it is cut."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.calendar import CALENDAR_COLUMNS, calendar_columns, has_holidays

DAYS = st.dates(dt.date(1970, 1, 1), dt.date(2059, 9, 18))
WEEKDAYS = CALENDAR_COLUMNS[:7]


def columns(first, num_days, names=CALENDAR_COLUMNS, country="US"):
    values = calendar_columns(names, first, num_days, country)
    return dict(zip(names, values.T, strict=True))


@given(first=DAYS, num_days=st.integers(0, 40), country=st.sampled_from(["US", "IN", None]))
def test_every_value_is_a_number_between_minus_one_and_one(first, num_days, country):
    values = calendar_columns(CALENDAR_COLUMNS, first, num_days, country)
    assert values.shape == (num_days, len(CALENDAR_COLUMNS))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert (np.abs(values) <= 1).all()


@given(first=DAYS, num_days=st.integers(1, 40))
def test_each_day_has_its_own_weekday_and_no_other(first, num_days):
    values = calendar_columns(WEEKDAYS, first, num_days, None)
    expected = [(first + dt.timedelta(days=n)).weekday() for n in range(num_days)]
    assert values.sum(axis=1).tolist() == [1.0] * num_days
    assert values.argmax(axis=1).tolist() == expected


@given(first=DAYS, num_days=st.integers(2, 40), data=st.data())
def test_a_stretch_of_days_is_the_same_in_one_piece_or_in_two(first, num_days, data):
    cut = data.draw(st.integers(1, num_days - 1))
    whole = calendar_columns(CALENDAR_COLUMNS, first, num_days, "US")
    parts = [
        calendar_columns(CALENDAR_COLUMNS, first, cut, "US"),
        calendar_columns(CALENDAR_COLUMNS, first + dt.timedelta(days=cut), num_days - cut, "US"),
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@given(names=st.lists(st.sampled_from(CALENDAR_COLUMNS), unique=True))
def test_columns_come_in_the_order_asked_for(names):
    first = dt.date(2024, 2, 26)
    asked = calendar_columns(tuple(names), first, 5, "US")
    everything = columns(first, 5)
    assert asked.shape == (5, len(names))
    for index, name in enumerate(names):
        np.testing.assert_array_equal(asked[:, index], everything[name])


def test_a_holiday_is_announced_a_week_ahead_and_across_the_year():
    found = columns(dt.date(2017, 12, 17), 16)
    assert found["holiday"].nonzero()[0].tolist() == [8, 15]  # 25 December, 1 January
    soon = found["holiday_soon"]
    assert soon[1] == 0
    assert soon[8] == soon[15] == 1
    assert (np.diff(soon[1:9]) > 0).all()


def test_months_have_a_start_and_an_end():
    found = columns(dt.date(2024, 2, 25), 8)
    assert found["month_end"].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]  # 27, 28, 29 February
    assert found["month_start"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_without_a_country_no_day_is_a_holiday():
    found = columns(dt.date(2017, 12, 17), 16, country=None)
    assert not found["holiday"].any()
    assert not found["holiday_soon"].any()


@pytest.mark.parametrize(
    ("country", "known"), [("US", True), ("IN", True), ("XX", False), ("", False)]
)
def test_a_country_is_known_by_its_code(country, known):
    assert has_holidays(country) is known
