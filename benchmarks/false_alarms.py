"""How often do the monitors cry wolf, and what do they miss? Sixty replayed days of real shopping.

    python -m benchmarks.false_alarms [--days 60] [--until 2017-10-30] [--faults-every 6]

Complete Journey is aggregated once, for all of its year. Then the verb's own code monitors the
tables of sixty consecutive ordinary days, one after another, each entered in the ledger as its
morning would have entered it. None of them is known to be faulty, so that whatever is called
critical is a false alarm, and so is a warning, though a campaign of coupons or a public holiday
may well be worth one.

The limits were chosen on the days before, 2017-03-01 to 2017-08-31 (``--until 2017-08-31 --days
184`` shows them), and the sixty days were looked at once they stood.

Then faults are planted, each on a day of its own: for every column *doubled* (all values),
*halved_users* (the column is zero for every other user), *shifted* (its median is added where it
is not zero), and *volume* (every other user is missing). A binary column can be zeroed only. A
fault is detected if a monitor of that column, or of volume, says warning or critical. What most
users have at zero, such as coupons, is a matter of so few users that little of it can be noticed.

The forecasts' half needs a champion that was trained before the sixty days and published on each:
hours of computing, and not done here.

The last line of stdout is JSON: `days`, `false_alarms` (critical findings), `warnings`, `unknown`,
`detected` (share of planted faults), and the same share by fault.
"""

import argparse
import datetime as dt
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from lumos import ledger
from lumos.aggregate.raw import find_sources
from lumos.cli import VERBS, run
from lumos.config import Recipe
from lumos.delta import predicate, read, replace
from lumos.monitor.names import TABLES
from lumos.monitor.reference import columns_of
from lumos.monitor.run import run_half
from lumos.progress import progress
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Request, TableWritten

LAST_DAY = dt.date(2017, 12, 31)
NUM_DAYS = 365
_SHOWN = Console(width=110)
Floats = np.ndarray


@dataclass(frozen=True)
class World:
    """The aggregated year."""

    settings: Settings
    recipe: Recipe

    def request(
        self, verb: str, date: dt.date, *, force: bool = False, **options: object
    ) -> Request:
        """As the command line would make it."""
        defaults = {flag.name.replace("-", "_"): flag.default for flag in VERBS[verb].flags}
        return Request(
            verb=verb,
            recipe=self.recipe,
            date=date,
            settings=self.settings,
            options={**defaults, **options},
            force=force,
        )

    @cached_property
    def raw_schema(self) -> dict[str, dict[str, str]]:
        """As `aggregate` notes it."""
        sources = find_sources(self.settings, self.recipe, LAST_DAY)
        return {name: dict(source.types) for name, source in sources.items()}

    @property
    def uri(self) -> str:
        """Of `activity`."""
        return table_uri(self.settings, self.recipe, "activity")


def world() -> World:
    """Land and aggregate, unless that was done."""
    home = Settings.from_environment().home
    settings = Settings.from_environment({"LUMOS_HOME": str(home / "bench" / "false-alarms")})
    jars = settings.home / "spark"
    settings.home.mkdir(parents=True, exist_ok=True)
    if (home / "spark").exists() and not jars.exists():
        jars.symlink_to(home / "spark")
    made = World(settings, load("complete_journey"))
    run(made.request("land", LAST_DAY))
    run(made.request("aggregate", LAST_DAY, days=NUM_DAYS))
    return made


def enter(at: World, date: dt.date, whole: ledger.Entry, version: int) -> None:
    """Enter a day as ready, as its own morning's `aggregate` would have done."""
    request = at.request("aggregate", date)
    others = [t for t in whole.report.tables if t.table != "activity"]
    written = (TableWritten(table="activity", version=version, rows=1), *others)
    report = request.report(tables=written, details={"raw_schema": at.raw_schema})
    ledger.record(request, report, inputs={"replayed": version})


def monitored(at: World, date: dt.date) -> list[dict[str, str]]:
    """What is critical, a warning or unknown among the date's tables."""
    # Forced: what an earlier release found of the same tables is not asked for.
    half = run_half(at.request("monitor", date, force=True), TABLES)
    return list(half.report.details["findings"])


def zeroed(values: Floats, is_odd: Floats) -> Floats:
    """Nothing for every other user."""
    return np.where(is_odd, 0.0, values)


def doubled(values: Floats, _: Floats) -> Floats:
    """Twice as much."""
    return values * 2


def shifted(values: Floats, _: Floats) -> Floats:
    """More by what is usual among those who have any."""
    some = values[values > 0]
    return np.where(values > 0, values + (np.median(some) if len(some) else 0), values)


_FAULTS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "doubled": doubled,
    "halved_users": zeroed,
    "shifted": shifted,
}


def planted(at: World, day: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """Each fault of a day: its name, the segment that should notice, and the rows."""
    order = pc.array_sort_indices(day["user_id"])
    is_odd = np.zeros(len(day), bool)
    is_odd[order.to_numpy()[::2]] = True
    yield "volume", "activity", day.filter(pa.array(~is_odd))
    for column in at.recipe.activity:
        if column.name == at.recipe.active:
            continue
        place = day.schema.get_field_index(column.name)
        for name, fault in _FAULTS.items():
            if column.kind == "binary" and name != "halved_users":
                continue
            values = fault(day[column.name].to_numpy(), is_odd)
            rows = day.set_column(place, day.schema.field(place), pa.array(values, pa.float64()))
            yield name, f"activity.{column.name}", rows


def detected(at: World, date: dt.date, whole: ledger.Entry) -> Iterator[tuple[str, str, bool]]:
    """Plant every fault of a date, one at a time, and see whether a monitor says so."""
    usual = {(f["name"], f["segment"]) for f in monitored(at, date)}
    day = read(at.uri, version=whole.version, where=predicate(day=date))
    assert day is not None
    schema = tables(at.recipe)["activity"].arrow_schema(at.recipe)
    for fault, segment, rows in planted(at, day.select(schema.names).cast(schema)):
        version = replace(at.uri, rows, where=predicate(day=date), partition=("day",))
        enter(at, date, whole, version)
        found = [
            f
            for f in monitored(at, date)
            if f["segment"] == segment
            and f["verdict"] in ("warning", "critical")
            and (f["name"], f["segment"]) not in usual
        ]
        yield fault, segment, bool(found)
    enter(at, date, whole, whole.version)
    monitored(at, date)
    replace(at.uri, day, where=predicate(day=date), partition=("day",))


def replayed(at: World, dates: list[dt.date], whole: ledger.Entry) -> Counter[str]:
    """Monitor the days one after another; shows and counts what is found."""
    shown = Table(title=f"Found on {len(dates)} ordinary days, {dates[0]} to {dates[-1]}")
    for heading in ("day", "verdict", "what"):
        shown.add_column(heading)
    number: Counter[str] = Counter()
    started = time.monotonic()
    with progress("monitoring", len(dates)) as advance:
        for date in dates:
            for each in monitored(at, date):
                number[each["verdict"]] += 1
                shown.add_row(f"{date:%a %F}", each["verdict"], each["message"])
            advance()
    _SHOWN.print(shown)
    _SHOWN.print(f"{(time.monotonic() - started) / len(dates):.2f} s a day")
    return number


def main() -> int:
    """Print what was found and, last, one JSON line."""
    parser = argparse.ArgumentParser(prog="benchmarks.false_alarms")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--until", type=dt.date.fromisoformat, default=dt.date(2017, 10, 30))
    parser.add_argument("--faults-every", type=int, default=6, help="days; 0 plants none")
    arguments = parser.parse_args()
    logging.getLogger("lumos").setLevel(logging.ERROR)
    at = world()
    whole = ledger.require(at.settings, at.recipe, "activity", LAST_DAY, remedy="")
    dates = [arguments.until - dt.timedelta(days=n) for n in reversed(range(arguments.days))]
    first = dates[0] - dt.timedelta(days=60)
    for n in range((dates[-1] - first).days + 1):
        enter(at, first + dt.timedelta(days=n), whole, whole.version)
    number = replayed(at, dates, whole)
    figures: dict[str, float] = {
        "days": len(dates),
        "false_alarms": number["critical"],
        "warnings": number["warning"],
        "unknown": number["unknown"],
    }
    if arguments.faults_every:
        figures |= faults(at, dates[:: arguments.faults_every], whole)
    print(json.dumps(figures))
    return 0


def faults(at: World, dates: list[dt.date], whole: ledger.Entry) -> dict[str, float]:
    """Share of the faults found, in all, by fault and, shown only, by column."""
    tries: dict[tuple[str, str], list[bool]] = {}
    with progress("planting faults", len(dates)) as advance:
        for date in dates:
            for fault, segment, is_found in detected(at, date, whole):
                tries.setdefault((segment, fault), []).append(is_found)
            advance()
    names = ["volume", *_FAULTS]
    shown = Table(title=f"Planted faults that were found, of {len(dates)} days each")
    for heading in ("", *names):
        shown.add_column(heading, justify="right")
    for segment in ["activity", *(f"activity.{name}" for name in columns_of(at.recipe))]:
        found = [tries.get((segment, name)) for name in names]
        if any(found):
            shown.add_row(segment, *("" if f is None else f"{sum(f)}" for f in found))
    _SHOWN.print(shown)
    by_fault = {
        name: [hit for (_, fault), hits in tries.items() if fault == name for hit in hits]
        for name in names
    }
    every = [hit for hits in by_fault.values() for hit in hits]
    return {
        "planted": len(every),
        "detected": round(float(np.mean(every)), 3),
        **{f"detected_{name}": round(float(np.mean(hits)), 3) for name, hits in by_fault.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
