"""When dated DAGs run: over whole days, started some hours after the last of them ended.

A cron of ``0 2 * * *`` would start late enough for the day's data to have landed, but its
intervals begin at 02:00, and ``airflow backfill create --to-date D``, which means D at midnight,
would silently leave D out. So intervals name whole days, and the start is delayed instead.

Intervals are written from midnight to midnight UTC in every zone, because that is how backfills
name days. A run starts by the clocks of the deployment: once its last day is over *there*.
"""

import datetime as dt
from typing import Any, Self

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from pendulum import DateTime, instance, now

from lumos.schedule import Schedule, at_clock

DAILY, WEEKLY, MONTHLY = "0 0 * * *", "0 0 * * 1", "0 0 1 * *"
# No zone is further from UTC, so the days named so far ahead are over nowhere.
_AHEAD = dt.timedelta(days=2)


class WholeDays(CronDataIntervalTimetable):
    """A cron of whole days whose runs start ``delay_hours`` after the interval's end in ``zone``.

    With ``is_automatic`` off the scheduler starts nothing, while triggers and backfills work:
    for data that ended in the past (the demo's is of 2017), of which an unpaused DAG would else
    start yesterday's run and find nothing to work on.
    """

    def __init__(
        self, cron: str, *, delay_hours: float, is_automatic: bool, zone: str = "UTC"
    ) -> None:
        super().__init__(cron, timezone="UTC")
        self.delay_hours = delay_hours
        self.is_automatic = is_automatic
        self.zone = zone

    @property
    def summary(self) -> str:
        """What the UI shows as the schedule."""
        if not self.is_automatic:
            return "on demand"
        return f"{self._expression} + {self.delay_hours:g} h ({self.zone})"

    def serialize(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "cron": self._expression,
            "delay_hours": self.delay_hours,
            "is_automatic": self.is_automatic,
            "zone": self.zone,
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`serialize`; a version without zones meant UTC."""
        return cls(
            data["cron"],
            delay_hours=data["delay_hours"],
            is_automatic=data["is_automatic"],
            zone=data.get("zone", "UTC"),
        )

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
        if info is None or info.data_interval is None:
            return None
        delay = dt.timedelta(hours=self.delay_hours)
        return info._replace(run_after=self._over(info.data_interval.end) + delay)

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """The newest interval that is over in the zone at the moment of the click."""
        return self._newest(run_after)

    def _skip_to_latest(self, earliest: DateTime | None) -> DateTime:
        """The start of the newest interval whose run is due: older ones are not caught up."""
        newest = self._newest(now("UTC") - dt.timedelta(hours=self.delay_hours)).start
        return newest if earliest is None else max(newest, self._align_to_next(earliest))

    def _newest(self, moment: DateTime) -> DataInterval:
        end = self._get_prev(moment + _AHEAD)
        while self._over(end) > moment:
            end = self._get_prev(end)
        return DataInterval(start=self._get_prev(end), end=end)

    def _over(self, end: DateTime) -> DateTime:
        """When the day before an interval's end is over in the zone."""
        return instance(at_clock(end.date(), dt.time(), self.zone))


def every(cron: str, *, later_hours: float = 0) -> WholeDays:
    """The schedule of a dated DAG; ``later_hours`` after the start of the daily ones.

    Raises:
        ValueError: One of the variables of :class:`lumos.schedule.Schedule` is wrong.
    """
    schedule = Schedule.from_environment()
    return WholeDays(
        cron,
        delay_hours=schedule.start_hours + later_hours,
        is_automatic=schedule.is_automatic,
        zone=schedule.zone,
    )
