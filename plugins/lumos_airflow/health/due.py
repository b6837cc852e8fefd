"""When scores of a business date should be there, as ``LUMOS_SCORES_BY`` says."""

import datetime as dt

from lumos_airflow.deadlines import reference
from lumos_airflow.timetables import is_automatic


def due(date: dt.date) -> dt.datetime:
    """The first ``LUMOS_SCORES_BY`` (HH:MM in ``LUMOS_TIMEZONE``) after the date has ended.

    Dates end at midnight UTC, as data intervals do.

    Raises:
        ValueError: One of the two is not what it should be.
    """
    midnight = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), dt.UTC)
    found = reference("batch_scoring").due("scheduled", midnight, midnight)
    assert found is not None  # only backfills have no deadline
    return found


def expected(now: dt.datetime) -> dt.date | None:
    """The newest business date that is due by now; none where people start the runs."""
    if not is_automatic():
        return None
    date = now.astimezone(dt.UTC).date()
    while due(date) > now:
        date -= dt.timedelta(days=1)
    return date
