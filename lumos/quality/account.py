"""The book-keeping of rows: what came in, what was written, what must agree with each other."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lumos.dates import first_of_window
from lumos.quality.usual import Day, Measured, equal, measured
from lumos.tables import predicate, read, table_uri
from lumos.verbs import Request

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def load(
    spark: "SparkSession", request: Request, table: str, versions: Mapping[str, int]
) -> "DataFrame":
    """A contract table at its pinned version."""
    uri = table_uri(request.settings, request.recipe, table)
    return spark.read.format("delta").option("versionAsOf", versions[table]).load(uri)


def conserved(request: Request, conservation: Mapping[str, int], written: int) -> list[Measured]:
    """Every raw row that landed went somewhere, and activity holds those that it should.

    Args:
        request: Of aggregate.
        conservation: Raw rows that ``landed``, and by name what became of them; those
            ``counted`` are in activity.
        written: Raw rows that the written rows of activity say they count.
    """
    landed, counted = conservation["landed"], conservation["counted"]
    parts = {name: number for name, number in conservation.items() if name != "landed"}
    said = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in parts.items())
    return [
        equal(
            "raw",
            "conservation",
            landed - sum(parts.values()),
            fault=f"raw {request.date}: {landed} rows landed, but {said}",
        ),
        equal(
            "activity",
            "rows_written",
            written - counted,
            fault=f"activity {request.date}: num_raw_rows sums to {written} over the days "
            f"written, but {counted} raw rows were counted",
        ),
    ]


def as_audited(
    request: Request, profile: Mapping[dt.date, Day], versions: Mapping[str, int]
) -> Iterator[Measured]:
    """The window that was audited still counts as many raw rows, and few were rejected."""
    audited = _audited(request)
    if not audited:
        return
    date, first = request.date, first_of_window(request.date, audited["window_days"])
    counted = sum(day.num_raw_rows for at, day in profile.items() if first <= at)
    yield equal(
        "activity",
        "rows_audited",
        counted - audited["rows_counted"],
        fault=f"activity {date}: num_raw_rows sums to {counted} since {first}, but aggregate "
        f"counted {audited['rows_counted']} raw rows: the table has changed since",
    )
    rejected = _num_quarantined(request, first, versions)
    share = rejected / max(1, rejected + counted)
    most = request.recipe.quality.max_quarantined_share
    yield measured(
        "quarantine",
        "share",
        share,
        within=(0, most),
        fault=f"quarantine {date}: {rejected} raw rows ({share:.1%}) that landed since {first} "
        f"were rejected; {most:.1%} is allowed",
    )


def against_each_other(
    spark: "SparkSession", request: Request, versions: Mapping[str, int]
) -> Iterator[Measured]:
    """Tables that tell of the same users and days must tell the same."""
    from pyspark.sql import functions as f

    activity = load(spark, request, "activity", versions).where(f.col("day") <= request.date)
    if "users" in versions:
        users = load(spark, request, "users", versions).select("user_id")
        strangers = activity.select("user_id").distinct().join(users, "user_id", "left_anti")
        count = strangers.count()
        yield equal(
            "users",
            "strangers",
            count,
            fault=f"users {request.date}: {count} users of activity have no row in users",
        )
    if "sequences" in versions:
        sequences = load(spark, request, "sequences", versions)
        days = sequences.agg(f.sum(f.size("days"))).collect()[0][0] or 0
        rows = activity.count()
        yield equal(
            "sequences",
            "active_days",
            days - rows,
            fault=f"sequences {request.date}: {days} active days in all, "
            f"but activity has {rows} rows",
        )


def _audited(request: Request) -> dict[str, int]:
    """What the audit of the date recorded of raw rows, by name."""
    uri = table_uri(request.settings, request.recipe, "metrics")
    rows = read(uri, where=predicate(job="aggregate", day=request.date, segment="raw"))
    return {row["name"]: int(row["value"]) for row in rows.to_pylist()} if rows else {}


def _num_quarantined(request: Request, first_day: dt.date, versions: Mapping[str, int]) -> int:
    rows = read(
        table_uri(request.settings, request.recipe, "quarantine"),
        version=versions.get("quarantine"),
        columns=["num_rows"],
        where=predicate(job="aggregate", day=(first_day, request.date)),
    )
    return sum(rows["num_rows"].to_pylist()) if rows else 0
