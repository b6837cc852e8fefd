"""``users``: who exists since when, with attributes that hold from a day on (point in time)."""

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from lumos.aggregate.facts import Days
from lumos.config import Recipe
from lumos.settings import Settings
from lumos.tables import table_uri

# A view for static.sql: users as they stood before the window, so that a daily run can tell a
# new user from a known one without reading the whole past.
KNOWN_USERS = "known_users"


def known_users(spark: SparkSession, settings: Settings, recipe: Recipe, days: Days) -> DataFrame:
    """Users valid before the window, each with the latest attributes of that time."""
    users = spark.read.format("delta").load(table_uri(settings, recipe, "users"))
    return latest(users.filter(F.col("valid_from") < F.lit(days.first)))


def latest(users: DataFrame) -> DataFrame:
    """One row a user: the one valid last; registered on the first day that any row says."""
    newest = Window.partitionBy("user_id").orderBy(F.col("valid_from").desc())
    anytime = Window.partitionBy("user_id")
    return (
        users.withColumn("_place", F.row_number().over(newest))
        .withColumn("registered_on", F.min("registered_on").over(anytime))
        .filter(F.col("_place") == 1)
        .drop("_place")
    )
