"""Old versions of a table, as the ledger names them: can they be read, and by Spark."""

from collections.abc import Iterable

from deltalake import DeltaTable
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession

from lumos.accio.storage import filesystem_of
from lumos.aggregate.facts import Days
from lumos.delta import DataFile, NotPlain, data_files, open_table
from lumos.gone import VersionGone
from lumos.verbs import BadInput


def at_version(spark: SparkSession, uri: str, version: int) -> DataFrame:
    """A table at a version.

    Raises:
        BadInput: There is no such table.
        VersionGone: It does not have the version any more.
    """
    table = open_table(uri, version)
    if table is None:
        raise BadInput(f"there is no Delta table at {uri}")
    try:
        files = data_files(table)
    except NotPlain:
        files = []  # Spark reads what Python cannot, and has its own message
    if any_missing(uri, files):
        raise VersionGone(uri, version, "its files were removed")
    return spark.read.format("delta").option("versionAsOf", version).load(uri)


def is_readable(uri: str, version: int, days: Days | None = None) -> bool:
    """Whether all files of a version are there; with ``days``, those of its ``day`` partitions."""
    try:
        table = open_table(uri, version)
    except VersionGone:
        return False
    return table is not None and not any_missing(uri, _files(table, days))


def any_missing(uri: str, files: Iterable[DataFile]) -> bool:
    """Whether a file of a table was removed."""
    system, prefix = filesystem_of(uri)
    root = uri.removeprefix(prefix)
    infos = system.get_file_info([f"{root}/{file.path}" for file in files])
    return any(info.type != fs.FileType.File for info in infos)


def _files(table: DeltaTable, days: Days | None) -> list[DataFile]:
    files = data_files(table)
    if days is None:
        return files
    return [file for file in files if days.first <= file.partition["day"] <= days.last]
