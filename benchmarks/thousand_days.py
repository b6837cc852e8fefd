"""A thousand daily dates in one process: does anything grow that should not?

A platform of a few users (:mod:`benchmarks._thousand_world`) runs day after day on a simulated
clock, with ``lumos maintain`` once a week. ``python -m benchmarks.thousand_days [--days 1000]``.

The last line of stdout is JSON: ``open_s_ratio`` (the slowest of opening any table and of two
look-ups in the ledger, against its own time on day 50), ``commit_s_ratio`` (one shard's commit,
likewise), ``disk_mib_by_day``, ``differing_rows`` of `activity` after days 40, 100 and 400 were
aggregated again, and ``refused``, how many of them were refused for their versions are gone.
"""

import argparse
import datetime as dt
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deltalake import DeltaTable

from benchmarks._ageing import Ageing
from benchmarks._thousand_world import FIRST_DAY, Platform
from lumos import ledger
from lumos.delta import open_table, read
from lumos.maintain.run import maintain
from lumos.tables import tables
from lumos.verbs import BadInput, Report

_BASE_DAY, _EVERY = 50, 7
_REDONE = (40, 100, 400)
_TAKES = 9


@dataclass
class Campaign:
    """The days so far, and what was measured on some.

    Attributes:
        platform: That runs.
        base_day: The day that later ones are measured against.
        seconds: By day and what was done.
        disk: MiB by day.
    """

    platform: Platform
    base_day: int = _BASE_DAY
    seconds: dict[int, dict[str, float]] = field(default_factory=dict)
    disk: dict[int, float] = field(default_factory=dict)

    def run(self, num_days: int) -> None:
        """Live through the days."""
        ageing = Ageing(self.platform.settings.home)
        for number in range(1, num_days + 1):
            date = FIRST_DAY + dt.timedelta(days=number - 1)
            self.platform.run(date)
            ageing.written_on(date)
            if number in (self.base_day, num_days) or number % 100 == 0:
                self.measure(number, date)
                # What was committed by measuring.
                ageing.written_on(date)
            if (number - self.base_day) % _EVERY == 0:  # measured at the end of a week
                ageing.today_is(date)
                self.maintain(date)
                ageing.written_on(date)

    def maintain(self, date: dt.date, *, dry_run: bool = False) -> Report:
        """As the weekly DAG does."""
        asked = self.platform.request("maintain", date)
        asked = asked.model_copy(update={"options": {"dry_run": dry_run}})
        return maintain(asked)

    def measure(self, number: int, date: dt.date) -> None:
        """Time what readers and writers do every day."""
        platform, taken = self.platform, {}
        for name in tables(platform.recipe):
            if open_table(platform.uri(name)) is not None:
                taken[name] = fastest(lambda name=name: DeltaTable(platform.uri(name)))  # type: ignore[misc]
        where = (platform.settings, platform.recipe)
        taken["find"] = fastest(lambda: ledger.find(*where, "sequences", date))
        taken["of_date"] = fastest(lambda: ledger.of_date(*where, date))
        job = platform.job(date)
        taken["commit"] = fastest(lambda: platform.store_shard(job, 0))
        self.seconds[number] = taken
        every = platform.settings.home.rglob("*")
        self.disk[number] = sum(path.stat().st_size for path in every if path.is_file()) / 2**20

    def ratios(self) -> dict[str, float]:
        """The last day's times over those of the base day."""
        first, last = self.seconds[self.base_day], self.seconds[max(self.seconds)]
        return {name: last[name] / first[name] for name in first}


def fastest(do: Callable[[], object]) -> float:
    """Seconds of the best of some takes: what else the machine does is not ours."""
    seconds = []
    for _ in range(_TAKES):
        started = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def redo(platform: Platform, days: tuple[int, ...]) -> tuple[int, int]:
    """Aggregate some days again; how many rows differ then, and how many days were refused."""

    def rows() -> set[str]:
        found = read(platform.uri("activity"))
        assert found is not None
        return set(map(str, found.to_pylist()))

    before, refused = rows(), 0
    for number in days:
        try:
            platform.redo(FIRST_DAY + dt.timedelta(days=number - 1))
        except BadInput:
            refused += 1
    return len(before ^ rows()), refused


def main() -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=int, default=1000)
    parser.add_argument("--home", type=Path, help="where to leave the platform (default: nowhere)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        platform = Platform(arguments.home or Path(scratch) / "home")
        campaign = Campaign(platform)
        campaign.run(arguments.days)
        ratios = campaign.ratios()
        for name, ratio in sorted(ratios.items()):
            told = "  ".join(
                f"{day}: {1e3 * t[name]:.1f}" for day, t in campaign.seconds.items() if name in t
            )
            print(f"{name:15} {ratio:5.2f}  ms {told}")
        differing, refused = redo(platform, tuple(n for n in _REDONE if n <= arguments.days))
    commit = ratios.pop("commit")
    found = {
        "days": arguments.days,
        "open_s_ratio": round(max(ratios.values()), 2),
        "commit_s_ratio": round(commit, 2),
        "disk_mib_by_day": {day: round(size, 1) for day, size in campaign.disk.items()},
        "differing_rows": differing,
        "refused": refused,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
