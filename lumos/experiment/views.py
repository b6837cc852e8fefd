"""Contract tables as views of a Spark session, each at the version that was pinned."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyspark.sql import SparkSession

from lumos.aggregate.spark import spark_session
from lumos.aggregate.write import count_rows
from lumos.tables import table_uri
from lumos.verbs import Request


@contextmanager
def pinned_views(
    request: Request, versions: Mapping[str, int], *, passes: int = 1
) -> Iterator[SparkSession]:
    """A Spark session in which each table of ``versions`` is a view at that version.

    ``passes`` is about how often each row is worked on.
    """
    uris = {table: table_uri(request.settings, request.recipe, table) for table in versions}
    num_rows = sum(count_rows(uris[table], version) for table, version in versions.items())
    with spark_session(f"lumos {request.verb}", num_rows=num_rows, passes=passes) as spark:
        for table, version in versions.items():
            frame = spark.read.format("delta").option("versionAsOf", version).load(uris[table])
            frame.createOrReplaceTempView(table)
        yield spark
