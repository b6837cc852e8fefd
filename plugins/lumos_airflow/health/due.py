"""When scores of a business date should be there, as ``LUMOS_SCORES_BY`` says."""

import datetime as dt

from lumos.schedule import Schedule


def due(date: dt.date) -> dt.datetime:
    """``LUMOS_SCORES_BY`` (HH:MM in ``LUMOS_TIMEZONE``) on the day after the date.

    Raises:
        ValueError: A variable of the schedule is wrong.
    """
    return Schedule.from_environment().due(date)


def expected(now: dt.datetime) -> dt.date | None:
    """The newest business date that is due by now; none where people start the runs."""
    schedule = Schedule.from_environment()
    return schedule.newest_due(now) if schedule.is_automatic else None
