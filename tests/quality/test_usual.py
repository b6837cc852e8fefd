"""A day is compared with its usual days: what differs is said, what always varied is not."""

import datetime as dt
import random

import pytest

from lumos.quality.usual import Day, against_usual_days
from tests.quality.conftest import DATE, GYM


def quiet_day(number, *, num_rows=100, minutes=60.0):
    wave = random.Random(number).uniform(-3, 3)
    return Day(
        num_rows=num_rows + int(wave),
        num_raw_rows=num_rows * 2,
        num_active=num_rows,
        means={"took_class": 0.3 + wave / 100, "minutes": minutes + wave, "spend": 9 + wave},
    )


def history(num_days=29, **last):
    days = {DATE - dt.timedelta(days=n): quiet_day(n) for n in range(1, num_days)}
    return days | {DATE: quiet_day(0, **last)}


def complaints(profile):
    found = against_usual_days(profile, GYM, DATE)
    return {
        (number.check.name, number.check.column): number.check.fault
        for number in found
        if not number.check.arguments["min_value"]
        <= number.value
        <= number.check.arguments["max_value"]
    }


def test_a_usual_day_raises_no_complaint():
    assert complaints(history()) == {}


@pytest.mark.parametrize(
    ("num_rows", "said"), [(20, "80% below the median"), (200, "100% above the median")]
)
def test_another_volume_is_said_with_the_usual_one(num_rows, said):
    profile = history()
    profile[DATE] = Day(num_rows, num_rows, 100, profile[DATE].means)
    (message,) = complaints(profile).values()
    assert message.startswith(f"activity 2024-05-10: {num_rows} rows, {said} of 28 usual days")
    assert "60% is allowed" in message


@pytest.mark.parametrize("minutes", [20.0, 120.0])
def test_another_mean_is_said_with_the_usual_one(minutes):
    ((key, message),) = complaints(history(minutes=minutes)).items()
    assert key == ("mean", "minutes")
    assert "the mean of minutes over active rows is" in message
    assert "on 28 usual days" in message


def test_a_mean_that_always_jumps_is_let_jump():
    profile = history()
    for number, day in enumerate(sorted(profile)):
        means = {**profile[day].means, "spend": 100.0 * (number % 7 == 0)}
        profile[day] = Day(100, 200, 100, means)
    assert complaints(profile) == {}


def test_a_mean_of_few_rows_is_let_stray_further():
    profile = history(minutes=76.0)
    assert ("mean", "minutes") in complaints(profile)
    thin = profile[DATE]
    profile[DATE] = Day(50, 60, 4, thin.means)
    assert ("mean", "minutes") not in complaints(profile)


def test_a_day_without_a_row_and_a_gap_before_it_are_said():
    profile = history()
    del profile[DATE], profile[DATE - dt.timedelta(days=5)]
    found = complaints(profile)
    assert "the newest day with a row is 2024-05-09" in found["freshness", ""]
    assert "no row at all on 2024-05-05" in found["empty_days", ""]


def test_nothing_at_all_is_said_and_not_a_crash():
    assert "none at all" in complaints({})["freshness", ""]


def test_days_before_the_first_one_are_no_gap():
    assert complaints(history(num_days=10)) == {}


def test_too_few_usual_days_make_no_rule():
    profile = history(num_days=6, num_rows=1, minutes=999.0)
    names = {number.check.name for number in against_usual_days(profile, GYM, DATE)}
    assert names == {"freshness", "empty_days"}


def test_only_days_before_the_date_count_as_usual():
    profile = history()
    profile[DATE + dt.timedelta(days=1)] = quiet_day(1, num_rows=100_000)
    assert complaints(profile) == {}
