"""One place that starts Spark, so that every job runs with the same settings, and quickly.

A verb works on a few days and lasts seconds, so Spark's start is most of its time. What
`lumos.aggregate.prepare` left in `$LUMOS_HOME/spark` shortens it: Delta's JARs on the class
path instead of resolved by Ivy, and an archive of the classes that a job loads. The
figures are in docs/decisions/0001-toolchain.md.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delta import configure_spark_with_delta_pip
from pyspark import SparkConf, SparkContext
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from lumos.aggregate.lease import leased_java
from lumos.nameless import is_nameless, stand_in
from lumos.settings import Settings
from lumos.verbs import BadInput

OLDEST_JAVA = 17  # what Spark 4 is compiled for
JARS, S3_JARS, ARCHIVE = "jars", "jars-s3", "classes.jsa"

_JAVA_REMEDY = (
    "Install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless) "
    "and let JAVA_HOME, where it is set, point at it."
)
_LOG4J = Path(__file__).with_name("log4j2.properties")

# A job of few rows spends most of its time compiling: Java its classes, Spark its queries. So it
# takes what starts quickly and runs slower. Two cores: a shop of ten orders 9.4 s, without
# compiled queries 6.9 s; 120 thousand rows 18 s, without 40 s; 22 million 77 s, with C2 98 s.
_FEW_ROWS, _MANY_ROWS, _ROWS_A_PARTITION = 25_000, 25_000_000, 2_000_000
# Java reserves 48 MB for what its quick compiler makes; the second verb of a process fills them,
# and nothing is compiled any more.
_QUICK_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=240m", "-XX:+UseSerialGC")
_QUICK_QUERIES = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}

log = logging.getLogger(__name__)


def find_java() -> str:
    """Find the Java that Spark's launcher would take, and check that Spark can run on it.

    Returns:
        Its version, such as ``17.0.15``.

    Raises:
        BadInput: There is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    where = f"JAVA_HOME={home}" if home else "PATH"
    command = shutil.which(str(Path(home) / "bin" / "java") if home else "java")
    if command is None:
        raise BadInput(
            f"Spark needs Java {OLDEST_JAVA} or newer and none is on {where}. {_JAVA_REMEDY}"
        )
    version = _java_version(Path(command))
    # "1.8.0_372" is Java 8: until Java 9 the first number was always 1.
    numbers = re.findall(r"\d+", version.removeprefix("1."))
    if not numbers or int(numbers[0]) < OLDEST_JAVA:
        raise BadInput(
            f"Spark needs Java {OLDEST_JAVA} or newer; {where} has {version}. {_JAVA_REMEDY}"
        )
    return version


def _java_version(command: Path) -> str:
    # Every JDK and JRE says its version in a file: reading it saves starting Java twice a job.
    release = command.resolve().parent.parent / "release"
    found = release.is_file() and re.search(r'^JAVA_VERSION="([^"]+)"', release.read_text(), re.M)
    if not found:
        answer = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
        found = re.search(r'version "([^"]+)"', answer.stderr + answer.stdout)
    return found.group(1) if found else "an unknown version"


def prepared_jars(folder: Path) -> list[Path]:
    """List the JARs that `prepare` put into `folder`; none if it never ran.

    Sorted, because a class archive is valid for one exact class path only.
    """
    return sorted((folder / JARS).glob("*.jar"))


def s3_jars(folder: Path) -> list[Path]:
    """List the JARs that `prepare --s3` put into `folder`; none if it never ran."""
    return sorted((folder / S3_JARS).glob("*.jar"))


def trouble_on_s3(settings: Settings) -> str:
    """What Spark lacks on this machine for the lake, and the remedy; empty if nothing."""
    if not is_on_s3(settings.lake) or s3_jars(settings.home / "spark"):
        return ""
    return (
        "Spark on this machine has no connector for a lake on S3. Fetch it once (690 MB): "
        f"LUMOS_HOME={settings.home} python -m lumos.aggregate.prepare --s3; or let the verbs of "
        "Spark run on Databricks, where Airflow starts them with LUMOS_PLATFORM=aws"
    )


def is_on_s3(lake: str) -> bool:
    """Whether tables of this lake are objects of S3."""
    return lake.startswith(("s3://", "s3a://"))


def _s3_settings(folder: Path) -> dict[str, str]:
    """For `prepare`'s connector; its credentials are found as boto3 finds them."""
    # After Delta's: what precedes is the class path that the archive was made for.
    jars = [*prepared_jars(folder), *s3_jars(folder)]
    found = {
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.driver.extraClassPath": os.pathsep.join(map(str, jars)),
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        found |= {
            "spark.hadoop.fs.s3a.endpoint": endpoint,
            "spark.hadoop.fs.s3a.path.style.access": "true",
        }
    return found


def local_settings(
    folder: Path,
    *,
    memory: str | None = None,
    cores: int | None = None,
    num_rows: int = 0,
    passes: int = 1,
) -> dict[str, str]:
    """Say how Spark runs inside one process, from what was prepared in `folder`.

    Pure but for looking which files `folder` holds.
    """
    flags = [
        f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",
        *(() if num_rows * passes > _MANY_ROWS else _QUICK_JAVA),
    ]
    if (folder / ARCHIVE).exists():
        # An archive that no longer fits is ignored by Java: slower, never wrong. Without the
        # second flag Java would say so on stdout, whose last line belongs to the verb.
        flags += [f"-XX:SharedArchiveFile={folder / ARCHIVE}", "-Xshare:auto", "-Xlog:disable"]
    if is_nameless():
        # Java takes both from /etc/passwd, and Ivy refuses the home "?", also when it has nothing
        # to fetch.
        flags += [f"-Duser.home={folder}", f"-Duser.name={stand_in()}"]
    settings = {
        **_session_settings(),
        **(_QUICK_QUERIES if num_rows < _FEW_ROWS else {}),
        "spark.master": f"local[{cores or '*'}]",
        "spark.driver.memory": memory or "2g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": java_options(flags),
        "spark.sql.warehouse.dir": (folder / "warehouse").as_uri(),
        "spark.sql.catalogImplementation": "in-memory",  # Hive's would leave derby files here
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Spark's 200 and Delta's 50 are for clusters: locally each is a task with nothing to do.
        "spark.sql.shuffle.partitions": str(
            1 if num_rows < _FEW_ROWS else max(4, num_rows // _ROWS_A_PARTITION)
        ),
        # Else each file that a verb names is a task of its own: 3,000 of them 15 s, so 2 s.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "8",
        # Between processes of one machine compressing costs more than it saves.
        "spark.shuffle.compress": "false",
        "spark.databricks.delta.snapshotPartitions": "2",
        # Spark 4.2 binds `spark.sql(query, args=...)` in its parser, which Delta 4.4.0's parser
        # replaces without doing so: every query with a parameter fails. This is the old way.
        "spark.sql.legacy.parameterSubstitution.constantsOnly": "true",
    }
    jars = prepared_jars(folder)
    if jars:
        # Not spark.jars: that copies them to a temporary folder and loads them by a class
        # loader of its own, whose classes no archive can hold.
        settings["spark.driver.extraClassPath"] = os.pathsep.join(map(str, jars))
    return settings


@contextmanager
def spark_session(
    app_name: str,
    *,
    memory: str | None = None,
    cores: int | None = None,
    num_rows: int = 0,
    passes: int = 1,
) -> Iterator[SparkSession]:
    """Lend a Spark session with Delta, and stop it afterwards.

    A session that is already active (a cluster's, or a test's that many tests share) is
    lent as it is, and left running. One that starts here runs in a Java process of the pool that
    ``LUMOS_SPARK_POOL`` names, if it lends one, with the same settings and results.

    Args:
        app_name: What Spark calls the job.
        memory: Heap of the one process, such as ``"8g"``; 2 GB if not given.
        cores: Threads; all that the machine has if not given.
        num_rows: About how many rows the job reads: how much compiling is worth its time.
        passes: About how often it works on each of them.

    Yields:
        The session, whose time zone is UTC and whose SQL is ANSI.

    Raises:
        BadInput: There is no Java that Spark can run on, or no connector for a lake on S3.
    """
    on_cluster = "DATABRICKS_RUNTIME_VERSION" in os.environ
    if on_cluster:
        # The cluster's owner chose its size and its JARs; what results mean is still ours.
        yield _configured(SparkSession.builder, _session_settings(static=False)).getOrCreate()
        return
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    settings = Settings.from_environment()
    # By its real path: Java compares the paths of an archive, and a pool those of its processes.
    folder = (settings.home / "spark").resolve()
    found = local_settings(folder, memory=memory, cores=cores, num_rows=num_rows, passes=passes)
    if trouble := trouble_on_s3(settings):
        raise BadInput(trouble)
    find_java()
    if is_on_s3(settings.lake):
        found |= _s3_settings(folder)
    _prepare_environment()
    with leased_java(settings.spark_pool if settings.platform == "local" else None, found):
        session = start(app_name, found)
        try:
            yield session
        finally:
            session.stop()


def start(app_name: str, settings: Mapping[str, str]) -> SparkSession:
    """Start Spark in this process with exactly these settings; `spark_session` is for jobs.

    Raises:
        BadInput: There is no Java that Spark can run on.
    """
    find_java()
    _prepare_environment()
    if is_nameless():
        _log_in(settings)
    builder = _configured(SparkSession.builder.appName(app_name), settings)
    if "spark.driver.extraClassPath" not in settings:
        log.warning(
            "Delta's JARs are not prepared, so Spark downloads them (or finds them in Ivy's "
            "cache): `python -m lumos.aggregate.prepare` does that once and for all"
        )
        builder = configure_spark_with_delta_pip(builder)
    session = builder.getOrCreate()
    # PySpark prints every failed query as 10 KB of JSON besides raising it.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)
    return session


def java_options(flags: Iterable[str]) -> str:
    """Flags in one line, as Spark's launcher splits it: a folder may have a space in its name."""
    return " ".join(f'"{flag}"' if " " in flag else flag for flag in flags)


def _log_in(settings: Mapping[str, str]) -> None:
    """Tell Hadoop who this is: it would ask the system for a name, and fail without one."""
    SparkContext._ensure_initialized(conf=SparkConf().setAll([*settings.items()]))
    jvm: Any = SparkContext._jvm
    hadoop = jvm.org.apache.hadoop.security.UserGroupInformation
    hadoop.setLoginUser(hadoop.createRemoteUser(stand_in()))


def _prepare_environment() -> None:
    """Set what Java and Spark's own scripts read."""
    # Spark's workers would otherwise run whichever python3 comes first on PATH.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    # In another locale Java cannot open a file whose name has an accent.
    os.environ["LC_ALL"] = "C.UTF-8"
    # spark-submit is itself a Java program that only prints a command line.
    os.environ.setdefault("SPARK_LAUNCHER_OPTS", " ".join(_QUICK_JAVA))


def _session_settings(*, static: bool = True) -> dict[str, str]:
    """Say what every job relies on anywhere; `static` settings cannot change once Spark runs."""
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # For each column of a query it asks the JVM twice where in our code it was made.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
    }
    if static:
        settings |= {
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        }
    return settings


def _configured(builder: SparkSession.Builder, settings: Mapping[str, str]) -> SparkSession.Builder:
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder
