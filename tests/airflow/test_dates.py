import datetime as dt

import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.base import DataInterval, TimeRestriction
from lumos_airflow.dates import business_date
from lumos_airflow.timetables import DAILY, WEEKLY, WholeDays, every
from pendulum import DateTime, datetime, instance

from benchmarks.clock import violations

UTC_DAY = dt.date(2017, 12, 10)


def context(start: dt.datetime | None, given: str | None = None) -> dict:
    return {"params": {"business_date": given}, "data_interval_start": start}


def timetable(*, is_automatic: bool = True) -> WholeDays:
    return WholeDays(DAILY, delay_hours=6, is_automatic=is_automatic)


def backfilled(first: DateTime, last: DateTime, table: WholeDays) -> list[DataInterval]:
    """What Airflow's backfill asks of a timetable between two dates."""
    found: list[DataInterval] = []
    previous = None
    while info := table.next_dagrun_info(
        last_automated_data_interval=previous, restriction=TimeRestriction(first, last, True)
    ):
        previous = info.data_interval
        found.append(previous)
    return found


def test_a_scheduled_run_works_on_the_day_on_which_its_interval_starts():
    now = dt.datetime.now(dt.UTC)
    info = timetable().next_dagrun_info(
        last_automated_data_interval=None,
        restriction=TimeRestriction(datetime(2000, 1, 1), None, False),
    )
    assert info is not None
    day = business_date(context(info.data_interval.start))
    assert info.run_after - info.data_interval.end == dt.timedelta(hours=6)
    assert day == (now - dt.timedelta(days=1, hours=6)).date()


@pytest.mark.parametrize(
    ("zone", "day", "starts"),
    [
        ("Pacific/Pago_Pago", "2023-12-31", "2024-01-01 13:00"),
        ("America/New_York", "2024-03-09", "2024-03-10 07:00"),
        ("America/New_York", "2024-03-10", "2024-03-11 06:00"),  # a day of 23 hours
        ("America/New_York", "2024-11-03", "2024-11-04 07:00"),  # and one of 25
        ("America/Santiago", "2024-09-07", "2024-09-08 06:00"),  # whose next one starts at 01:00
        ("UTC", "2024-02-29", "2024-03-01 02:00"),
        ("Pacific/Kiritimati", "2024-02-28", "2024-02-28 12:00"),  # before the day is over in UTC
    ],
)
def test_runs_start_some_hours_after_the_day_is_over_in_the_zone(zone, day, starts):
    table = WholeDays(DAILY, delay_hours=2, is_automatic=True, zone=zone)
    first = instance(dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC))
    info = table.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(first, None, True)
    )
    assert info is not None
    assert business_date(context(info.data_interval.start)) == dt.date.fromisoformat(day)
    assert f"{info.run_after:%Y-%m-%d %H:%M}" == starts
    # A click a second before the day is over there gets the day before.
    over = info.run_after - dt.timedelta(hours=2)
    clicked = [
        table.infer_manual_data_interval(run_after=over - dt.timedelta(seconds=before)).start
        for before in (0, 1)
    ]
    assert clicked == [first, first - dt.timedelta(days=1)]


@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("America/New_York", dt.date(2024, 3, 6)),  # to summer time, on the 10th
        ("America/Santiago", dt.date(2024, 4, 3)),  # to winter time, at midnight
        ("Pacific/Kiritimati", dt.date(2024, 2, 25)),  # a leap day
    ],
)
def test_hourly_ticks_of_a_scheduler_start_every_day_once_and_after_its_end(
    zone, first, tmp_path, monkeypatch
):
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    found, runs = violations(zone, first, days=4)
    assert (found, runs) == ([], 5)


def test_a_run_triggered_by_hand_works_on_the_last_day_that_ended_before():
    interval = timetable().infer_manual_data_interval(run_after=datetime(2017, 12, 11, 9, 30))
    assert business_date(context(interval.start)) == UTC_DAY


def test_a_backfill_runs_every_day_of_its_range_the_last_one_too():
    intervals = backfilled(datetime(2017, 12, 10), datetime(2017, 12, 12), timetable())
    days = [business_date(context(interval.start)) for interval in intervals]
    assert days == [UTC_DAY, dt.date(2017, 12, 11), dt.date(2017, 12, 12)]


def test_switched_off_the_scheduler_starts_nothing_but_a_backfill_still_works():
    table = timetable(is_automatic=False)
    restriction = TimeRestriction(datetime(2000, 1, 1), None, False)
    assert (
        table.next_dagrun_info(last_automated_data_interval=None, restriction=restriction) is None
    )
    assert len(backfilled(datetime(2017, 12, 10), datetime(2017, 12, 11), table)) == 2


def test_a_timetable_survives_being_stored_by_airflow():
    table = WholeDays(WEEKLY, delay_hours=8, is_automatic=False, zone="Asia/Kolkata")
    again = WholeDays.deserialize(table.serialize())
    assert again.serialize() == table.serialize()
    assert again == table


def test_a_timetable_that_a_version_without_zones_stored_is_read_as_of_utc():
    old = {"cron": DAILY, "delay_hours": 2.0, "is_automatic": True}
    assert WholeDays.deserialize(old).serialize() == {**old, "zone": "UTC"}


def test_an_unknown_schedule_switch_says_its_choices(monkeypatch):
    monkeypatch.setenv("LUMOS_SCHEDULE", "sometimes")
    with pytest.raises(ValueError, match="'sometimes' is neither 'on' nor 'off'"):
        every(DAILY)


def test_the_parameter_wins_over_the_interval():
    start = dt.datetime(2017, 12, 1, tzinfo=dt.UTC)
    assert business_date(context(start, "2017-12-10")) == UTC_DAY


def test_an_interval_given_in_another_zone_is_read_in_utc():
    india = dt.timezone(dt.timedelta(hours=5, minutes=30))
    assert business_date(context(dt.datetime(2017, 12, 11, 3, tzinfo=india))) == UTC_DAY


def test_a_run_with_neither_says_what_to_give():
    with pytest.raises(AirflowFailException, match="with the parameter business_date"):
        business_date(context(None))


def test_a_parameter_that_is_no_day_is_named():
    with pytest.raises(AirflowFailException, match="'2017-13-01' is not a day"):
        business_date(context(None, "2017-13-01"))


def test_runs_start_when_the_environment_says_so(monkeypatch):
    for name in ("LUMOS_START_HOURS", "LUMOS_TIMEZONE"):
        monkeypatch.delenv(name, raising=False)
    assert every(DAILY).zone == "UTC"
    assert (every(DAILY).delay_hours, every(WEEKLY, later_hours=2).delay_hours) == (2, 4)
    monkeypatch.setenv("LUMOS_START_HOURS", "3.5")
    assert every(DAILY).delay_hours == 3.5
    for wrong in ("noon", "-1", "24", "nan"):
        monkeypatch.setenv("LUMOS_START_HOURS", wrong)
        with pytest.raises(ValueError, match="LUMOS_START_HOURS"):
            every(DAILY)
