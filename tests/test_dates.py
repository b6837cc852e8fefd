"""Business dates are read in one way, and origins never share a label."""

import datetime as dt
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.dates import (
    EPOCH,
    day_number,
    first_of_window,
    from_day_number,
    parse_date,
    split_origins,
)

TODAY = dt.date(2024, 5, 10)
DAYS = st.dates(dt.date(1970, 1, 1), dt.date(2059, 9, 18))


@given(DAYS)
def test_a_day_written_as_iso_is_read_back(day):
    assert parse_date(day.isoformat(), today=dt.date(2060, 1, 1)) == day


@pytest.mark.parametrize(
    "text",
    [
        "2017-13-01",
        "2017-02-29",
        "2017-1-5",
        "20171210",
        "2017-W49-7",
        " 2017-12-10",
        "2017-12-10\n",
        "2017-12-10T00:00",
        "10.12.2017",
        "\u0662\u0660\u0661\u0667-12-10",
        "yesterday",
        "",
    ],
)
def test_a_malformed_date_is_refused_with_the_form_that_is_expected(text):
    with pytest.raises(ValueError, match="written as YYYY-MM-DD, such as 2017-12-10"):
        parse_date(text, today=TODAY)


def test_today_can_be_a_business_date_and_tomorrow_cannot():
    assert parse_date("2024-05-10", today=TODAY) == TODAY
    with pytest.raises(ValueError, match=r"2024-05-11 lies in the future \(today is 2024-05-10\)"):
        parse_date("2024-05-11", today=TODAY)


@pytest.mark.parametrize("text", ["0001-01-01", "0217-12-10", "1969-12-31"])
def test_a_date_before_days_are_counted_is_refused(text):
    with pytest.raises(ValueError, match="lies before 1970-01-01"):
        parse_date(text, today=TODAY)


@given(DAYS)
def test_every_day_fits_an_int16_and_comes_back(day):
    assert -(2**15) <= day_number(day) < 2**15
    assert from_day_number(day_number(day)) == day


def test_day_zero_is_the_epoch():
    assert day_number(EPOCH) == 0


@given(DAYS, st.integers(1, 5000))
def test_a_window_has_as_many_days_as_were_asked_for(last, num_days):
    first = first_of_window(last, num_days)
    assert (last - first).days + 1 == num_days


@given(
    as_of=st.dates(dt.date(2000, 1, 1), dt.date(2050, 1, 1)),
    horizon=st.integers(1, 60),
    num_origins=st.integers(1, 20),
    between=st.integers(1, 60),
)
def test_training_and_evaluation_share_no_label_and_all_labels_have_matured(
    as_of, horizon, num_origins, between
):
    last_training, origins = split_origins(
        as_of, horizon_days=horizon, num_origins=num_origins, days_between=between
    )

    def labels(origin):
        return {origin + dt.timedelta(days=n) for n in range(1, horizon + 1)}

    evaluated = set().union(*map(labels, origins))
    assert len(origins) == num_origins
    assert all(
        later - earlier == dt.timedelta(days=between) for earlier, later in pairwise(origins)
    )
    assert not labels(last_training) & evaluated
    assert max(labels(last_training)) <= origins[0]
    assert max(evaluated) == as_of
