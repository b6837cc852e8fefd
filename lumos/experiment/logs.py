"""What a declaration brings as SQL: who may take part, and who met the change."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos.aggregate.contract import blaming
from lumos.experiment.declaration import Experiment
from lumos.experiment.held import beside
from lumos.experiment.texts import read_text
from lumos.verbs import BadInput, Request


def eligible_users(
    request: Request, spark: SparkSession, experiment: Experiment, name: str
) -> pa.Array:
    """Who may take part, by a SELECT over ``users`` and ``activity``.

    Raises:
        BadInput: The SELECT is at fault.
    """
    frame = _select(request, spark, experiment, name, {"user_id": "string"})
    with blaming(beside(request, experiment, name)):
        return frame.distinct().toArrow()["user_id"].cast(pa.string())


def logged_exposures(
    request: Request, spark: SparkSession, experiment: Experiment, name: str
) -> tuple[pa.Table, list[str]]:
    """The log of exposures by user, and what to say of its rows.

    Returns:
        ``user_id``, ``first_day``, ``since`` (the first day since the start), ``seen`` and ``also``
        (least and greatest variant).

    Raises:
        BadInput: The SELECT is at fault, or names variants that are not the experiment's.
    """
    path = beside(request, experiment, name)
    frame = _select(
        request, spark, experiment, name, {"user_id": "string", "day": "date"}, ("variant",)
    )
    if "variant" not in frame.columns:
        frame = frame.withColumn("variant", F.lit(None).cast("string"))
    names = [variant.name for variant in experiment.variants]
    since = F.col("day") >= F.lit(experiment.start)
    with blaming(path):
        odd = frame.select(
            F.count_if(F.col("user_id").isNull() | F.col("day").isNull()),
            F.collect_set(F.when(~F.col("variant").isin(names), F.col("variant"))),
        ).first()
        assert odd is not None
        if odd[1]:
            msg = (
                f"{path}: variants {sorted(odd[1])} are not experiment {experiment.name}'s: {names}"
            )
            raise BadInput(msg)
        grouped = (
            frame.where(F.col("user_id").isNotNull() & F.col("day").isNotNull())
            .where(F.col("day") <= F.lit(request.date))
            .groupBy("user_id")
            .agg(
                F.min("day").alias("first_day"),
                F.min(F.when(since, F.col("day"))).alias("since"),
                F.min("variant").alias("seen"),
                F.max("variant").alias("also"),
            )
            .orderBy("user_id")
            .toArrow()
        )
    notes = (
        [f"{experiment.name}: {odd[0]:,} rows of {name} have no user or no day"] if odd[0] else []
    )
    return grouped, notes


def _select(
    request: Request,
    spark: SparkSession,
    experiment: Experiment,
    name: str,
    wanted: Mapping[str, str],
    optional: Sequence[str] = (),
) -> DataFrame:
    """The result of a declaration's own SELECT over ``users`` and ``activity``.

    Raises:
        BadInput: It is no valid query, or returns other columns or types.
    """
    path = beside(request, experiment, name)
    try:
        frame = spark.sql(
            read_text(path),
            args={"start": experiment.start, "as_of": request.date},
        )
    except (AnalysisException, ParseException) as error:
        msg = f"{path} cannot be run: {str(error).splitlines()[0]}"
        raise BadInput(msg) from error
    found = dict(frame.dtypes)
    wrong = [f"{column} {kind}" for column, kind in wanted.items() if found.get(column) != kind]
    if wrong or not set(found) <= {*wanted, *optional}:
        msg = (
            f"{path} returns {', '.join(f'{c} {k}' for c, k in found.items())}; expected "
            f"{', '.join(f'{c} {k}' for c, k in wanted.items())}"
            f"{''.join(f' and, if known, {c}' for c in optional)}. A time becomes a business day "
            f"by to_date(from_utc_timestamp(time, '{request.recipe.timezone}'))"
        )
        raise BadInput(msg)
    return frame
