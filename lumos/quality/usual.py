"""Is the business date like the days before it? Counts, means, gaps, and sums that must agree.

Rows can be flawless one by one while half of them are missing. These checks compare numbers
instead: the day against the median of its usual days, and tables with each other.
"""

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median, pstdev
from typing import TYPE_CHECKING

from lumos.config import Recipe
from lumos.dates import first_of_window
from lumos.quality.suites import Check, Severity

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FEWEST_USUAL_DAYS = 7
# A mean is unusual beyond this many robust standard deviations of the usual days' means, and by
# more than this share of their median. On Complete Journey's year that warns on 12 of 3,454
# column-days, all of them bursts of coupons, and notices a column doubled on 5 days of 6.
_SIGMAS, _MAD_TO_SIGMA, _LEAST_CHANGE = 6.0, 1.4826, 0.1


@dataclass(frozen=True)
class Day:
    """One day of activity in numbers.

    Means are over the rows where the user was active; ``empty`` are the columns without a value.
    """

    num_rows: int
    num_raw_rows: int
    num_active: int
    means: Mapping[str, float]
    empty: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Measured:
    """A number, and the check that says which values of it are fine."""

    check: Check
    value: float


def measured(
    segment: str, name: str, value: float, *, within: tuple[float, float], fault: str,
    severity: Severity = "warning",
) -> Measured:  # fmt: skip
    """A number that should lie within two bounds.

    Args:
        segment: ``table`` or ``table.column``.
        name: Of the check.
        value: The number.
        within: The least and the largest value that are fine.
        fault: A whole sentence for when it is not.
        severity: What it means then.
    """
    table, _, column = segment.partition(".")
    check = Check(
        table=table,
        name=name,
        column=column,
        severity=severity,
        expectation="ExpectColumnValuesToBeBetween",
        fault=f"{fault} ({severity})",
        arguments={
            "column": f"{segment} {name}",
            "min_value": within[0],
            "max_value": within[1],
        },
    )
    return Measured(check, float(value))


def equal(segment: str, name: str, difference: int, *, fault: str) -> Measured:
    """Two counts that must agree: their difference is zero, or the day is refused."""
    return measured(segment, name, difference, within=(0, 0), fault=fault, severity="critical")


def daily_profile(activity: "DataFrame", recipe: Recipe) -> dict[dt.date, Day]:
    """Count and average the rows of each day, in one pass."""
    from pyspark.sql import functions as f

    is_active = f.col(recipe.active) == 1
    names = [column.name for column in recipe.activity if column.name != recipe.active]
    rows = (
        activity.groupBy("day")
        .agg(
            f.count(f.lit(1)).alias("_rows"),
            f.sum("num_raw_rows").alias("_raw_rows"),
            f.count_if(is_active).alias("_active"),
            *(f.avg(f.when(is_active, f.col(name))).alias(name) for name in names),
            *(f.count(column.name).alias(f"_{column.name}") for column in recipe.activity),
        )
        .collect()
    )
    return {
        row["day"]: Day(
            num_rows=row["_rows"],
            num_raw_rows=row["_raw_rows"],
            num_active=row["_active"],
            means={name: row[name] for name in names if row[name] is not None},
            empty=frozenset(c.name for c in recipe.activity if not row[f"_{c.name}"]),
        )
        for row in sorted(rows, key=lambda row: row["day"])
    }


def without_older_days(
    activity: "DataFrame", profile: Mapping[dt.date, Day], recipe: Recipe
) -> "DataFrame":
    """Activity in which days from before a column came say zero, as every reader takes them.

    A column that has no value on a whole day was not there yet; one that lacks some stays as it
    is, and is a fault.

    Args:
        activity: Rows of some days.
        profile: Of the same rows.
        recipe: Declares the columns.
    """
    from pyspark.sql import functions as f

    filled = {}
    for column in recipe.activity:
        older = [day for day, found in profile.items() if column.name in found.empty]
        if older:
            value = f.col(column.name)
            is_older = f.col("day").isin(older)
            filled[column.name] = f.when(is_older, f.coalesce(value, f.lit(0.0))).otherwise(value)
    return activity.withColumns(filled) if filled else activity


def against_usual_days(
    profile: Mapping[dt.date, Day], recipe: Recipe, date: dt.date
) -> list[Measured]:
    """Compare the business date with the days before it.

    Returns:
        Freshness and gaps always; volume and means only where at least
        :data:`FEWEST_USUAL_DAYS` of the recipe's usual days have rows.
    """
    first = first_of_window(date, recipe.quality.usual_days + 1)
    usual = [day for at, day in profile.items() if first <= at < date]
    found = [*_gaps(profile, recipe, date)]
    if date in profile and len(usual) >= FEWEST_USUAL_DAYS:
        found.append(_volume(profile[date], usual, recipe, date))
        found.extend(_means(profile[date], usual, date))
    return found


def _gaps(profile: Mapping[dt.date, Day], recipe: Recipe, date: dt.date) -> Iterator[Measured]:
    newest = max((day for day in profile if day <= date), default=None)
    behind = (date - newest).days if newest else recipe.quality.usual_days
    yield measured(
        "activity",
        "freshness",
        behind,
        within=(0, 0),
        fault=f"activity {date}: the newest day with a row is {newest or 'none at all'}",
    )
    start = max(min(profile, default=date), first_of_window(date, recipe.quality.usual_days + 1))
    days = (start + dt.timedelta(days=n) for n in range((date - start).days))
    empty = [day.isoformat() for day in days if day not in profile]
    yield measured(
        "activity",
        "empty_days",
        len(empty),
        within=(0, 0),
        fault=f"activity {date}: no row at all on {', '.join(empty)}",
    )


def _volume(day: Day, usual: list[Day], recipe: Recipe, date: dt.date) -> Measured:
    typical = median(other.num_rows for other in usual)
    most = recipe.quality.max_volume_change
    change = day.num_rows / typical - 1
    return measured(
        "activity",
        "volume",
        day.num_rows,
        within=(typical * (1 - most), typical * (1 + most)),
        fault=f"activity {date}: {day.num_rows} rows, {abs(change):.0%} "
        f"{'above' if change > 0 else 'below'} the median of {len(usual)} usual days "
        f"({typical:g}); {most:.0%} is allowed",
    )


def _means(day: Day, usual: list[Day], date: dt.date) -> Iterator[Measured]:
    typical_active = median(other.num_active for other in usual)
    # A mean of few rows strays more.
    thin = math.sqrt(max(1.0, typical_active / max(1, day.num_active)))
    for name, mean in day.means.items():
        means = [other.means[name] for other in usual if name in other.means]
        if len(means) < FEWEST_USUAL_DAYS:
            continue
        centre = median(means)
        spread = _MAD_TO_SIGMA * median(abs(other - centre) for other in means)
        # Bursts (coupons come in campaigns) hide from the median deviation.
        spread = max(spread, pstdev(means) / 2)
        allowed = max(_SIGMAS * spread * thin, _LEAST_CHANGE * abs(centre))
        yield measured(
            f"activity.{name}",
            "mean",
            mean,
            within=(centre - allowed, centre + allowed),
            fault=f"activity {date}: the mean of {name} over active rows is {mean:.4g}, "
            f"on {len(means)} usual days {centre:.4g} +- {allowed:.4g}",
        )
