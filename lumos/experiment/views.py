"""Contract tables at the version that was pinned: as views of a Spark session, and scores."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from lumos import ledger
from lumos.aggregate.facts import Days
from lumos.aggregate.spark import spark_session
from lumos.aggregate.travel import at_version
from lumos.aggregate.write import count_rows
from lumos.dates import EPOCH
from lumos.delta import predicate, read
from lumos.experiment.declaration import Experiment
from lumos.tables import table_uri
from lumos.verbs import Request


def pinned(request: Request, names: Iterable[str]) -> dict[str, int]:
    """The version at which each table is ready for the date.

    Raises:
        BadInput: One is not; says which verb makes it.
    """
    owner = {"exposures": "assign"}
    return {
        name: ledger.require(
            request.settings,
            request.recipe,
            name,
            request.date,
            remedy=f"Run lumos {owner.get(name, 'aggregate')} --date {request.date} first.",
        ).version
        for name in names
    }


@contextmanager
def pinned_views(
    request: Request,
    versions: Mapping[str, int],
    *,
    passes: int = 1,
    first_day: dt.date = EPOCH,
) -> Iterator[SparkSession]:
    """A Spark session in which each table of ``versions`` is a view at that version.

    Args:
        request: Whose lake and recipe.
        versions: By table.
        passes: About how often each row is worked on.
        first_day: Of ``activity`` no earlier day is read.
    """
    uris = {table: table_uri(request.settings, request.recipe, table) for table in versions}
    days = {"activity": Days(first_day, request.date)}
    num_rows = sum(
        count_rows(uris[name], version, days.get(name)) for name, version in versions.items()
    )
    with spark_session(f"lumos {request.verb}", num_rows=num_rows, passes=passes) as spark:
        for table, version in versions.items():
            at_version(spark, uris[table], version).createOrReplaceTempView(table)
        yield spark


def publication(request: Request, experiment: Experiment, day: dt.date) -> dict[str, Any] | None:
    """The manifest of the newest scores from before ``day``, when nobody had a variant yet.

    ``None`` if there are none, or if the experiment declares no forecast.
    """
    if experiment.forecast is None:
        return None
    uri = table_uri(request.settings, request.recipe, "manifests")
    rows = read(uri, where=predicate(state="live"))
    known = [] if rows is None else rows.filter(pc.less(rows["as_of"], pa.scalar(day))).to_pylist()
    return max(known, key=lambda row: row["as_of"], default=None)
