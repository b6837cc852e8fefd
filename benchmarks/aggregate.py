"""Daily aggregation at growing size: Spark against DuckDB, same SQL, same files, two cores each.

    python -m benchmarks.aggregate [--sizes 3 10 30] [--repeats 3]

Complete Journey's purchases and redemptions are copied, each copy with households and baskets of
its own, until there are 3, 10 and 30 million raw rows. Both engines run
``include/sql/complete_journey/activity.sql`` on the same Parquet files and write their result as
Parquet. The results are checked equal before any time is compared. Starting the JVM is not
counted, but printed.
"""

import argparse
import datetime as dt
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from lumos.aggregate.contract import sql_path
from lumos.aggregate.spark import spark_session
from lumos.datasets import complete_journey
from lumos.progress import progress
from lumos.settings import Settings

CORES = 2
MILLION = 1_000_000
ARGUMENTS = {"first_day": dt.date(2017, 1, 1), "last_day": dt.date(2017, 12, 31)}
KEY = ("user_id", "day")
_HOUSEHOLDS_A_COPY = 10_000
_BASKETS_A_COPY = 10**12


def main() -> int:
    """Print the table and, last, one JSON line; 1 if the engines disagree."""
    arguments = parser().parse_args()
    text = sql_path(Settings.from_environment(), complete_journey.recipe(), "activity").read_text()
    sizes = [int(size * MILLION) for size in arguments.sizes]
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        folder = Path(name)
        with progress("copying raw rows", len(sizes)) as advance:
            for size in sizes:
                replicate(folder / str(size), size)
                advance(note=f"{size:,} rows")
        found = measure(folder, sizes, text, arguments.repeats)
    if found is None:
        return 1
    print_table(found)
    sys.stdout.write(json.dumps(figures(found)) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="benchmarks.aggregate", description=__doc__.split("\n")[0])
    made.add_argument("--sizes", type=float, nargs="+", default=[3, 10, 30], help="million rows")
    made.add_argument("--repeats", type=int, default=3, help="timed runs, of which the median")
    return made


def replicate(folder: Path, num_rows: int) -> None:
    """Write ``num_rows`` raw rows, one Parquet file a copy, and the catalogue once.

    ``user_id`` and ``day`` are there already, as the SELECT sees them in the verb, so that no
    engine's time-zone arithmetic is part of the race.
    """
    raw = {
        name: complete_journey._SOURCES[name]() for name in ("transactions", "coupon_redemptions")
    }
    per_copy = sum(table.num_rows for table in raw.values())
    (folder / "products").mkdir(parents=True)
    pq.write_table(complete_journey._SOURCES["products"](), folder / "products" / "0.parquet")
    left = num_rows
    for copy in range(-(-num_rows // per_copy)):
        for name, table in raw.items():
            (folder / name).mkdir(exist_ok=True)
            rows = _copy(table.slice(0, max(0, left)), copy)
            pq.write_table(rows, folder / name / f"{copy}.parquet", compression="zstd")
            left -= rows.num_rows


def _copy(table: pa.Table, copy: int) -> pa.Table:
    household = pc.add(table["household_id"], copy * _HOUSEHOLDS_A_COPY)
    table = table.append_column("user_id", pc.cast(household, pa.string()))
    table = table.append_column("day", table["landed_on"])
    if "basket_id" in table.column_names:
        index = table.column_names.index("basket_id")
        basket = pc.add(table["basket_id"], copy * _BASKETS_A_COPY)
        table = table.set_column(index, "basket_id", basket)
    return table


def measure(
    folder: Path, sizes: list[int], text: str, repeats: int
) -> dict[int, dict[str, float]] | None:
    """Median seconds by size and engine, or ``None`` where the results differ."""
    started = time.monotonic()
    with spark_session("benchmark", memory="10g", cores=CORES, num_rows=max(sizes)) as spark:
        Console().print(f"JVM and session: {time.monotonic() - started:.1f} s, not counted below")
        found: dict[int, dict[str, float]] = {}
        runs = [min(sizes), *sizes]  # the first is a warm-up, for both
        with progress("aggregating", len(runs)) as advance:
            for number, size in enumerate(runs):
                data, out = folder / str(size), folder / f"out-{number}"
                engines: dict[str, Callable[[], None]] = {
                    "spark": lambda d=data, o=out: by_spark(spark, d, text, o / "spark"),
                    "duckdb": lambda d=data, o=out: by_duckdb(d, text, o / "duckdb"),
                }
                times: dict[str, list[float]] = {name: [] for name in engines}
                for _ in range(1 if number == 0 else repeats):
                    for name, run in engines.items():
                        times[name].append(_timed(run))
                if different := differences(out / "spark", out / "duckdb"):
                    Console().print(f"[red]{size:,} rows: results differ: {different}[/red]")
                    return None
                found[size] = {name: statistics.median(times[name]) for name in engines}
                advance(note=f"{size:,} rows")
        return found


def _timed(run: Callable[[], None]) -> float:
    started = time.monotonic()
    run()
    return time.monotonic() - started


def by_spark(spark: SparkSession, data: Path, text: str, out: Path) -> None:
    """Run the SELECT in Spark."""
    for folder in data.iterdir():
        frame = spark.read.parquet(str(folder))
        if folder.name != "products":
            frame = frame.repartition("user_id")  # as the verb gives it to the SELECT
        frame.createOrReplaceTempView(folder.name)
    spark.sql(text, args=ARGUMENTS).write.mode("overwrite").parquet(str(out))


def by_duckdb(data: Path, text: str, out: Path) -> None:
    """Run the same SELECT in DuckDB: only the mark of a parameter differs."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ARGUMENTS:
        text = text.replace(f":{name}", f"${name}")
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {CORES}")
        for folder in data.iterdir():
            rows = connection.read_parquet(f"{folder}/*.parquet")
            rows.create_view(folder.name)
        connection.execute(f"CREATE TEMP TABLE result AS {text}", ARGUMENTS)
        target = str(out / "0.parquet")
        connection.table("result").write_parquet(target, compression="zstd")


def differences(left: Path, right: Path) -> str:
    """What differs between two results, sums by more than a millionth; empty if nothing does."""
    with duckdb.connect() as connection:
        sides = []
        for name, path in (("l", left), ("r", right)):
            rows = connection.read_parquet(f"{path}/*.parquet")
            rows.create_view(name)
            sides.append(rows.columns)
        if sides[0] != sides[1]:
            return f"columns {sides[0]} and {sides[1]}"
        values = [column for column in sides[0] if column not in KEY]
        unequal = " OR ".join(
            f"abs(l.{c} - r.{c}) > 1e-6 * greatest(1, abs(r.{c})) OR l.{c} IS NULL" for c in values
        )
        query = (
            "SELECT COUNT(*), COUNT(*) FILTER (WHERE l.user_id IS NULL OR r.user_id IS NULL), "
            f"COUNT(*) FILTER (WHERE {unequal}) "
            "FROM l FULL OUTER JOIN r ON l.user_id = r.user_id AND l.day = r.day"
        )
        row = connection.execute(query).fetchone()
    total, alone, other = row or (0, 0, 0)
    if total and not alone and not other:
        return ""
    return f"of {total} rows {alone} are on one side only, {other} have other values"


def print_table(found: dict[int, dict[str, float]]) -> None:
    """The figures for people."""
    table = Table(title=f"Raw rows to activity, {CORES} cores, results equal")
    for column in ("raw rows", "Spark s", "DuckDB s", "Spark rows/s", "Spark / DuckDB"):
        table.add_column(column, justify="right")
    for size, seconds in found.items():
        spark, duck = seconds["spark"], seconds["duckdb"]
        table.add_row(
            f"{size:,}",
            f"{spark:.2f}",
            f"{duck:.2f}",
            f"{size / spark:,.0f}",
            f"{spark / duck:.2f}",
        )
    Console().print(table)


def figures(found: dict[int, dict[str, float]]) -> dict[str, object]:
    """The last line: what issues and the README name."""
    smallest, largest = min(found), max(found)
    per_row = {size: seconds["spark"] / size for size, seconds in found.items()}
    ten = found.get(10 * MILLION)
    return {
        "rows_per_s": {str(size): round(1 / value) for size, value in per_row.items()},
        "ratio_to_duckdb": round(ten["spark"] / ten["duckdb"], 3) if ten else None,
        "linearity": round(per_row[largest] / per_row[smallest], 3),
        "results_equal": True,
    }


if __name__ == "__main__":
    sys.exit(main())
