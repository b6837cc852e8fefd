"""What one aggregation works on, found out before Spark starts, and what it then finds."""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lumos import ledger
from lumos.aggregate import contract, facts, write
from lumos.aggregate.event_context import known_days
from lumos.aggregate.facts import COUNTED, EARLIER, Days
from lumos.aggregate.raw import Source, find_sources
from lumos.config import RawTable
from lumos.dates import first_of_window
from lumos.verbs import Request

# The file name of each SELECT by the table that it fills.
SELECTS = {"activity": "activity", "event_context": "event_context", "users": "static"}


@dataclass(frozen=True)
class Plan:
    """What one run works on: found out before Spark starts."""

    request: Request
    days: Days
    known: Days
    sources: Mapping[str, Source]
    texts: Mapping[str, str]
    runs: list[ledger.Entry]
    inputs: Mapping[str, int | str]

    @property
    def num_days(self) -> int:
        """Length of the window."""
        return (self.days.last - self.days.first).days + 1

    @property
    def num_rows(self) -> int:
        """About how many raw rows lie where the run looks; partitions may spare it most."""
        return sum(source.num_rows for source in self.sources.values())

    def window(self, table: str) -> Days:
        """The days of a table, by its day column, that this run answers for."""
        return self.days if table == "activity" else self.known

    def was_done_as_wide(self) -> bool:
        """Whether a run of this business date covered the window."""
        own = [run for run in self.runs if run.business_date == self.request.date]
        return any(run.first_day <= self.days.first for run in own)

    def answers_from(self) -> dt.date:
        """First day that the ledger entry answers for: a rerun of fewer days keeps the others."""
        own = [run for run in self.runs if run.business_date == self.request.date]
        return min([self.days.first, *(r.first_day for r in own if r.verdict == ledger.READY)])

    def ledger_request(self) -> Request:
        """The request without ``--days``: a wider window that was done covers a narrower one."""
        fields = {name: getattr(self.request, name) for name in Request.model_fields}
        return Request(**{**fields, "options": {}})


@dataclass
class Rows:
    """What a run has found: judged facts by raw table, results by contract table, and counts."""

    judged: dict[str, DataFrame] = field(default_factory=dict)
    results: dict[str, DataFrame] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    by_outcome: Counter[tuple[str, str]] = field(default_factory=Counter)
    accepted_by_day: Counter[dt.date] = field(default_factory=Counter)

    def count(self, tables: list[RawTable]) -> list[str]:
        """Count the judged rows by outcome in one pass; names the tables with repeated keys."""
        parts = [facts.outcomes(self.judged[table.name], table) for table in tables]
        parts += [
            facts.num_repeated(self.judged[table.name], table).select(
                F.lit(table.name).alias("raw_table"),
                F.lit(None).cast("string").alias("outcome"),
                F.lit(None).cast("date").alias("day"),
                "num_rows",
            )
            for table in tables
            if table.key
        ]
        self.by_outcome.clear()
        self.accepted_by_day.clear()
        repeated = []
        for row in reduce(DataFrame.unionByName, parts).collect():
            if row.outcome is None:
                repeated += [row.raw_table] * bool(row.num_rows)
                continue
            self.by_outcome[row.raw_table, row.outcome] += row.num_rows
            if row.outcome == COUNTED:
                self.accepted_by_day[row.day] += row.num_rows
        return repeated

    def total(self, *outcomes: str) -> int:
        """Raw rows with one of these outcomes."""
        return sum(n for (_, outcome), n in self.by_outcome.items() if outcome in outcomes)

    def conservation(self) -> dict[str, int]:
        """Where the raw rows that landed in the window went."""
        landed = sum(self.by_outcome.values())
        counted, earlier = self.total(COUNTED), self.total(EARLIER)
        return {
            "landed": landed,
            "counted": counted,
            "counted_earlier": earlier,
            "quarantined": landed - counted - earlier,
        }


def make_plan(request: Request) -> Plan:
    """Look at the lake, the SELECTs and the ledger.

    Raises:
        BadInput: A raw table or a SELECT is missing or not as declared.
    """
    settings, recipe, last = request.settings, request.recipe, request.date
    days = Days(first_of_window(last, request.options["days"] or recipe.late_days), last)
    texts = contract.sql_texts(settings, recipe)
    sources = find_sources(settings, recipe, last)
    runs = ledger.entries(settings, recipe, "activity")
    inputs = {f"raw.{name}": source.digest for name, source in sources.items()}
    inputs["sql"] = contract.digest(texts)
    inputs["past"] = _past(days, runs)
    known = known_days(days, last, runs)
    return Plan(request, days, known, sources, texts, runs, inputs)


def _past(days: Days, runs: Iterable[ledger.Entry]) -> str:
    """Which days before the window earlier dates have aggregated, in words.

    An input like any other: what a date makes of its users goes by who was known before. So a date
    that was run before its past was whole is not done yet when the gap is filled.
    """
    earlier = [r for r in runs if r.verdict == ledger.READY and r.business_date < days.last]
    first = min((run.first_day for run in earlier), default=days.first)
    if first >= days.first:
        return "nothing"
    gaps = write.without_owner(Days(first, days.first - dt.timedelta(days=1)), earlier)
    return " but ".join([f"from {first}", *(f"{gap.first} .. {gap.last}" for gap in gaps)])
