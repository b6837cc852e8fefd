"""Whether a year of hourly ticks starts, dates and expires everything by the clocks of the zone.

    python -m benchmarks.clock [--zones Europe/Berlin ...] [--from 2023-12-20] [--days 336]

A scheduler is simulated over both changes of daylight saving time, a leap day and the end of a
year: at each tick the shipped timetable is asked, as after a restart, for the next run; the run is
created once it is due. *Violations* are all of: a run whose date ``lumos aggregate`` refuses; a day
that is skipped, started twice, or started more than a tick late; a click that gets any other day
than the newest one that is over; a deadline before its run's start; a day that the health page
expects and that has no run; and a moment at which the scores that should be published by then
have all expired.
"""

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from lumos.cli import parser, request_from
from lumos.recipes import load
from lumos.schedule import Schedule, end_of, unfinished
from lumos.settings import REPOSITORY
from lumos.verbs import BadInput

ZONES = (
    "Pacific/Pago_Pago",  # UTC-11
    "America/New_York",
    "America/Santiago",  # clocks change at midnight
    "Europe/Berlin",
    "Asia/Kolkata",
    "Pacific/Kiritimati",  # UTC+14
)
_FROM, _DAYS = dt.date(2023, 12, 20), 336
_VALID_DAYS = load("complete_journey").publishing.valid_days
_PARSER = parser()
_TICK, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def main() -> int:
    """Print the table and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.clock", description=__doc__.split("\n")[0])
    made.add_argument("--zones", nargs="+", default=ZONES)
    made.add_argument("--from", dest="first", type=dt.date.fromisoformat, default=_FROM)
    made.add_argument("--days", type=int, default=_DAYS)
    arguments = made.parse_args()
    shown = Table(title=f"{arguments.days} days from {arguments.first}, a tick an hour")
    for column in ("zone", "ticks", "runs", "violations"):
        shown.add_column(column, justify="right")
    found, ticks = [], 0
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("AIRFLOW_HOME", home)
        os.environ["LUMOS_HOME"] = home
        for zone in arguments.zones:
            wrong, runs = violations(zone, arguments.first, arguments.days)
            shown.add_row(zone, f"{24 * arguments.days:,}", f"{runs:,}", str(len(wrong)))
            found += wrong
            ticks += 24 * arguments.days
    Console().print(shown)
    for line in found[:20]:
        Console().print(line)
    sys.stdout.write(json.dumps({"ticks": ticks, "violations": len(found)}) + "\n")
    return 1 if found else 0


def violations(zone: str, first: dt.date, days: int) -> tuple[list[str], int]:
    """What goes wrong in a zone, and how many runs the scheduler created."""
    sys.path.append(str(REPOSITORY / "plugins"))
    from airflow.timetables.base import DataInterval, TimeRestriction
    from lumos_airflow import timetables
    from lumos_airflow.deadlines import Due

    schedule = Schedule(zone=zone)
    table = timetables.WholeDays(
        timetables.DAILY, delay_hours=schedule.start_hours, is_automatic=True, zone=zone
    )
    restriction = TimeRestriction(timetables.instance(_midnight(first)), None, False)
    due = Due(by=f"{schedule.scores_by:%H:%M}", zone=zone)
    last: DataInterval | None = None
    found, runs = [], 0
    clock = timetables.now
    try:
        for tick in _ticks(first + 2 * _DAY, days):
            now = timetables.instance(tick)
            timetables.now = lambda _, now=now: now
            info = table.next_dagrun_info(
                last_automated_data_interval=last, restriction=restriction
            )
            if info.run_after <= now:
                day = info.data_interval.start.date()
                # The first one only says where to begin: it is of the newest day that is due.
                is_first = last is None
                follows = is_first or day - last.start.date() == _DAY
                late = now - info.run_after >= _TICK and not is_first
                deadline = due.due("scheduled", info.run_after, info.data_interval.end)
                found += [
                    f"{zone} {tick}: {what} ({day})"
                    for what, wrong in {
                        "refused": _refused(day, zone, tick),
                        "next day is not refused": not is_first
                        and not _refused(day + _DAY, zone, tick),
                        "skipped or twice": not follows,
                        "late": late,
                        "deadline": deadline != schedule.due(day) or deadline <= info.run_after,
                    }.items()
                    if wrong
                ]
                last, runs = info.data_interval, runs + 1
            clicked = table.infer_manual_data_interval(run_after=now).start.date()
            found += _at_tick(zone, tick, clicked, schedule, last and last.start.date())
    finally:
        timetables.now = clock
    return found, runs


def _at_tick(
    zone: str, tick: dt.datetime, clicked: dt.date, schedule: Schedule, last: dt.date | None
) -> list[str]:
    """What is wrong at a moment, whether or not a run was created."""
    expected = schedule.newest_due(tick)
    valid = dt.timedelta(days=_VALID_DAYS)
    checks = {
        f"a click gets {clicked}": unfinished(clicked, zone, tick)
        or not unfinished(clicked + _DAY, zone, tick),
        f"no run of {expected}": last is not None and expected > last,
        f"scores of {expected} have expired": end_of(expected + valid, zone) <= tick,
    }
    return [f"{zone} {tick}: {what}" for what, wrong in checks.items() if wrong]


def _refused(day: dt.date, zone: str, now: dt.datetime) -> bool:
    given = [f"--date={day}", "--recipe=complete_journey", f"--set=timezone={zone}"]
    try:
        request_from(_PARSER.parse_args(["aggregate", *given]), now)
    except BadInput:
        return True
    return False


def _ticks(first: dt.date, days: int) -> Iterator[dt.datetime]:
    # Not on the hour: a scheduler looks when it has time to.
    start = _midnight(first) + dt.timedelta(minutes=7)
    return (start + n * _TICK for n in range(24 * days))


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)


if __name__ == "__main__":
    sys.exit(main())
