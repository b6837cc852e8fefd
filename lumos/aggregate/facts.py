"""Every raw fact row gets one outcome: counted here, counted by an earlier run, or rejected.

The three are a partition of the rows that landed in the window, so conservation can be checked:
whatever is not counted stands in ``quarantine`` with its reason.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lumos.config import RawTable
from lumos.dates import EPOCH, from_day_number
from lumos.ledger import READY, Entry

# What an unreadable CSV row looked like, and which column could not be read.
TEXT, UNREADABLE = "_text", "_unreadable"
COUNTED, EARLIER = "counted", "counted by an earlier run"
LATE, DUPLICATE = "late for a closed day", "duplicate key"
# Rows that say neither when they happened nor when they landed: seen by every run, and kept
# once, in a partition of their own.
UNKNOWN_DAY = EPOCH
# Days travel as int16 days since 1970 in the sequences, so none can lie after 2059-09-18.
_OLDEST, _NEWEST = dt.date(1990, 1, 1), from_day_number(2**15 - 1)


@dataclass(frozen=True)
class Days:
    """The days that a run re-aggregates, both ends included."""

    first: dt.date
    last: dt.date

    def hold(self, column: Column) -> Column:
        """Whether a date lies in the window."""
        return (column >= F.lit(self.first)) & (column <= F.lit(self.last))


def judge(
    frame: DataFrame, table: RawTable, days: Days, runs: Iterable[Entry], *, repeated: bool
) -> DataFrame:
    """Give each visible row of a fact table its outcome.

    Args:
        frame: From :func:`lumos.aggregate.opening.open_source`.
        table: Its declaration.
        days: The window; rows that landed outside it are left out.
        runs: Ledger entries of ``activity``: which days other runs answer for.
        repeated: Whether keys may be repeated. Telling which copy is kept sorts all rows, so
            :func:`num_repeated` is asked first, which does not.

    Returns:
        The declared columns, ``user_id``, ``day``, and ``_landed``, ``_outcome``, ``_text``.
    """
    judged = _place(frame, table, days)
    judged = judged.withColumn("_reason", _reason(judged, table))
    is_copy: Column = F.lit(False)
    if repeated:
        judged = judged.withColumn("_copy", _copy_number(table))
        is_copy = F.col("_copy") > 1
    outcome = (
        F.when(F.col("_reason").isNotNull(), F.col("_reason"))
        # Before the copies: which of them counts was for that run to say, and it saw them all.
        .when(_was_counted(days, runs), F.lit(EARLIER))
        .when(is_copy, F.lit(DUPLICATE))
        .when(F.col("day") >= F.lit(days.first), F.lit(COUNTED))
        .otherwise(F.lit(LATE))
    )
    return judged.withColumn("_outcome", outcome).drop("_reason", "_copy", UNREADABLE)


def num_repeated(judged: DataFrame, table: RawTable) -> DataFrame:
    """How many keys usable rows share: one row ``num_rows``. ``judged`` ignores repeats."""
    usable = F.col("_outcome").isin(COUNTED, EARLIER, LATE)
    copies = judged.filter(usable).groupBy(*table.key).agg(F.count("*").alias("copies"))
    return copies.filter(F.col("copies") > 1).agg(F.count("*").alias("num_rows"))


def _place(frame: DataFrame, table: RawTable, days: Days) -> DataFrame:
    """Add the user, the local day, and the landing day; keep the rows that landed in time."""
    if table.format != "csv":
        nothing = F.lit(None).cast("string")
        frame = frame.withColumns({UNREADABLE: nothing, TEXT: nothing})
    if table.landed_on:
        # On the column itself, before anything else, so that only its partitions are read.
        landed = F.col(table.landed_on)
        frame = frame.filter(landed.isNull() | days.hold(landed))
    user = F.col(str(table.user)).cast("string")
    day = F.col(str(table.happened_at)).cast("date")
    frame = frame.withColumns({"user_id": F.when(F.trim(user) != "", user), "day": day})
    if table.landed_on:
        frame = frame.withColumn("_landed", F.col(table.landed_on))
    else:
        possible = Days(_OLDEST, _NEWEST).hold(F.col("day"))
        frame = frame.withColumn("_landed", F.when(possible, F.col("day")))
        frame = frame.filter(F.col("_landed").isNull() | days.hold(F.col("_landed")))
    return frame


def _reason(frame: DataFrame, table: RawTable) -> Column:
    """Why a row cannot be used whatever the other rows are; null if it can."""
    day, landed = F.col("day"), F.col("_landed")
    checks: list[tuple[Column, str]] = [
        (F.col("user_id").isNull(), "null user"),
        (day.isNull(), "null timestamp"),
        (~Days(_OLDEST, _NEWEST).hold(day), "absurd timestamp"),
        (landed.isNull(), "null landing day"),
        (day > landed, "happened after it landed"),
    ]
    checks += [(F.col(name).isNull(), f"null key column {name}") for name in table.key]
    numbers = [name for name, kind in frame.dtypes if kind in ("float", "double")]
    for name in numbers:
        value = F.col(name)
        infinite = F.abs(value) == F.lit(float("inf"))
        checks.append((F.isnan(value) | infinite, f"{name} is not a finite number"))
    checks += [(F.col(name) < 0, f"negative {name}") for name in table.non_negative]
    unreadable = F.when(
        F.col(UNREADABLE).isNotNull(), F.concat(F.lit("unreadable "), F.col(UNREADABLE))
    )
    return F.coalesce(unreadable, *(F.when(check, F.lit(reason)) for check, reason in checks))


def _copy_number(table: RawTable) -> Column:
    """1 for the row of a key that is kept: the first usable one, in an order without chance."""
    rest = [name for name in table.columns if name not in table.key]
    order = [F.col("_reason").isNotNull(), F.col("_landed"), F.col(str(table.happened_at))]
    return F.row_number().over(Window.partitionBy(*table.key).orderBy(*order, *map(F.col, rest)))


def _was_counted(days: Days, runs: Iterable[Entry]) -> Column:
    """Whether the row's day is before the window, and a run that answers for it saw the row."""
    seen: Column = F.lit(False)
    furthest_back = days.first
    for run in sorted(runs, key=lambda run: run.business_date, reverse=True):
        # A run of an earlier date adds something only where it goes further back.
        relevant = run.verdict == READY and run.business_date >= days.first
        if relevant and run.first_day < furthest_back:
            furthest_back = run.first_day
            seen |= (F.col("day") >= F.lit(run.first_day)) & (
                F.col("_landed") <= F.lit(run.business_date)
            )
    return seen & (F.col("day") < F.lit(days.first))


def accepted(judged: DataFrame) -> DataFrame:
    """The counted rows, as the SELECTs see them."""
    return judged.filter(F.col("_outcome") == COUNTED).drop("_outcome", "_landed", TEXT)


def outcomes(judged: DataFrame, table: RawTable) -> DataFrame:
    """Rows by outcome, the counted ones by day: ``raw_table, outcome, day, num_rows``."""
    counted_day = F.when(F.col("_outcome") == COUNTED, F.col("day"))
    return judged.groupBy(
        F.lit(table.name).alias("raw_table"),
        F.col("_outcome").alias("outcome"),
        counted_day.alias("day"),
    ).agg(F.count("*").alias("num_rows"))


def rejected(judged: DataFrame, table: RawTable, *, earlier: bool = False) -> DataFrame:
    """Rows for ``quarantine``; with ``earlier``, in the same form, rows an earlier run judged."""
    chosen = F.col("_outcome") == EARLIER
    if not earlier:
        chosen = ~F.col("_outcome").isin(COUNTED, EARLIER)
    whole = F.to_json(F.struct(*table.columns), {"ignoreNullFields": "false", "timeZone": "UTC"})
    return (
        judged.filter(chosen)
        .select(
            F.lit("aggregate").alias("job"),
            F.coalesce(F.col("_landed"), F.lit(UNKNOWN_DAY)).alias("day"),
            F.col("_outcome").alias("reason"),
            F.lit(table.name).alias("raw_table"),
            F.coalesce(F.col(TEXT), whole).alias("row"),
        )
        .groupBy("job", "day", "raw_table", "row")
        .agg(F.min("reason").alias("reason"), F.count("*").alias("num_rows"))
    )
