"""Calendar columns: what is known of any day for all time, on every platform.

They are computed, not stored, so that a platform without an event table still has a calendar,
and so that the calendar never ends before the horizon does.
"""

import datetime as dt
import functools

import holidays
import numpy as np

from lumos.dates import EPOCH

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
CALENDAR_COLUMNS: tuple[str, ...] = (
    *_WEEKDAYS,
    "year_sin",
    "year_cos",
    "month_start",
    "month_end",
    "holiday",
    "holiday_soon",
)
_HOLIDAY_NEAR_DAYS = 7


@functools.cache
def _holidays(country: str, years: tuple[int, ...]) -> frozenset[dt.date]:
    return frozenset(holidays.country_holidays(country, years=list(years)))


def has_holidays(country: str) -> bool:
    """Whether the public holidays of a country (ISO code) are known."""
    try:
        holidays.country_holidays(country)
    except NotImplementedError:
        return False
    return True


def calendar_columns(
    columns: tuple[str, ...], first: dt.date, num_days: int, country: str | None
) -> np.ndarray:
    """The chosen calendar columns for consecutive days.

    Args:
        columns: Names from :data:`CALENDAR_COLUMNS`, in the order wanted.
        first: The first day.
        num_days: How many days.
        country: ISO code for public holidays, or ``None`` for none at all.

    Returns:
        float32 of shape (num_days, len(columns)), every value in [-1, 1]. ``holiday_soon``
        rises from 0 a week before a public holiday to 1 on it.
    """
    days = [first + dt.timedelta(days=offset) for offset in range(num_days)]
    years = tuple(range(first.year, (days[-1].year if days else first.year) + 2))
    public = _holidays(country, years) if country else frozenset()

    def near(day: dt.date) -> float:
        ahead = range(_HOLIDAY_NEAR_DAYS)
        away = (offset for offset in ahead if day + dt.timedelta(days=offset) in public)
        return 1 - next(away, _HOLIDAY_NEAR_DAYS) / _HOLIDAY_NEAR_DAYS

    angle = np.array([2 * np.pi * (day.timetuple().tm_yday - 1) / 365.25 for day in days])
    known = {
        "year_sin": np.sin(angle),
        "year_cos": np.cos(angle),
        "month_start": [float(day.day <= 3) for day in days],
        "month_end": [float((day + dt.timedelta(days=3)).month != day.month) for day in days],
        "holiday": [float(day in public) for day in days],
        "holiday_soon": [near(day) for day in days],
    }
    weekday = ((first - EPOCH).days + np.arange(num_days) + EPOCH.weekday()) % 7
    known |= {name: weekday == index for index, name in enumerate(_WEEKDAYS)}
    if not columns:
        return np.zeros((num_days, 0), np.float32)
    return np.stack([np.asarray(known[name], np.float32) for name in columns], axis=1)
