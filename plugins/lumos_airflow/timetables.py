"""When dated DAGs run: over whole UTC days, started some hours after the last of them ended.

A cron of ``0 2 * * *`` would start late enough for the day's data to have landed, but its
intervals begin at 02:00, and ``airflow backfill create --to-date D``, which means D at midnight,
would silently leave D out. So intervals begin at midnight, and the start is delayed instead.
"""

import datetime as dt
import os
from typing import Any, Self

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable

DAILY, WEEKLY, MONTHLY = "0 0 * * *", "0 0 * * 1", "0 0 1 * *"


class WholeDays(CronDataIntervalTimetable):
    """A cron of whole UTC days whose runs start ``delay_hours`` after their interval's end.

    With ``is_automatic`` off the scheduler starts nothing, while triggers and backfills work:
    for data that ended in the past (the demo's is of 2017), of which an unpaused DAG would else
    start yesterday's run and find nothing to work on.
    """

    def __init__(self, cron: str, *, delay_hours: float, is_automatic: bool) -> None:
        super().__init__(cron, timezone="UTC")
        self.delay_hours = delay_hours
        self.is_automatic = is_automatic

    @property
    def summary(self) -> str:
        """What the UI shows as the schedule."""
        if not self.is_automatic:
            return "on demand"
        return f"{self._expression} + {self.delay_hours:g} h"

    def serialize(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "cron": self._expression,
            "delay_hours": self.delay_hours,
            "is_automatic": self.is_automatic,
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`serialize`."""
        return cls(data["cron"], delay_hours=data["delay_hours"], is_automatic=data["is_automatic"])

    def next_dagrun_info(
        self,
        *,
        last_automated_data_interval: DataInterval | None,
        restriction: TimeRestriction,
    ) -> DagRunInfo | None:
        """The next interval; a backfill asks for it with ``restriction.catchup`` set."""
        if not self.is_automatic and not restriction.catchup:
            return None
        info = super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
        if info is None:
            return None
        return info._replace(run_after=info.run_after + dt.timedelta(hours=self.delay_hours))


def is_automatic() -> bool:
    """Whether the scheduler starts runs by itself; ``LUMOS_SCHEDULE=off`` leaves them to people.

    Raises:
        ValueError: ``LUMOS_SCHEDULE`` is neither ``on`` nor ``off``.
    """
    mode = os.environ.get("LUMOS_SCHEDULE", "on")
    if mode not in ("on", "off"):
        msg = f"LUMOS_SCHEDULE={mode!r} is neither 'on' nor 'off' (runs only when asked for)"
        raise ValueError(msg)
    return mode == "on"


def start_hours() -> float:
    """When the day's runs start, in hours after midnight UTC: ``LUMOS_START_HOURS``, or 2.

    Raises:
        ValueError: It is no number of hours of a day.
    """
    text = os.environ.get("LUMOS_START_HOURS") or "2"
    try:
        hours = float(text)
    except ValueError:
        hours = -1
    if not 0 <= hours < 24:
        msg = f"LUMOS_START_HOURS={text!r} is not a number of hours from 0 to below 24"
        raise ValueError(msg)
    return hours


def every(cron: str, *, later_hours: float = 0) -> WholeDays:
    """The schedule of a dated DAG; ``later_hours`` after the start of the daily ones.

    Raises:
        ValueError: ``LUMOS_START_HOURS`` or ``LUMOS_SCHEDULE`` is wrong.
    """
    return WholeDays(cron, delay_hours=start_hours() + later_hours, is_automatic=is_automatic())
