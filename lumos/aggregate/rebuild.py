"""``sequences`` out of the whole of ``activity``, by Spark: one shuffle of all of history."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos import ledger
from lumos.aggregate import write
from lumos.aggregate.advance import Built
from lumos.aggregate.spark import spark_session
from lumos.aggregate.static import latest
from lumos.aggregate.travel import at_version
from lumos.tables import ROW_GROUP_USERS, table_uri, tables
from lumos.verbs import Request

# Spark hands every setting of a session to the Parquet writer, and Delta passes on no option.
_ROW_GROUP = "parquet.block.row.count.limit"


def rebuild(request: Request, activity: ledger.Entry, users: ledger.Entry) -> Built:
    """Write ``sequences`` as a pure function of ``activity`` and ``users`` at pinned versions."""
    uri = table_uri(request.settings, request.recipe, "activity")
    num_days = write.count_rows(uri, activity.version)
    with spark_session("lumos sequences", num_rows=num_days) as spark, _row_groups(spark):
        active = _days_of_users(_open(spark, request, activity), request)
        known = _registered(_open(spark, request, users), request)
        joined = active.join(known, "user_id", "full_outer").persist()
        try:
            unseen = joined.filter(F.col("registered_on").isNull())
            waiting = unseen.select(
                "user_id",
                F.col("_first_active").alias("first_active_on"),
                F.size("days").alias("num_days"),
            ).toArrow()
            version = _write(joined.filter(F.col("registered_on").isNotNull()), request)
        finally:
            joined.unpersist()
    return Built(version, waiting)


@contextmanager
def _row_groups(spark: SparkSession) -> Iterator[None]:
    """Let a row group be what the loader reads at a time."""
    spark.conf.set(_ROW_GROUP, ROW_GROUP_USERS)
    try:
        yield
    finally:
        spark.conf.unset(_ROW_GROUP)


def _open(spark: SparkSession, request: Request, entry: ledger.Entry) -> DataFrame:
    uri = table_uri(request.settings, request.recipe, entry.table)
    return at_version(spark, uri, entry.version)


def _days_of_users(activity: DataFrame, request: Request) -> DataFrame:
    """One row a user: ``days``, ascending, as small as the loader reads them."""
    # The recipe may have a column that this version of the table has not.
    values = [
        (F.col(column.name) if column.name in activity.columns else F.lit(None))
        .cast("float")
        .alias(column.name)
        for column in request.recipe.activity
    ]
    day = F.struct(F.unix_date("day").cast("smallint").alias("day"), *values)
    # A struct sorts by its first field, and no user has a day twice.
    return (
        activity.filter(F.col("day") <= F.lit(request.date))
        .groupBy("user_id")
        .agg(F.sort_array(F.collect_list(day)).alias("days"), F.min("day").alias("_first_active"))
    )


def _registered(users: DataFrame, request: Request) -> DataFrame:
    valid = latest(users.filter(F.col("valid_from") <= F.lit(request.date)))
    return valid.filter(F.col("registered_on") <= F.lit(request.date))


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
