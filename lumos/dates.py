"""Business dates: one way to read, count and list them.

A *business date* is the last day that has been observed. Days travel as whole numbers since
1970-01-01 inside arrays (int16 in the sequences, good until 2059).
"""

import datetime as dt
import re

EPOCH = dt.date(1970, 1, 1)


def parse_date(text: str, *, today: dt.date) -> dt.date:
    """Read ``YYYY-MM-DD``, refusing days that cannot have been observed yet.

    Raises:
        ValueError: The text is no such date, lies after ``today``, or before 1970.
    """
    try:
        # `fromisoformat` also reads 20171210 and 2017-W49-7, `strptime` also 2017-1-5.
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        date = dt.date.fromisoformat(text)
    except ValueError:
        msg = f"date {text!r} is not a day written as YYYY-MM-DD, such as 2017-12-10"
        raise ValueError(msg) from None
    if date > today:
        msg = f"date {text} lies in the future (today is {today}): it has not been observed yet"
        raise ValueError(msg)
    if date < EPOCH:
        msg = f"date {text} lies before {EPOCH}, where days are counted from; is the year right?"
        raise ValueError(msg)
    return date


def day_number(day: dt.date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


def from_day_number(number: int) -> dt.date:
    """Inverse of :func:`day_number`."""
    return EPOCH + dt.timedelta(days=int(number))


def first_of_window(last: dt.date, num_days: int) -> dt.date:
    """First of the ``num_days`` days that end with ``last``."""
    return last - dt.timedelta(days=num_days - 1)


def split_origins(
    as_of: dt.date, *, horizon_days: int, num_origins: int, days_between: int
) -> tuple[dt.date, tuple[dt.date, ...]]:
    """Split the past into training and evaluation forecast origins, with no label shared.

    An origin is the last day a forecast sees; its labels are the ``horizon_days`` after it.

    Returns:
        The last training origin and the evaluation origins, oldest first. All labels have
        matured by ``as_of``, and the training labels end on or before the first evaluation
        origin: the gap between the two sets of labels is nothing, between inputs a horizon.
    """
    last = as_of - dt.timedelta(days=horizon_days)
    back = range((num_origins - 1) * days_between, -1, -days_between)
    origins = tuple(last - dt.timedelta(days=days) for days in back)
    return origins[0] - dt.timedelta(days=horizon_days), origins
