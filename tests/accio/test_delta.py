"""Tables as Spark makes them, with all that Parquet alone cannot say, read as Spark reads them."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lumos.accio.table import Columns, SequenceTable
from lumos.dates import from_day_number
from lumos.delta import NotPlain, data_files
from lumos.verbs import BadInput

COLUMNS = Columns(("active", "money", "clicks"), ("land", "age", "region"))
Found = dict[str, tuple[dt.date, tuple[object, ...], dict[int, tuple[float, ...]]]]

# Half the table is written before the evolution, half after it; some rows of both are deleted.
CREATE = """
CREATE TABLE {table} (
  user_id string, registered_on date, country string,
  days array<struct<day: smallint, active: float, spend: float>>, region string
) USING delta PARTITIONED BY (region) TBLPROPERTIES ({properties})"""
BEFORE = """
INSERT INTO {table} SELECT
  concat('user ', id), date_add(date'2024-01-01', cast(id as int)),
  if(id % 3 = 0, null, concat('land ', id % 5)),
  transform(sequence(0, cast(id % 4 as int)), n -> named_struct(
    'day', cast(19800 + n as smallint), 'active', 1f, 'spend', cast(id + n as float))),
  if(id % 4 = 0, null, concat('a b/%', id % 2))
FROM range(24)"""
AFTER = """
INSERT INTO {table} SELECT
  concat('user ', id), date'2024-06-01', concat('land ', id % 5),
  array(named_struct('day', 19900s, 'active', 1f, 'money', 5f,
    'clicks', if(id % 2 = 0, null, cast(id as float)))), concat('new ', id % 2), cast(id as double)
FROM range(24, 40)"""
MAPPED = "'delta.columnMapping.mode' = '{mode}', 'delta.enableDeletionVectors' = 'true'"


def run(spark: SparkSession, table: str, *statements: str) -> None:
    for statement in statements:
        spark.sql(statement.replace("{table}", table))


def make(spark: SparkSession, path: Path, mode: str) -> str:
    """The table; ``legacy`` mode was turned on after the first files had been written."""
    table = f"delta.`{path}`"
    properties = MAPPED.replace("{mode}", mode)
    if mode == "legacy":
        properties = "'delta.enableDeletionVectors' = 'true'"
    run(spark, table, CREATE.replace("{properties}", properties), BEFORE)
    if mode == "legacy":
        run(
            spark,
            table,
            "ALTER TABLE {table} SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name', "
            "'delta.minReaderVersion' = '3', 'delta.minWriterVersion' = '7')",
        )
    run(
        spark,
        table,
        "ALTER TABLE {table} RENAME COLUMN country TO land",
        "ALTER TABLE {table} RENAME COLUMN days.element.spend TO money",
        "ALTER TABLE {table} ADD COLUMNS (age double, days.element.clicks float)",
        AFTER,
        "DELETE FROM {table} WHERE user_id IN ('user 1', 'user 5', 'user 8', 'user 30')",
    )
    return table


def as_spark_reads(spark: SparkSession, path: Path, version: int) -> Found:
    rows = spark.read.format("delta").option("versionAsOf", version).load(str(path)).collect()
    return {
        row.user_id: (
            row.registered_on,
            (row.land, row.age, row.region),
            {d.day: (d.active, d.money, d.clicks or 0.0) for d in row.days},
        )
        for row in rows
    }


def as_accio_reads(path: Path, version: int | None = None) -> Found:
    found: Found = {}
    table = SequenceTable.open(str(path), COLUMNS, version)
    for users in table.users():
        static = users.static.to_pylist()
        for number, user in enumerate(users.user_id):
            own = slice(users.splits[number], users.splits[number + 1])
            days = zip(users.days[own].tolist(), users.values[own].tolist(), strict=True)
            assert user not in found
            found[user] = (
                from_day_number(int(users.registered[number])),
                tuple(static[number][name] for name in COLUMNS.static),
                {day: tuple(values) for day, values in days},
            )
    assert table.num_users == len(found)
    return found


@pytest.mark.parametrize("mode", ["name", "id", "legacy"])
def test_renamed_evolved_and_deleted_rows_are_read_as_spark_reads_them(
    spark: SparkSession, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "a table 100%"
    make(spark, path, mode)
    expected = as_spark_reads(spark, path, version=_newest(spark, path))
    assert len(expected) == 36
    assert {static[2] for _, static, _ in expected.values()} > {None, "a b/%1", "new 0"}
    assert any(values[2] for _, _, days in expected.values() for values in days.values())
    assert as_accio_reads(path) == expected


def test_deleted_users_are_back_at_the_version_before(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "t"
    table = make(spark, path, "name")
    newest = _newest(spark, path)
    shards = SequenceTable.open(str(path), COLUMNS).shards
    assert (shards["num_rows"] - shards["num_users"]).sum() == 4  # vectors, not rewritten files
    assert as_accio_reads(path, newest - 1) == as_spark_reads(spark, path, newest - 1)
    run(spark, table, "REORG TABLE {table} APPLY (PURGE)", "OPTIMIZE {table} ZORDER BY (user_id)")
    assert as_accio_reads(path, newest) == as_accio_reads(path)
    numbers = np.array([len(users) for users in SequenceTable.open(str(path), COLUMNS).users()])
    assert numbers.sum() == 36


def test_a_shallow_clone_is_read_as_spark_reads_it(spark: SparkSession, tmp_path: Path) -> None:
    """Its files lie in the other table's folder, and both tables delete rows of them."""
    path = tmp_path / "clone 100% é"
    source, clone = f"delta.`{tmp_path / 'source 100% é'}`", f"delta.`{path}`"
    days = "array(named_struct('day', 19800, 'active', 1f, 'money', 2f, 'clicks', 3f))"
    columns = f"date'2024-01-01', {days}, 'here', 1d, concat('a b/%', id % 2)"
    run(
        spark,
        source,
        "CREATE TABLE {table} (user_id string, registered_on date, days array<struct<day: int, "
        "active: float, money: float, clicks: float>>, land string, age double, region string) "
        "USING delta PARTITIONED BY (region) "
        "TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')",
        f"INSERT INTO {{table}} SELECT concat('u', id), {columns} FROM range(0, 20, 1, 1)",
        "DELETE FROM {table} WHERE user_id = 'u1'",
    )
    run(
        spark,
        clone,
        f"CREATE TABLE {{table}} SHALLOW CLONE {source}",
        f"INSERT INTO {{table}} SELECT concat('v', id), {columns} FROM range(0, 20, 1, 1)",
        "DELETE FROM {table} WHERE user_id IN ('u4', 'v2')",
    )
    found = as_accio_reads(path)
    assert found == as_spark_reads(spark, path, _newest(spark, path))
    assert len(found) == 37
    with pytest.raises(NotPlain, match="shallow clone"):
        data_files(DeltaTable(path, version=0))
    for vector in (tmp_path / "source 100% é").glob("deletion_vector_*.bin"):
        vector.unlink()
    with pytest.raises(BadInput, match=r"a deletion vector of .* is gone"):
        as_accio_reads(path)


def _newest(spark: SparkSession, path: Path) -> int:
    (row,) = spark.sql(f"DESCRIBE HISTORY delta.`{path}` LIMIT 1").collect()
    return int(row.version)
