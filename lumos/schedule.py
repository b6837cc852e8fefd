"""When each business day ends, when its runs start, and when its scores are due and expire.

Pure functions of a day and a time zone, so that the scheduler, the deadlines, the command line and
the doctor cannot disagree. A day starts at the first moment of its date on the clocks of the zone:
around a change of daylight saving time it lasts 23 or 25 hours.
"""

import datetime as dt
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DAY = dt.timedelta(days=1)
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
# Any of these says that this machine's Airflow starts runs by itself.
_SIGNS = (
    "AIRFLOW_HOME", "LUMOS_SCHEDULE", "LUMOS_TIMEZONE", "LUMOS_START_HOURS", "LUMOS_SCORES_BY",
)  # fmt: skip


def at_clock(day: dt.date, clock: dt.time, zone: str) -> dt.datetime:
    """The moment, in UTC, at which clocks in a zone first show a time of a day.

    A time that daylight saving skips is taken as if the clocks had not been changed.
    """
    return dt.datetime.combine(day, clock, ZoneInfo(zone)).astimezone(dt.UTC)


def end_of(day: dt.date, zone: str) -> dt.datetime:
    """The first moment after a day of a zone, in UTC."""
    return at_clock(day + _DAY, dt.time(), zone)


def today_in(zone: str, now: dt.datetime) -> dt.date:
    """The date of a moment in a zone."""
    return now.astimezone(ZoneInfo(zone)).date()


def unfinished(day: dt.date, zone: str, now: dt.datetime) -> str:
    """Why a day cannot be worked on yet, and from when it can; empty where it is over."""
    end = end_of(day, zone)
    if now >= end:
        return ""
    local = end.astimezone(ZoneInfo(zone))
    return (
        f"{day} is not over in {zone}: it ends at {local:%Y-%m-%d %H:%M} there, "
        f"{end:%Y-%m-%d %H:%M} UTC. Run it then; the newest day that is over is "
        f"{today_in(zone, now) - _DAY}"
    )


@dataclass(frozen=True)
class Schedule:
    """When a deployment works.

    Attributes:
        zone: ``LUMOS_TIMEZONE``, whose midnight all else counts from.
        start_hours: ``LUMOS_START_HOURS``, from the end of a business day to its runs' start.
        scores_by: ``LUMOS_SCORES_BY``, when its scores are due on the next day.
        is_automatic: ``LUMOS_SCHEDULE``: whether the scheduler starts runs by itself.
    """

    zone: str = "UTC"
    start_hours: float = 2
    scores_by: dt.time = dt.time(6)
    is_automatic: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the four variables.

        Raises:
            ValueError: One of them is wrong; names it.
        """
        given = os.environ if environment is None else environment
        return cls(
            zone=_zone(given.get("LUMOS_TIMEZONE") or "UTC"),
            start_hours=_hours(given.get("LUMOS_START_HOURS") or "2"),
            scores_by=_clock(given.get("LUMOS_SCORES_BY") or "06:00"),
            is_automatic=_switch(given.get("LUMOS_SCHEDULE") or "on"),
        )

    def start(self, day: dt.date) -> dt.datetime:
        """When the runs of a business day start."""
        return end_of(day, self.zone) + dt.timedelta(hours=self.start_hours)

    def due(self, day: dt.date) -> dt.datetime:
        """When the scores of a business day should be published."""
        return at_clock(day + _DAY, self.scores_by, self.zone)

    def newest_due(self, now: dt.datetime) -> dt.date:
        """The newest business day whose scores should be published by now."""
        day = today_in(self.zone, now)
        while self.due(day) > now:
            day -= _DAY
        return day

    def conflicts(self, first: dt.date, zone: str, valid_days: int) -> list[str]:
        """What a recipe loses by this schedule within a year, each with its remedy.

        Args:
            first: The first of the days looked at.
            zone: The recipe's.
            valid_days: How long its scores may be used.
        """
        days = [first + n * _DAY for n in range(366)]
        found = []
        early = [(end_of(day, zone) - self.start(day), day) for day in days]
        if (worst := max(early))[0] > dt.timedelta(0):
            hours = worst[0] / dt.timedelta(hours=1)
            found.append(
                f"runs of {worst[1]} would start {hours:g} h before that day is over in {zone}, "
                f"and be refused: set LUMOS_TIMEZONE={zone}, or LUMOS_START_HOURS to "
                f"{self.start_hours + hours:g} or more"
            )
        if late := [day for day in days if self.start(day) >= self.due(day)]:
            found.append(
                f"scores of {late[0]} would be due before their runs start: set LUMOS_SCORES_BY "
                "to a later time, or LUMOS_START_HOURS to fewer hours"
            )
        valid = dt.timedelta(days=valid_days)
        if gap := [day for day in days if end_of(day + valid, zone) < self.due(day + _DAY)]:
            found.append(
                f"scores of {gap[0]} would expire before those of the next day are due: set "
                f"publishing.valid_days to {valid_days + 1} or more, or LUMOS_TIMEZONE={zone}"
            )
        return found


def is_declared(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this machine says anything of a schedule: a laptop's command line need not."""
    given = os.environ if environment is None else environment
    return any(given.get(name) for name in _SIGNS)


def _zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        msg = f"LUMOS_TIMEZONE={name!r} is not a time zone such as UTC or Europe/Berlin"
        raise ValueError(msg) from error


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1
    if not 0 <= hours < 24:
        msg = f"LUMOS_START_HOURS={text!r} is not a number of hours from 0 to below 24"
        raise ValueError(msg)
    return hours


def _clock(text: str) -> dt.time:
    if not _CLOCK.fullmatch(text):
        msg = f"LUMOS_SCORES_BY={text!r} is not a time of day written as HH:MM, such as 06:00"
        raise ValueError(msg)
    return dt.time.fromisoformat(text)


def _switch(mode: str) -> bool:
    if mode not in ("on", "off"):
        msg = f"LUMOS_SCHEDULE={mode!r} is neither 'on' nor 'off' (runs only when asked for)"
        raise ValueError(msg)
    return mode == "on"
