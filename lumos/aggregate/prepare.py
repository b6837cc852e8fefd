"""Fetch Delta's JARs and archive the classes that a job loads, once, at set-up.

`python -m lumos.aggregate.prepare` is the only step of Spark that uses the network. It
fills `$LUMOS_HOME/spark`, and does nothing when that already fits the installed versions.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pyspark
from delta import DeltaTable
from pyspark import SparkContext
from pyspark.sql import SparkSession

from lumos.aggregate.spark import ARCHIVE, JARS, find_java, java_options, local_settings, start
from lumos.settings import Settings
from lumos.verbs import BAD_INPUT, BadInput

MARKER = "prepared.json"
# Ivy resolves 33 artifacts. Most others Spark ships itself, and putting them on the class
# path a second time would shadow Spark's own; the Unity Catalog client is not used.
WANTED = ("delta-spark", "delta-storage", "delta-kernel-api", "delta-kernel-defaults")
ARCHIVE_SECONDS = 120

log = logging.getLogger(__name__)


def prepare(folder: Path) -> bool:
    """Fill `folder` with JARs and class archive, unless it fits already.

    Returns:
        Whether there was something to do.

    Raises:
        BadInput: There is no Java that Spark can run on.
        RuntimeError: The JARs could not be fetched, or Java wrote no archive.
    """
    key = _key()
    marker = folder / MARKER
    if marker.exists() and json.loads(marker.read_text()) == key:
        log.info("Spark is prepared in %s", folder)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)  # from here on, half done must not look like done
    (folder / ARCHIVE).unlink(missing_ok=True)
    began = time.monotonic()
    log.info("Fetching Delta's JARs ...")
    _fetch_jars(folder)
    log.info("%.0f s. Archiving the classes of a typical job ...", time.monotonic() - began)
    _archive_classes(folder)
    half = folder / f".{MARKER}"
    half.write_text(json.dumps(key, indent=1) + "\n")
    half.rename(marker)
    log.info("%.0f s. Spark is prepared in %s", time.monotonic() - began, folder)
    return True


def typical_job(spark: SparkSession, lake: Path) -> int:
    """Do once, on a few rows, what the jobs of LUMOS do, so that Java sees their classes.

    Returns:
        How many rows the table has in the end.
    """
    table = (lake / "activity").as_uri()
    rows = spark.range(1000).selectExpr(
        "cast(id % 50 as string) as user_id",
        "date_add(date'2024-01-01', cast(id % 3 as int)) as day",
        "cast(id as double) as amount",
        """from_json('{"kind": "visit"}', 'kind string').kind as kind""",
    )
    rows.write.format("delta").partitionBy("day").save(table)
    day = rows.where("day = date'2024-01-02'").coalesce(1)
    only = day.write.format("delta").mode("overwrite").option("replaceWhere", "day = '2024-01-02'")
    only.save(table)

    spark.read.format("delta").load(table).createOrReplaceTempView("activity")
    users = spark.createDataFrame([("1", "a"), ("2", None)], "user_id string, segment string")
    users.createOrReplaceTempView("users")
    query = """
        with ranked as (
          select *, row_number() over (partition by user_id order by day desc) as age
          from activity where day between cast(:first as date) and cast(:last as date)
        )
        select user_id, coalesce(segment, 'none') as segment, count(*) as num_rows,
               count(distinct day) as num_days, sum(amount) as amount,
               sort_array(collect_list(struct(day, amount))) as days
        from ranked left join users using (user_id)
        where age < 10 group by user_id, segment order by user_id
    """
    sums = spark.sql(query, args={"first": "2024-01-01", "last": "2024-01-03"})
    sums.write.format("delta").save((lake / "sums").as_uri())
    sums.drop("days").toPandas()

    merge = (
        DeltaTable.forPath(spark, table)
        .alias("old")
        .merge(day.alias("new"), "old.day = new.day and old.amount = new.amount")
    )
    merge.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
    return spark.read.format("delta").load(table).count()


def _key() -> dict[str, str]:
    """Say what JARs and archive depend on; the archive even on where pyspark's JARs lie."""
    jars = Path(pyspark.__file__).parent / "jars"
    return {
        "java": find_java(),
        "pyspark": pyspark.__version__,
        "delta": version("delta-spark"),
        "jars": str(jars),
        "jars_modified": str(int(jars.stat().st_mtime)),
        "recipe": "1",  # of this file: count up when what it makes changes
    }


def _fetch_jars(folder: Path) -> None:
    """Let Spark's own Ivy resolve Delta, then keep what Spark does not have."""
    line = ".".join(pyspark.__version__.split(".")[:2])
    package = f"io.delta:delta-spark_{line}_2.13:{version('delta-spark')}"
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ivy, chosen, nothing = Path(work) / "ivy", Path(work) / JARS, Path(work) / "nothing.py"
        nothing.touch()  # the dependencies of a program that does nothing are fetched all the same
        answer = subprocess.run(
            [submit, "--packages", package, "--conf", f"spark.jars.ivy={ivy}", nothing],
            env=os.environ | {"PYSPARK_PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        chosen.mkdir()
        for name in WANTED:
            found = sorted((ivy / "jars").glob(f"io.delta_{name}[-_][0-9]*.jar"))
            if len(found) != 1:
                raise RuntimeError(
                    f"Ivy brought {len(found)} JARs of {name} for {package}, not 1. Is Maven "
                    f"Central reachable? Spark said:\n{answer.stderr[-2000:]}"
                )
            shutil.copy2(found[0], chosen)
        shutil.rmtree(folder / JARS, ignore_errors=True)
        chosen.rename(folder / JARS)


def _archive_classes(folder: Path) -> None:
    """Run the typical job in a Java that archives the classes it has loaded when it ends."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        archive = Path(work) / ARCHIVE
        settings = local_settings(folder)
        flags = java_options([f"-XX:ArchiveClassesAtExit={archive}", "-Xlog:disable"])
        settings["spark.driver.extraJavaOptions"] += f" {flags}"
        spark = start("lumos-prepare", settings)
        typical_job(spark, Path(work))
        gateway = spark.sparkContext._gateway
        assert gateway is not None
        spark.stop()
        # Java ends, and writes, when its stdin closes. A job would not wait for that.
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=ARCHIVE_SECONDS)
        gateway.close()
        SparkContext._gateway = SparkContext._jvm = None
        if not archive.exists():
            raise RuntimeError(
                f"Java {find_java()} wrote no class archive. It needs its own default archive: "
                "`java -Xshare:dump` (as root) makes it, another build of Java 17 brings it."
            )
        archive.rename(folder / ARCHIVE)


def main() -> int:
    """Prepare `$LUMOS_HOME/spark` and say on stderr how it goes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        prepare(Settings.from_environment().home / "spark")
    except BadInput as fault:
        log.error("%s", fault)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
