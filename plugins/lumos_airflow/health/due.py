"""When scores of a business date should be there, as ``LUMOS_SCORES_BY`` says."""

import datetime as dt
import os
from zoneinfo import ZoneInfo

from lumos_airflow.timetables import is_automatic


def due(date: dt.date) -> dt.datetime:
    """The first ``LUMOS_SCORES_BY`` (HH:MM in ``LUMOS_TIMEZONE``) after the date has ended.

    Dates end at midnight UTC, as data intervals do.

    Raises:
        ValueError: One of the two is not what it should be.
    """
    zone = ZoneInfo(os.environ.get("LUMOS_TIMEZONE") or "UTC")
    by = dt.time.fromisoformat(os.environ.get("LUMOS_SCORES_BY") or "06:00")
    midnight = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), dt.UTC)
    local = midnight.astimezone(zone)
    found = local.replace(hour=by.hour, minute=by.minute, second=0, microsecond=0)
    if found < local:
        # A day of the calendar, which is not always 24 hours.
        found += dt.timedelta(days=1)
    return found.astimezone(dt.UTC)


def expected(now: dt.datetime) -> dt.date | None:
    """The newest business date that is due by now; none where people start the runs."""
    if not is_automatic():
        return None
    date = now.astimezone(dt.UTC).date()
    while due(date) > now:
        date -= dt.timedelta(days=1)
    return date
