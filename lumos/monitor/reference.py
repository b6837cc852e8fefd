"""The days that a business date is compared with, as histograms, each counted once and kept.

A day is counted as it stood on its own morning, at the version that the ledger names for it: so
are the days before it, and rows that come late make no day look smaller than those before. Days
that only an initial load covers are counted as that load left them. Nothing after the business
date is looked at, so that the order in which dates are monitored changes nothing.
"""

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from lumos import ledger
from lumos.config import Recipe
from lumos.delta import open_table, predicate, read, replace
from lumos.gone import reading
from lumos.monitor.histograms import Histogram, bins, count
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Request

log = logging.getLogger(__name__)

NUM_DAYS = 56  # eight of each weekday
RAW_ROWS = "num_raw_rows"
_ACTIVITY = "activity"
_ACTIVE = int(bins(np.ones(1))[0])

Day = Mapping[str, Histogram]


@dataclass(frozen=True)
class Reference:
    """A business date and the days before it.

    Attributes:
        date: The business date.
        versions: The Delta version of `activity` that each day was counted at; the date's too.
        days: Histograms by column of those days that have a row at all.
        lost: Days whose version could not be read any more, and why.
    """

    date: dt.date
    versions: Mapping[dt.date, int]
    days: Mapping[dt.date, Day]
    lost: Mapping[dt.date, str]

    def num_active(self, active: str, day: dt.date) -> int:
        """Active users of a day; 0 where it has no row."""
        return self.days.get(day, {}).get(active, {}).get(_ACTIVE, 0)

    @property
    def past(self) -> list[dt.date]:
        """Days before the date that can be compared, from the first with a row on, ascending."""
        known = sorted(day for day in self.versions if day < self.date and day not in self.lost)
        started = min((day for day in known if day in self.days), default=None)
        return [day for day in known if started and day >= started]


def ready_entries(request: Request) -> list[ledger.Entry]:
    """What the ledger says of `activity` on ready days up to the date, oldest first.

    Raises:
        BadInput: The date has not been aggregated.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    ready = [
        entry
        for entry in ledger.entries(settings, recipe, _ACTIVITY)
        if entry.verdict == ledger.READY and entry.business_date <= date
    ]
    if not ready or ready[-1].business_date != date:
        remedy = f"Run `lumos aggregate --date {date}` first."
        ledger.require(settings, recipe, _ACTIVITY, date, remedy=remedy)
    return ready


def sources(request: Request, ready: Sequence[ledger.Entry]) -> dict[dt.date, int]:
    """The date and the days before it that count, and at which version of `activity`.

    Days that the quality gate refused are left out.

    Args:
        request: For its date.
        ready: From :func:`ready_entries`.
    """
    refused = {
        entry.business_date
        for entry in ledger.entries(request.settings, request.recipe, "quality")
        if entry.verdict == ledger.REFUSED
    }
    version_of = {entry.business_date: entry.version for entry in ready}
    found = {request.date: version_of[request.date]}
    for back in range(1, NUM_DAYS + 1):
        day = request.date - dt.timedelta(days=back)
        covering = (e.version for e in ready if e.first_day <= day <= e.business_date)
        version = version_of.get(day, next(covering, None))
        if version is not None and day not in refused:
            found[day] = version
    return dict(sorted(found.items()))


def reference(request: Request, versions: Mapping[dt.date, int]) -> Reference:
    """Histograms of all those days; those that are not kept yet, or of another version, are made.

    Raises:
        BadInput: The date's own version is gone.
    """
    kept = _kept(request, versions)
    made: dict[dt.date, Day] = {}
    lost: dict[dt.date, str] = {}
    for day in sorted(set(versions) - set(kept)):
        try:
            made[day] = count_day(request, day, versions[day])
        except (DeltaError, FileNotFoundError) as error:
            if day == request.date:
                msg = (
                    f"activity of {day} cannot be read at version {versions[day]} ({error}); run "
                    f"`lumos aggregate --date {day} --force`"
                )
                raise BadInput(msg) from error
            log.warning("%s is not compared: version %d: %s", day, versions[day], error)
            lost[day] = str(error)
    _keep(request, made, versions)
    days = {day: columns for day, columns in (kept | made).items() if columns}
    return Reference(request.date, versions, days, lost)


def count_day(request: Request, day: dt.date, version: int) -> Day:
    """Histograms of a day's columns over users who were active; ``active`` itself over all rows.

    Read in batches: memory does not grow with the users.
    """
    recipe = request.recipe
    counted: dict[str, Counter[int]] = {}
    for batch in _batches(request, day, version):
        active = pc.fill_null(batch[recipe.active], 0).to_numpy(zero_copy_only=False) == 1
        for name in batch.schema.names:
            values = pc.cast(batch[name], pa.float64()).to_numpy(zero_copy_only=False)
            part = count(values if name == recipe.active else values[active])
            counted.setdefault(name, Counter()).update(part)
    return counted


def _batches(request: Request, day: dt.date, version: int) -> Iterator[pa.RecordBatch]:
    recipe = request.recipe
    uri = table_uri(request.settings, recipe, _ACTIVITY)
    table = open_table(uri, version)
    if table is None:
        msg = f"the table activity of recipe {recipe.name} is gone; run `lumos aggregate`"
        raise BadInput(msg)
    there = {field.name for field in table.schema().fields}
    wanted = [name for name in columns_of(recipe) if name in there]
    with reading(uri, version):
        scan = table.scan(columns=wanted, predicate=predicate(day=day))
        yield from pa.RecordBatchReader.from_stream(scan)


def columns_of(recipe: Recipe) -> list[str]:
    """The columns of `activity` that are counted."""
    return [*(column.name for column in recipe.activity), RAW_ROWS]


def _kept(request: Request, versions: Mapping[dt.date, int]) -> dict[dt.date, Day]:
    days = min(versions), max(versions)
    rows = read(
        table_uri(request.settings, request.recipe, "histograms"),
        where=predicate(table=_ACTIVITY, day=days),
    )
    found: dict[dt.date, dict[str, Counter[int]]] = {}
    for row in rows.to_pylist() if rows is not None else []:
        if versions.get(row["day"]) == row["source_version"]:
            of_day = found.setdefault(row["day"], {})
            of_day.setdefault(row["column"], Counter())[row["bin"]] = row["num_rows"]
    # A recipe that has gained a column counts anew.
    wanted = set(columns_of(request.recipe))
    return {day: columns for day, columns in found.items() if wanted <= set(columns)}


def _keep(request: Request, made: Mapping[dt.date, Day], versions: Mapping[dt.date, int]) -> None:
    if not made:
        return
    table = tables(request.recipe)["histograms"]
    rows = [
        {
            "day": day,
            "table": _ACTIVITY,
            "column": name,
            "bin": number,
            "num_rows": num_rows,
            "source_version": versions[day],
        }
        for day, columns in made.items()
        for name, histogram in columns.items()
        for number, num_rows in sorted(histogram.items())
    ]
    replace(
        table_uri(request.settings, request.recipe, table.name),
        pa.Table.from_pylist(rows, schema=table.arrow_schema(request.recipe)),
        where=predicate(table=_ACTIVITY, day=list(made)),
        partition=table.partition,
    )
