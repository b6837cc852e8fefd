"""The verb ``sequences``: activity turned on its side, one row a user, for the loader to cut.

A pure function of ``activity`` and ``users`` at the versions that the ledger pins. Windows are
never stored: a user's whole past takes about two kilobytes, its exploded windows a hundred times
that.
"""

import datetime as dt
from collections.abc import Iterable

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos import ledger
from lumos.aggregate import write
from lumos.aggregate.facts import Days
from lumos.aggregate.spark import spark_session
from lumos.aggregate.static import latest
from lumos.config import Recipe
from lumos.delta import predicate, read, replace
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Report, Request, TableWritten

NOT_REGISTERED = "active but not in users yet"


def sequences(request: Request) -> Report:
    """Build ``sequences`` as of ``--date`` and pin its version in the ledger.

    A user that is active but not in ``users`` yet is quarantined, and is back, with its whole
    past, on the day its row in ``users`` arrives.

    Raises:
        BadInput: ``activity`` is not ready for the date, or days before it were never aggregated.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    remedy = f"Run: {_command(recipe, date, 0)}"
    activity = ledger.require(settings, recipe, "activity", date, remedy=remedy)
    users = ledger.require(settings, recipe, "users", date, remedy=remedy)
    _check_covered(request, activity, ledger.entries(settings, recipe, "activity"))
    inputs: dict[str, int | str] = {"activity": activity.version, "users": users.version}
    done = ledger.already_done(request, "sequences", inputs)
    if done is not None:
        return done
    num_days = write.count_rows(table_uri(settings, recipe, "activity"), activity.version)
    with spark_session("lumos sequences", num_rows=num_days) as spark:
        active = _days_of_users(_open(spark, request, activity), recipe, date)
        known = _registered(_open(spark, request, users), date)
        joined = active.join(known, "user_id", "full_outer").persist()
        try:
            unseen = joined.filter(F.col("registered_on").isNull())
            num_unseen = _quarantine(request, unseen)
            version = _write(joined.filter(F.col("registered_on").isNotNull()), request)
        finally:
            joined.unpersist()
    num_rows = write.count_rows(table_uri(settings, recipe, "sequences"), version)
    report = request.report(
        tables=(TableWritten(table="sequences", version=version, rows=num_rows),),
        rows_rejected=num_unseen,
        details={"rejected": {NOT_REGISTERED: num_unseen} if num_unseen else {}},
    )
    return ledger.record(request, report, inputs=inputs, first_day=activity.first_day)


def _open(spark: SparkSession, request: Request, entry: ledger.Entry) -> DataFrame:
    uri = table_uri(request.settings, request.recipe, entry.table)
    return spark.read.format("delta").option("versionAsOf", entry.version).load(uri)


def _check_covered(request: Request, own: ledger.Entry, runs: Iterable[ledger.Entry]) -> None:
    """Every day from the first one covered to the date must be in the version that is pinned."""
    # A run that committed later is not in that version, whatever its date.
    ready = [
        run
        for run in runs
        if run.verdict == ledger.READY
        and run.business_date <= own.business_date
        and run.version <= own.version
    ]
    first = min(run.first_day for run in ready)
    owned = write.without_owner(Days(first, own.business_date), ready)
    if owned:
        gap = owned[0]
        days = (gap.last - gap.first).days + 1
        length = (own.business_date - own.first_day).days + 1
        msg = (
            f"activity of recipe {request.recipe.name} has no ready run for {gap.first} .. "
            f"{gap.last}. Run: {_command(request.recipe, gap.last, days)}; and then, to pin a "
            f"version with them: {_command(request.recipe, own.business_date, length)} --force"
        )
        raise BadInput(msg)


def _command(recipe: Recipe, date: dt.date, days: int) -> str:
    window = f" --days {days}" if days else ""
    return f"lumos aggregate --recipe {recipe.name} --date {date}{window}"


def _days_of_users(activity: DataFrame, recipe: Recipe, date: dt.date) -> DataFrame:
    """One row a user: ``days``, ascending, as small as the loader reads them."""
    values = [F.col(column.name).cast("float").alias(column.name) for column in recipe.activity]
    day = F.struct(F.unix_date("day").cast("smallint").alias("day"), *values)
    # A struct sorts by its first field, and no user has a day twice.
    return (
        activity.filter(F.col("day") <= F.lit(date))
        .groupBy("user_id")
        .agg(F.sort_array(F.collect_list(day)).alias("days"), F.min("day").alias("_first_active"))
    )


def _registered(users: DataFrame, date: dt.date) -> DataFrame:
    valid = latest(users.filter(F.col("valid_from") <= F.lit(date)))
    return valid.filter(F.col("registered_on") <= F.lit(date))


def _write(joined: DataFrame, request: Request) -> int:
    recipe = request.recipe
    table = tables(recipe)["sequences"]
    days_type = {column.name: column.type for column in table.columns}["days"]
    bucket = F.pmod(F.xxhash64("user_id"), F.lit(recipe.num_buckets)).cast("int")
    rows = joined.withColumns(
        {
            # Who was active before the day it says it registered existed before that day.
            "registered_on": F.least("registered_on", "_first_active"),
            "days": F.coalesce(F.col("days"), F.array().cast(days_type)),
            "bucket": bucket,
        }
    ).select(*table.column_names)
    uri = table_uri(request.settings, recipe, "sequences")
    (
        rows.repartition("bucket")
        .sortWithinPartitions("bucket", "user_id")
        .write.format("delta")
        .mode("overwrite")
        .option("overwriteSchema", True)
        .options(**write.RETENTION)
        .partitionBy(*table.partition)
        .save(uri)
    )
    return write.newest_version(request, "sequences")


def _quarantine(request: Request, unseen: DataFrame) -> int:
    """Put users without a registration aside; returns how many there are."""
    recipe, date = request.recipe, request.date
    table = tables(recipe)["quarantine"]
    row = F.to_json(
        F.struct(
            "user_id",
            F.col("_first_active").alias("first_active_on"),
            F.size("days").alias("num_days"),
        )
    )
    rows = unseen.select(
        F.lit("sequences").alias("job"),
        F.lit(date).alias("day"),
        F.lit(NOT_REGISTERED).alias("reason"),
        F.lit("activity").alias("raw_table"),
        row.alias("row"),
        F.lit(1).cast("bigint").alias("num_rows"),
    )
    uri = table_uri(request.settings, recipe, "quarantine")
    where = predicate(job="sequences", day=date)
    found = rows.toArrow()
    before = read(uri, where=where)
    if found.num_rows or (before is not None and before.num_rows):
        replace(uri, write.as_declared(found, table, recipe), where=where)
    return int(found.num_rows)
