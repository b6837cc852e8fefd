"""The book-keeping of rows: what came in, what was written, what must agree with each other."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lumos.dates import EPOCH, first_of_window
from lumos.delta import predicate, read
from lumos.quality.usual import Day, Measured, equal, measured
from lumos.tables import table_uri
from lumos.verbs import Request

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Below this many rows delta-rs reads a table faster than a JVM that has just started, which
# must first load and compile the classes of Delta: most of the time of a small `validate`.
_SMALL_ROWS = 500_000


def load(
    spark: "SparkSession",
    request: Request,
    table: str,
    versions: Mapping[str, int],
    *,
    days: tuple[str, dt.date, dt.date] | None = None,
    columns: Sequence[str] | None = None,
) -> "DataFrame":
    """Rows of a contract table at its pinned version.

    Args:
        spark: The session.
        request: Whose lake and recipe.
        table: The table.
        versions: Delta versions by table.
        days: A column of days, and the first and the last one wanted; all when ``None``.
        columns: Columns wanted; all when ``None``.
    """
    from pyspark.sql import functions as f

    from lumos.aggregate.travel import at_version
    from lumos.aggregate.write import count_rows

    uri, version = table_uri(request.settings, request.recipe, table), versions[table]
    if count_rows(uri, version) <= _SMALL_ROWS:
        where = predicate(**{days[0]: days[1:]}) if days else None
        rows = read(uri, version=version, columns=columns, where=where)
        return spark.createDataFrame(rows)
    frame = at_version(spark, uri, version)
    if days:
        frame = frame.where(f.col(days[0]).between(*days[1:]))
    return frame.select(*columns) if columns else frame


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
    if "users" not in versions:
        return
    from pyspark.sql import functions as f

    date = request.date
    by_day, by_start = ("day", EPOCH, date), ("valid_from", EPOCH, date)
    activity = load(spark, request, "activity", versions, days=by_day, columns=("user_id", "day"))
    users = load(
        spark, request, "users", versions, days=by_start,
        columns=("user_id", "valid_from", "registered_on"),
    ).where(f.col("registered_on") <= date)  # fmt: skip
    by_user = activity.groupBy("user_id").agg(f.count(f.lit(1)).alias("days"))
    is_known = f.col("_known").isNotNull()
    joined = by_user.join(
        users.select("user_id", f.lit(1).alias("_known")).distinct(), "user_id", "left"
    )
    (found,) = joined.agg(
        f.count_if(~is_known).alias("strangers"),
        f.coalesce(f.sum(f.when(is_known, f.col("days"))), f.lit(0)).alias("days"),
    ).collect()
    yield measured(
        "users",
        "strangers",
        found["strangers"],
        within=(0, 0),
        fault=f"users {date}: {found['strangers']} users of activity have no row in users, "
        "so they are neither learned from nor scored",
    )
    if "sequences" in versions:
        sequences = load(spark, request, "sequences", versions, columns=("days",))
        days = sequences.agg(f.sum(f.size("days"))).collect()[0][0] or 0
        yield equal(
            "sequences",
            "active_days",
            days - found["days"],
            fault=f"sequences {date}: {days} active days in all, but activity has "
            f"{found['days']} rows of registered users",
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
