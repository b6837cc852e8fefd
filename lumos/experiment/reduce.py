"""From activity and exposures to a few kilobytes of sums: the part of `measure` that is Spark.

A metric is one SELECT over the view ``user_days``, which has at least one row for every exposed
user: ``user_id``, ``variant``, ``first_day``, ``as_of``, ``num_days`` (the user's days that
count), ``day`` (null for a user who did nothing), ``active``, and the activity columns under the
names that the experiment's declaration gives them. It returns a row a user: ``user_id``,
``numerator`` and, for a ratio, ``denominator``. The same SELECT over the days before exposure makes
the covariate. Users are then added up by variant, with all products of numerator, denominator and
covariates (:mod:`lumos.experiment.moments`): whatever statistics ask for later comes from these
sums, without another look at a user.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lumos.aggregate.travel import at_version
from lumos.config import Recipe
from lumos.experiment.declaration import ALL, Experiment
from lumos.experiment.effects import DENOMINATOR, NUMERATOR
from lumos.experiment.metrics import Metric, load_metric
from lumos.experiment.moments import added_up
from lumos.experiment.sums import FORECAST, Reduced
from lumos.settings import Settings, shipped_sql
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Request

# A mean of exact decimals is the same in whatever order Spark adds them.
_EXACT = "decimal(30,18)"


def user_days(
    spark: SparkSession,
    recipe: Recipe,
    experiment: Experiment,
    exposed: DataFrame,
    activity: DataFrame,
) -> DataFrame:
    """The view ``user_days`` over users with ``first_day``, ``as_of`` and ``num_days``.

    A value from before its column came counts as zero.
    """

    def amount(column: str) -> Column:
        return F.coalesce(F.col(column).cast("double"), F.lit(0.0))

    columns = {"cost": F.lit(None).cast("double")}
    columns |= {alias: amount(column) for alias, column in experiment.columns.items()}
    done = activity.select(
        F.col("user_id").alias("_user"),
        "day",
        (F.col(recipe.active) == 1).alias("active"),
        *(column.alias(alias) for alias, column in columns.items()),
    )
    joined = exposed.join(
        done,
        (F.col("user_id") == F.col("_user"))
        & F.col("day").between(F.col("first_day"), F.col("as_of")),
        "left",
    )
    never = F.lit(False)
    frame = joined.drop("_user").withColumn("active", F.coalesce("active", never))
    frame.createOrReplaceTempView("user_days")
    return frame


def run_metric(spark: SparkSession, metric: Metric) -> DataFrame:
    """The metric's SELECT over the view ``user_days`` as it stands.

    Raises:
        BadInput: It is no valid query, or returns other columns.
    """
    try:
        frame = spark.sql(metric.text)
        values = [name for name in frame.columns if name != "user_id"]
        numbers = frame.withColumns({name: F.col(name).cast("double") for name in values})
    except (AnalysisException, ParseException) as error:
        msg = f"{metric.path} cannot be run: {str(error).splitlines()[0]}"
        raise BadInput(msg) from error
    if not {NUMERATOR, "user_id"} <= set(frame.columns) <= {NUMERATOR, DENOMINATOR, "user_id"}:
        msg = (
            f"{metric.path} returns {', '.join(frame.columns)}; expected user_id, numerator and, "
            "for a ratio, denominator"
        )
        raise BadInput(msg)
    return numbers


def reduced(
    spark: SparkSession,
    request: Request,
    experiment: Experiment,
    publication: Mapping[str, Any] | None = None,
) -> Reduced:
    """Reduce the views ``activity`` and ``exposures`` and, for segments, ``users``.

    ``publication`` is the manifest of the scores that serve as covariate.

    Where a variant has no users yet, only users are counted.

    Raises:
        BadInput: A metric's SELECT is at fault.
    """
    settings, recipe = request.settings, request.recipe
    arguments = {
        "experiment": experiment.name,
        "start": experiment.start,
        "as_of": request.date,
        "has_cost": "cost" in experiment.columns,
    }

    def select(name: str) -> DataFrame:
        return spark.sql(_sql(settings, name), args=arguments)

    counts, excluded, last = _counts(spark, request, experiment)
    if empty := [name for name, count in counts.items() if not count]:
        none = tables(recipe)["outcomes"].arrow_schema(recipe).empty_table()
        note = (
            f"no users yet in {', '.join(empty)} by {request.date}, so nothing is compared; "
            f"lumos assign --date {request.date} exposes them"
        )
        return Reduced(experiment, counts, excluded, 0, none, {}, (note,))
    start, activity = experiment.start, spark.table("activity")
    begins = start - dt.timedelta(days=experiment.pre_days)
    # From here on a user is a number: it is dealt out, sorted and compared far faster than an id.
    numbered = select("exposed.sql").withColumn("number", F.monotonically_increasing_id())
    with _kept(numbered, "number") as exposed, ExitStack() as stack:
        exposed.createOrReplaceTempView("exposed")

        def days(users: DataFrame, first: dt.date, end: dt.date) -> DataFrame:
            done = activity.where(F.col("day").between(F.lit(first), F.lit(end)))
            found = user_days(spark, recipe, experiment, users, done)
            return stack.enter_context(_kept(_by_number(found), "user_id"))

        before = days(_moved_before(exposed, experiment), begins, last - dt.timedelta(days=1))
        since = days(exposed, start, request.date)
        since.createOrReplaceTempView("user_days")
        schema = tables(recipe)["outcomes"].arrow_schema(recipe)
        outcomes = pa.Table.from_pylist(
            [row.asDict() for row in select("outcomes.sql").collect()], schema=schema
        )
        frames = {}
        metrics = [load_metric(settings, recipe, name) for name in experiment.metrics]
        for metric in metrics:
            before.createOrReplaceTempView("user_days")
            covariate = run_metric(spark, metric)
            since.createOrReplaceTempView("user_days")
            frames[metric.name] = (run_metric(spark, metric), covariate)
        users = _labelled(spark, exposed.drop("as_of", "num_days"), experiment)
        users, missing = _predicted(spark, request, users, experiment, publication)
        users = stack.enter_context(_kept(_by_number(users), "user_id"))
        moments = {
            metric.name: added_up(metric, users, *frames[metric.name], counts) for metric in metrics
        }
        num_rows_before = _rows_before(spark, experiment) if last > start else 0
    return Reduced(
        experiment=experiment,
        counts=counts,
        excluded=excluded,
        num_rows_before=num_rows_before,
        outcomes=outcomes,
        moments=moments,
        missing=missing,
    )


@contextmanager
def _kept(frame: DataFrame, user: str) -> Iterator[DataFrame]:
    """Computed once and dealt out by user, on disk: what follows shuffles nothing."""
    kept = frame.repartition(user).persist(StorageLevel.DISK_ONLY)
    try:
        yield kept
    finally:
        kept.unpersist()


def _by_number(users: DataFrame) -> DataFrame:
    return users.drop("user_id").withColumnRenamed("number", "user_id")


def _moved_before(exposed: DataFrame, experiment: Experiment) -> DataFrame:
    """The same users with the days before exposure, which make the covariate."""
    return exposed.withColumns(
        {
            "first_day": F.date_sub("first_day", experiment.pre_days),
            "as_of": F.date_sub("first_day", 1),
            "num_days": F.lit(experiment.pre_days),
        }
    )


def _counts(
    spark: SparkSession, request: Request, experiment: Experiment
) -> tuple[dict[str, int], dict[str, int], dt.date]:
    """Users who count by variant, those who do not by reason, and the last day of exposure."""
    exposures = spark.table("exposures").where(
        (F.col("experiment") == experiment.name) & (F.col("exposed_on") <= F.lit(request.date))
    )
    found = (
        exposures.groupBy("variant", "excluded")
        .agg(F.count("*").alias("num_users"), F.max("exposed_on").alias("last"))
        .collect()
    )
    names = [variant.name for variant in experiment.variants]
    counts = dict.fromkeys(names, 0)
    excluded: dict[str, int] = {}
    for row in found:
        if row["excluded"] is None:
            counts[row["variant"]] = row["num_users"]
        else:
            excluded[row["excluded"]] = excluded.get(row["excluded"], 0) + row["num_users"]
    return counts, excluded, max((row["last"] for row in found), default=experiment.start)


def _rows_before(spark: SparkSession, experiment: Experiment) -> int:
    """Activity rows of the experiment's days that count for nobody: done before exposure."""
    late = spark.table("exposed").where(F.col("first_day") > F.lit(experiment.start))
    late = late.select(F.col("user_id").alias("_user"), "first_day")
    rows = spark.table("activity").where(F.col("day") >= F.lit(experiment.start))
    both = (F.col("user_id") == F.col("_user")) & (F.col("day") < F.col("first_day"))
    return rows.join(late, both).count()


def _labelled(spark: SparkSession, users: DataFrame, experiment: Experiment) -> DataFrame:
    """With the array ``segments``: all, and each declared attribute as it was at exposure."""
    if not experiment.segments:
        return users.withColumn("segments", F.array(F.lit(ALL)))
    attributes = spark.table("users").select("user_id", "valid_from", *experiment.segments)
    held = F.col("valid_from") <= F.col("first_day")
    order = Window.partitionBy("user_id").orderBy(
        held.desc_nulls_last(), F.col("valid_from").desc()
    )
    newest = (
        users.join(attributes, "user_id", "left")
        .withColumn("_place", F.row_number().over(order))
        .where(F.col("_place") == 1)
    )
    labels = [
        F.concat(F.lit(f"{name}="), F.coalesce(F.col(name), F.lit("unknown")))
        for name in experiment.segments
    ]
    return newest.select(*users.columns, F.array(F.lit(ALL), *labels).alias("segments"))


def _predicted(
    spark: SparkSession,
    request: Request,
    users: DataFrame,
    experiment: Experiment,
    publication: Mapping[str, Any] | None,
) -> tuple[DataFrame, tuple[str, ...]]:
    """With the column ``forecast``, the score from before the start, or its mean."""
    if experiment.forecast is None:
        return users, ()
    if publication is None:
        if experiment.adjust in ("forecast", "both"):
            msg = (
                f"experiment {experiment.name} is adjusted by {experiment.forecast}, but no scores "
                f"were published before {experiment.start}. Publish a day before the start "
                f"(lumos score and publish), or declare a new experiment with another adjust"
            )
            raise BadInput(msg)
        return users, (
            f"no {experiment.forecast} was published before {experiment.start}: no effect is "
            "adjusted by the forecast",
        )
    uri = table_uri(request.settings, request.recipe, "scores")
    scores = (
        at_version(spark, uri, publication["scores_version"])
        .where(F.col("as_of") == F.lit(publication["as_of"]))
        .select("user_id", F.col(experiment.forecast).cast(_EXACT).alias(FORECAST))
    )
    joined = users.join(scores, "user_id", "left")
    mean, lacking = joined.agg(
        F.avg(FORECAST).cast("double"), F.count_if(F.col(FORECAST).isNull())
    ).collect()[0]
    missing = (
        f"{lacking} users had no {experiment.forecast} before {experiment.start}; "
        "the mean of the others stands for theirs",
    )
    filled = joined.withColumn(
        FORECAST, F.coalesce(F.col(FORECAST).cast("double"), F.lit(float(mean or 0.0)))
    )
    return filled, missing if lacking else ()


def _sql(settings: Settings, name: str) -> str:
    """An adopter's own SQL folder may hold other statistics; ours serve where it does not."""
    folders = [root / "experiment" for root in (settings.sql_root, shipped_sql())]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    msg = f"{name} is in none of {', '.join(map(str, folders))}; set LUMOS_SQL to include/sql"
    raise BadInput(msg)
