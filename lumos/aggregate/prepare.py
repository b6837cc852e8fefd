"""Fetch Delta's JARs and archive the classes that a job loads, once, at set-up.

`python -m lumos.aggregate.prepare` is the only step of Spark that uses the network. It
fills `$LUMOS_HOME/spark`, and does nothing when that already fits the installed versions. With
`--s3` it also fetches Hadoop's connector for a lake on S3: 690 MB, which only such a lake needs.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pyspark
from delta import DeltaTable
from pyspark import SparkContext
from pyspark.sql import SparkSession

from lumos.aggregate.spark import (
    ARCHIVE,
    JARS,
    S3_JARS,
    find_java,
    java_options,
    local_settings,
    s3_jars,
    start,
)
from lumos.settings import Settings
from lumos.verbs import BAD_INPUT, BadInput

MARKER = "prepared.json"
# Ivy resolves 33 artifacts. Most others Spark ships itself, and putting them on the class
# path a second time would shadow Spark's own; the Unity Catalog client is not used.
# By their SHA-256: what Maven Central gives is what was tested, or is not taken. A new version of
# pyspark or delta-spark needs new ones here.
DELTA = {
    "io.delta_delta-kernel-api-4.4.0.jar": (
        "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11"
    ),
    "io.delta_delta-kernel-defaults-4.4.0.jar": (
        "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b"
    ),
    "io.delta_delta-spark_4.2_2.13-4.4.0.jar": (
        "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead"
    ),
    "io.delta_delta-storage-4.4.0.jar": (
        "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc"
    ),
}
S3 = {
    "org.apache.hadoop_hadoop-aws-3.5.0.jar": (
        "66bd9eefb938b1a1657487324b63c13df2d8b17164a1dd24e0ef37b905bc5baa"
    ),
    "org.wildfly.openssl_wildfly-openssl-2.2.5.Final.jar": (
        "71fb7932f99a727edb23c5a2cb8c6855ac7196fad41aa0669b3998e277165154"
    ),
    "software.amazon.awssdk_bundle-2.35.4.jar": (
        "db4b55f24ad1b4e70f17eb1717a4de76a8dadc5a27d764be7c44ff67b2c1c677"
    ),
    "software.amazon.s3.analyticsaccelerator_analyticsaccelerator-s3-1.3.1.jar": (
        "4959a9747cbb479c73c3ffbcd479bee5b014f8b2880994585a8693fb9d24675e"
    ),
}
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
    line = ".".join(pyspark.__version__.split(".")[:2])
    package = f"io.delta:delta-spark_{line}_2.13:{version('delta-spark')}"
    _fetch_jars(folder, JARS, package, DELTA)
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


def prepare_s3(folder: Path) -> bool:
    """Fetch the connector for a lake on S3 into `folder`, unless it is there.

    Returns:
        Whether there was something to do.

    Raises:
        RuntimeError: The JARs could not be fetched, or are not those that were tested.
    """
    if {path.name for path in s3_jars(folder)} == set(S3):
        log.info("Spark's connector for S3 is in %s", folder / S3_JARS)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    log.info("Fetching Hadoop's connector for S3 (690 MB) ...")
    hadoop = next(name for name in S3 if "hadoop-aws" in name)
    number = hadoop.removesuffix(".jar").rsplit("-", 1)[1]
    _fetch_jars(folder, S3_JARS, f"org.apache.hadoop:hadoop-aws:{number}", S3)
    log.info("Spark's connector for S3 is in %s", folder / S3_JARS)
    return True


def _fetch_jars(folder: Path, name: str, package: str, wanted: Mapping[str, str]) -> None:
    """Let Spark's own Ivy resolve a package, then keep the JARs that are wanted, if they are.

    Args:
        folder: Spark's.
        name: Of the folder in it that the JARs make, all of them at once.
        package: By its Maven coordinates.
        wanted: SHA-256 by Ivy's file name.
    """
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ivy, chosen, nothing = Path(work) / "ivy", Path(work) / name, Path(work) / "nothing.py"
        nothing.touch()  # the dependencies of a program that does nothing are fetched all the same
        answer = subprocess.run(
            [submit, "--packages", package, "--conf", f"spark.jars.ivy={ivy}", nothing],
            env=os.environ | {"PYSPARK_PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        chosen.mkdir()
        for jar, sha256 in wanted.items():
            found = ivy / "jars" / jar
            if not found.is_file():
                raise RuntimeError(
                    f"Ivy brought no {jar} for {package}. Is Maven Central reachable? Spark said:\n"
                    f"{answer.stderr[-2000:]}"
                )
            refuse_other(found, sha256)
            found.rename(chosen / jar)
        shutil.rmtree(folder / name, ignore_errors=True)
        chosen.rename(folder / name)


def refuse_other(path: Path, sha256: str) -> None:
    """Take no file but the one that was tested.

    Raises:
        RuntimeError: It is another one.
    """
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise RuntimeError(
            f"{path.name} has SHA-256 {found}, and {sha256} was tested: it is not used. "
            "Ask who changed it, or whether a proxy gives another file"
        )


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


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare `$LUMOS_HOME/spark` and say on stderr how it goes."""
    parser = argparse.ArgumentParser(description="Prepare Spark, once.")
    parser.add_argument("--s3", action="store_true", help="and what a lake on S3 needs (690 MB)")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        folder = Settings.from_environment().home / "spark"
        prepare(folder)
        if given.s3:
            prepare_s3(folder)
    except BadInput as fault:
        log.error("%s", fault)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
