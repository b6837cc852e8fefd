"""All products of a metric's columns, added up by segment and variant, exactly.

Sums are decimals, so that the order in which Spark adds changes no bit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from lumos.aggregate.contract import blaming
from lumos.experiment.declaration import ALL
from lumos.experiment.effects import NUMERATOR, ONE, Moments
from lumos.experiment.metrics import Metric
from lumos.experiment.sums import FORECAST, BySegment
from lumos.verbs import BadInput

BEFORE = "pre_"
# Values are added as decimals of 18 digits, 6 of them after the point.
_EXACT, _LARGEST = "decimal(18,6)", 1e12
# Values below 1 are raised to this many digits before the point, or six decimals would lose them.
_DIGITS = 6


def added_up(
    metric: Metric,
    users: DataFrame,
    since: DataFrame,
    before: DataFrame,
    counts: Mapping[str, int],
) -> BySegment:
    """All products of a metric's columns and covariates, added up by segment and variant."""
    values = [name for name in since.columns if name != "user_id"]
    earlier = before.select("user_id", *(F.col(name).alias(BEFORE + name) for name in values))
    joined = users.join(since, "user_id", "left").join(earlier, "user_id", "left")
    names = [*values, *(BEFORE + name for name in values)]
    names += [FORECAST] if FORECAST in users.columns else []
    with blaming(metric.path):
        caps = _caps(metric, joined, (NUMERATOR, BEFORE + NUMERATOR))
        rows = _sums(joined, names, caps, {}).collect()
    for row in rows:
        _refuse_values(metric, names, row.asDict())
    if scales := _scales(names, rows):
        rows = _sums(joined, names, caps, scales).collect()
    found = sum(int(row["0_0"]) for row in rows if row["segment"] == ALL)
    if found != sum(counts.values()):
        msg = (
            f"{metric.path} returns more than one row for a user ({found:,} rows for "
            f"{sum(counts.values()):,} users); GROUP BY user_id"
        )
        raise BadInput(msg)
    moments: dict[str, dict[str, Moments]] = {}
    for row in rows:
        moments.setdefault(row["segment"], {})[row["variant"]] = _as_moments(
            names, row.asDict(), scales
        )
    return moments


def _caps(metric: Metric, joined: DataFrame, names: Sequence[str]) -> dict[str, float]:
    """The quantile of all users together, so that no variant has a cap of its own."""
    if metric.winsorize is None:
        return {}
    quantiles = [F.percentile(F.coalesce(name, F.lit(0.0)), metric.winsorize) for name in names]
    found = joined.agg(*quantiles).collect()[0]
    return dict(zip(names, found, strict=True))


def _scales(names: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Powers of ten for columns in units so large that six decimals would lose their digits."""
    peaks = {name: max((row[f"peak_{name}"] or 0.0) for row in rows) for name in names}
    return {
        name: 10.0 ** (_DIGITS - 1 - math.floor(math.log10(peak)))
        for name, peak in peaks.items()
        if 0 < peak < 1
    }


def _sums(
    joined: DataFrame,
    names: Sequence[str],
    caps: Mapping[str, float],
    scales: Mapping[str, float],
) -> DataFrame:
    def capped(name: str) -> Column:
        value = F.coalesce(name, F.lit(0.0))
        return F.least(value, F.lit(caps[name])) if name in caps else value

    def exact(name: str) -> Column:
        value = capped(name) * F.lit(scales[name]) if name in scales else capped(name)
        # What does not fit is counted below, and refused.
        return F.coalesce(value.try_cast(_EXACT), F.lit(0).cast(_EXACT))

    cells = joined.select(
        "variant",
        F.explode("segments").alias("segment"),
        *names,
        F.lit(1).cast(_EXACT).alias("v0"),
        *(exact(name).alias(f"v{index}") for index, name in enumerate(names, start=1)),
    )
    size = len(names) + 1
    products = [
        F.sum(F.col(f"v{i}") * F.col(f"v{j}")).cast("double").alias(f"{i}_{j}")
        for i in range(size)
        for j in range(i, size)
    ]
    odd = [
        F.count_if(F.isnan(name) | (F.abs(name) >= _LARGEST)).alias(f"odd_{name}") for name in names
    ]
    peaks = [F.max(F.abs(capped(name))).alias(f"peak_{name}") for name in names]
    return cells.groupBy("segment", "variant").agg(*products, *odd, *peaks)


def _refuse_values(metric: Metric, names: Sequence[str], row: Mapping[str, Any]) -> None:
    for name in names:
        if row[f"odd_{name}"]:
            msg = (
                f"{metric.path}: {row[f'odd_{name}']:,} users of variant {row['variant']} have a "
                f"{name} that is not a finite number below {_LARGEST:g}; mend the rows in activity "
                "(lumos validate finds them), or leave them out in the SELECT"
            )
            raise BadInput(msg)


def _as_moments(
    names: Sequence[str], row: Mapping[str, Any], scales: Mapping[str, float]
) -> Moments:
    size = len(names) + 1
    matrix = np.array([[row[f"{min(i, j)}_{max(i, j)}"] for j in range(size)] for i in range(size)])
    scale = np.array([1.0, *(scales.get(name, 1.0) for name in names)])
    return Moments((ONE, *names), matrix / np.outer(scale, scale))
