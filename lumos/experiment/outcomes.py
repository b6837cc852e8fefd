"""From activity and exposures to a few numbers per variant: the part of ``measure`` that is Spark.

The SQL lies under ``include/sql/experiment/``; dates, names of experiments and of columns reach
it as bound parameters only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from lumos.aggregate.spark import spark_session
from lumos.aggregate.write import count_rows
from lumos.config import Experiment
from lumos.experiment.assignment import bucket_shares
from lumos.experiment.effects import (
    DAU,
    METRICS,
    OFFER_COST,
    Effect,
    Sample,
    Sums,
    compare,
    sample_of,
    sample_ratio_p_value,
)
from lumos.settings import Settings, shipped_sql
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Request


@dataclass(frozen=True)
class Measured:
    """One experiment on one business date: each day, each variant, and variants compared.

    ``outcomes`` has the columns of the table of that name; ``samples`` goes by variant, then
    metric; ``effects`` by metric and treatment.
    """

    experiment: Experiment
    outcomes: pa.Table
    samples: Mapping[str, Mapping[str, Sample]]
    effects: Mapping[tuple[str, str], Effect]
    srm_p_value: float

    @property
    def is_split_broken(self) -> bool:
        """The sample-ratio check failed, so no effect can be believed."""
        return self.srm_p_value < self.experiment.srm_alpha

    def num_users(self, variant: str) -> int:
        """How many users were exposed by the business date."""
        return self.samples[variant][DAU].num_users


@contextmanager
def pinned_views(request: Request, versions: Mapping[str, int]) -> Iterator[SparkSession]:
    """A Spark session in which each table of ``versions`` is a view at that version."""
    uris = {table: table_uri(request.settings, request.recipe, table) for table in versions}
    num_rows = sum(count_rows(uris[table], version) for table, version in versions.items())
    with spark_session("lumos measure", num_rows=num_rows) as spark:
        for table, version in versions.items():
            uri = uris[table]
            frame = spark.read.format("delta").option("versionAsOf", version).load(uri)
            frame.createOrReplaceTempView(table)
        yield spark


def measured(spark: SparkSession, request: Request, experiment: Experiment) -> Measured:
    """Reduce the views ``activity`` and ``exposures``, and compare each variant with the first.

    Raises:
        BadInput: A variant has no users yet.
    """
    arguments = {
        "experiment": experiment.name,
        "start": experiment.start,
        "as_of": request.date,
        "active": request.recipe.active,
        "cost": experiment.cost,
    }

    def rows(name: str) -> list[dict[str, Any]]:
        found = spark.sql(_sql(request.settings, name), args=arguments).collect()
        return [row.asDict() for row in found]

    by_variant = {row.pop("variant"): row for row in rows("user_sums.sql")}
    names = [variant.name for variant in experiment.variants]
    empty = [name for name in names if name not in by_variant]
    if empty:
        msg = (
            f"experiment {experiment.name} has no users in {', '.join(empty)} by {request.date}, "
            f"of {', '.join(names)}. Run lumos assign --date {request.date} "
            f"--experiment {experiment.name}, or wait for more users"
        )
        raise BadInput(msg)
    samples = {name: _samples(by_variant[name]) for name in names}
    schema = tables(request.recipe)["outcomes"].arrow_schema(request.recipe)
    return Measured(
        experiment=experiment,
        outcomes=pa.Table.from_pylist(rows("outcomes.sql"), schema=schema),
        samples=samples,
        effects={
            (metric, name): compare(
                samples[names[0]][metric], samples[name][metric], alpha=experiment.alpha
            )
            for metric in METRICS
            for name in names[1:]
        },
        srm_p_value=sample_ratio_p_value(
            [samples[name][DAU].num_users for name in names],
            [float(share) for share in bucket_shares(experiment)],
        ),
    )


def _samples(row: Mapping[str, int | Decimal]) -> dict[str, Sample]:
    exact = {name: Fraction(value) for name, value in row.items()}
    num_users = int(row["num_users"])
    active = Sums(
        num_users=num_users,
        x=exact["num_active_days"],
        x_squared=exact["num_active_days_squared"],
        y=exact["num_days"],
        y_squared=exact["num_days_squared"],
        xy=exact["num_active_days_times_days"],
    )
    cost = Sums.of_mean(num_users, exact["cost"], exact["cost_squared"])
    return {DAU: sample_of(active), OFFER_COST: sample_of(cost)}


def _sql(settings: Settings, name: str) -> str:
    """An adopter's own SQL folder may hold other statistics; ours serve where it does not."""
    folders = [root / "experiment" for root in (settings.sql_root, shipped_sql())]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    msg = f"{name} is in none of {', '.join(map(str, folders))}; set LUMOS_SQL to include/sql"
    raise BadInput(msg)
