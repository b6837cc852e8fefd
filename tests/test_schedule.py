"""Business days end, runs start, and scores are due and expire by the clocks of a zone."""

import datetime as dt
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.schedule import Schedule, at_clock, end_of, today_in, unfinished

ZONES = (
    "Pacific/Pago_Pago",
    "America/New_York",
    "America/Havana",  # clocks change at midnight: one day starts at 01:00, one has two midnights
    "UTC",
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Kiritimati",
)
DAY, SECOND = dt.timedelta(days=1), dt.timedelta(seconds=1)
days = st.dates(dt.date(2000, 1, 1), dt.date(2037, 12, 31))


@given(days, st.sampled_from(ZONES))
def test_a_day_is_over_when_no_clock_of_its_zone_shows_it_any_more(day, zone):
    end = end_of(day, zone)
    assert today_in(zone, end) > day
    assert today_in(zone, end - SECOND) == day
    assert unfinished(day, zone, end - SECOND).startswith(f"{day} is not over in {zone}")
    assert not unfinished(day, zone, end)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", "2024-03-10", 23),
        ("America/New_York", "2024-11-03", 25),
        ("America/Havana", "2024-03-10", 23),
        ("Australia/Lord_Howe", "2024-04-07", 24.5),
        ("UTC", "2024-02-29", 24),
        # Samoa had no such day.
        ("Pacific/Apia", "2011-12-30", 0),
    ],
)
def test_a_day_lasts_as_long_as_its_clocks_say(zone, day, hours):
    last = dt.date.fromisoformat(day)
    assert end_of(last, zone) - end_of(last - DAY, zone) == dt.timedelta(hours=hours)


@given(days, st.sampled_from(ZONES), st.floats(0, 23.9), st.times())
def test_runs_start_after_their_day_and_scores_outlive_the_wait_for_the_next(
    day, zone, hours, clock
):
    schedule = Schedule(zone=zone, start_hours=hours, scores_by=clock.replace(tzinfo=None))
    assert schedule.start(day) >= end_of(day, zone)
    assert schedule.due(day) >= end_of(day, zone)
    assert end_of(day + 2 * DAY, zone) >= schedule.due(day + DAY)


@given(days, st.times(), st.sampled_from(ZONES))
def test_the_newest_day_that_is_due_is_the_last_one_before_the_moment(day, time, zone):
    now, schedule = dt.datetime.combine(day, time, dt.UTC), Schedule(zone=zone)
    newest = schedule.newest_due(now)
    assert schedule.due(newest) <= now < schedule.due(newest + DAY)


@pytest.mark.parametrize("zone", ZONES)
def test_a_deployment_in_the_zone_of_its_recipe_has_no_conflict_and_no_day_is_skipped(zone):
    schedule = Schedule(zone=zone)
    assert schedule.conflicts(dt.date(2024, 1, 1), zone, valid_days=2) == []
    starts = [schedule.start(dt.date(2024, 1, 1) + n * DAY) for n in range(400)]
    assert all(dt.timedelta(hours=22) < b - a < dt.timedelta(hours=26) for a, b in pairwise(starts))


def test_a_schedule_that_a_recipe_cannot_follow_is_named_with_its_remedy():
    first, new_york = dt.date(2024, 1, 1), "America/New_York"
    (early,) = Schedule().conflicts(first, new_york, valid_days=2)
    assert "3 h before that day is over in America/New_York" in early
    assert "LUMOS_START_HOURS to 5 or more" in early
    assert Schedule(start_hours=5).conflicts(first, new_york, valid_days=2) == []
    # A winter's day alone would say four hours: summer time hides the worst.
    (early,) = Schedule(start_hours=4).conflicts(dt.date(2024, 6, 1), new_york, valid_days=2)
    assert "1 h before" in early
    (late,) = Schedule(start_hours=6).conflicts(first, "UTC", valid_days=2)
    assert "due before their runs start" in late
    (gap,) = Schedule().conflicts(first, "UTC", valid_days=1)
    assert "scores of 2024-01-01 would expire before those of the next day are due" in gap
    assert "publishing.valid_days to 2" in gap


def test_a_time_that_is_skipped_is_an_hour_later_and_one_that_comes_twice_is_the_first():
    berlin = ZoneInfo("Europe/Berlin")
    skipped = at_clock(dt.date(2024, 3, 31), dt.time(2, 30), "Europe/Berlin")
    assert f"{skipped.astimezone(berlin):%H:%M}" == "03:30"
    twice = at_clock(dt.date(2024, 10, 27), dt.time(2, 30), "Europe/Berlin")
    assert twice == dt.datetime(2024, 10, 27, 0, 30, tzinfo=dt.UTC)
