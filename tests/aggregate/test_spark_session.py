"""Spark starts with the declared settings, without a network, or says in a sentence why not."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lumos.aggregate.prepare import MARKER, prepare
from lumos.aggregate.spark import ARCHIVE, find_java, local_settings, prepared_jars, spark_session
from lumos.delta import read
from lumos.settings import Settings
from lumos.verbs import BadInput

PREPARED = Settings.from_environment().home / "spark"


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """Put a `java` on PATH that only says its version, and return how to choose that."""

    def choose(version):
        java = tmp_path / "bin" / "java"
        java.parent.mkdir()
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o755)
        monkeypatch.setenv("PATH", str(java.parent))
        monkeypatch.delenv("JAVA_HOME", raising=False)

    return choose


def test_missing_java_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(BadInput, match=r"none is on PATH.*apt-get install openjdk-17-jre"):
        find_java()


def test_java_home_that_holds_no_java_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=f"none is on JAVA_HOME={tmp_path}"):
        find_java()


@pytest.mark.parametrize("version", ["1.8.0_372", "11.0.2", "16", "nonsense"])
def test_old_java_is_refused_with_its_version_and_the_remedy(fake_java, version):
    fake_java(version)
    with pytest.raises(BadInput, match=r"Java 17 or newer; PATH has .*apt-get install"):
        find_java()


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_new_java_is_taken(fake_java, version):
    fake_java(version)
    assert find_java() == version


def test_java_is_checked_before_spark_starts(fake_java, monkeypatch):
    fake_java("11.0.2")
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
    with pytest.raises(BadInput), spark_session("test"):
        pass


def test_settings_say_what_was_asked_and_what_was_prepared(tmp_path):
    bare = local_settings(tmp_path, memory="3g", cores=2)
    assert bare["spark.master"] == "local[2]"
    assert bare["spark.driver.memory"] == "3g"
    assert "spark.driver.extraClassPath" not in bare
    assert "SharedArchiveFile" not in bare["spark.driver.extraJavaOptions"]

    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "delta.jar").touch()
    (tmp_path / ARCHIVE).touch()
    full = local_settings(tmp_path)
    assert full["spark.master"] == "local[*]"
    assert full["spark.driver.extraClassPath"] == str(tmp_path / "jars" / "delta.jar")
    assert f"-XX:SharedArchiveFile={tmp_path / ARCHIVE}" in full["spark.driver.extraJavaOptions"]


def test_a_folder_with_a_space_in_its_name_and_a_user_without_one_are_told_to_java(
    tmp_path, monkeypatch
):
    folder = tmp_path / "a home"
    folder.mkdir()
    (folder / ARCHIVE).touch()
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)
    flags = shlex.split(local_settings(folder)["spark.driver.extraJavaOptions"])
    assert f"-XX:SharedArchiveFile={folder / ARCHIVE}" in flags
    assert f"-Duser.home={folder}" in flags
    monkeypatch.undo()
    assert "user.home" not in local_settings(folder)["spark.driver.extraJavaOptions"]


def test_a_job_compiles_as_much_as_its_rows_are_worth(tmp_path):
    few, some, many = (
        local_settings(tmp_path, num_rows=rows) for rows in (1_000, 20_000_000, 30_000_000)
    )
    java = "spark.driver.extraJavaOptions"
    assert few["spark.sql.codegen.factoryMode"] == "NO_CODEGEN"
    assert "spark.sql.codegen.factoryMode" not in some
    assert "TieredStopAtLevel=1" in few[java]
    assert "TieredStopAtLevel=1" in some[java]
    assert "TieredStopAtLevel=1" not in many[java]


@pytest.mark.skipif(not (PREPARED / MARKER).exists(), reason="`make setup` prepares Spark")
def test_what_is_prepared_is_not_prepared_again():
    before = (PREPARED / ARCHIVE).stat().st_mtime_ns
    assert prepare(PREPARED) is False
    assert (PREPARED / ARCHIVE).stat().st_mtime_ns == before


JOB = """
import json, sys
from pathlib import Path
from lumos.aggregate.spark import spark_session
from lumos.aggregate.prepare import typical_job

with spark_session("test", cores=2) as spark:
    rows = typical_job(spark, Path(sys.argv[1]))
    with spark_session("inner") as inner:
        shared = inner is spark
    text = spark.sql("select cast(timestamp'2024-01-01 00:00:00Z' as string) as text").first()[0]
    says = {
        "rows": rows,
        "shared": shared,
        "utc": text,
        "python": spark.sparkContext.pythonExec,
        "catalog": spark.conf.get("spark.sql.catalogImplementation"),
        "names": spark._jvm.System.getProperty("sun.jnu.encoding"),
    }
with spark_session("again") as spark:
    says["again"] = spark.range(3).count()
print(json.dumps(says))
"""


@pytest.mark.skipif(not prepared_jars(PREPARED), reason="`make setup` prepares Spark")
def test_a_prepared_session_writes_delta_offline_and_leaves_nothing_behind(tmp_path):
    here, lake = tmp_path / "here", tmp_path / "lake"
    here.mkdir()
    # Ivy, if it were asked, would find neither its settings nor a way out.
    offline = {
        "SPARK_SUBMIT_OPTS": "-Dhttp.proxyHost=127.0.0.1 -Dhttps.proxyHost=127.0.0.1 "
        "-Dhttps.proxyPort=9 -Dhttp.proxyPort=9",
        "LUMOS_HOME": str(PREPARED.parent),
        "HOME": str(tmp_path / "nobody"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LC_ALL": "C",  # in which Java would open no file with an accent in its name
    }
    answer = subprocess.run(
        [sys.executable, "-c", JOB, str(lake)],
        cwd=here,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    (line,) = answer.stdout.splitlines()
    assert '"rows": 1000, "shared": true, "utc": "2024-01-01 00:00:00"' in line
    assert f'"python": "{sys.executable}", "catalog": "in-memory", "names": "UTF-8"' in line
    assert '"again": 3' in line
    # Java itself prints the one about incubator modules.
    noise = [line for line in answer.stderr.splitlines() if "incubator" not in line]
    assert noise == []
    assert list(here.iterdir()) == []


NAMELESS = """
import os, sys
# Before the change: Python's own files may be another user's.
import pyspark.java_gateway, pyspark.sql.classic.dataframe, pyspark.testing.utils
from lumos.aggregate.spark import spark_session
# As the kernel does it for a container that runs under an id of its own.
os.setgroups([]); os.setgid(0); os.setuid(2_000_000_000)
with spark_session("nameless") as spark:
    spark.range(3).write.format("delta").save(sys.argv[1])
"""


@pytest.mark.skipif(not prepared_jars(PREPARED), reason="`make setup` prepares Spark")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_spark_runs_for_a_user_without_a_name_in_a_home_with_a_space(tmp_path):
    home, lake = tmp_path / "a home", tmp_path / "lake"
    home.mkdir()
    # Hard links: Java compares the real path of its archive.
    shutil.copytree(PREPARED.resolve(), home / "spark", copy_function=os.link)
    lake.mkdir()
    lake.chmod(0o777)
    # As many folders lie between as the tests' processes need.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    answer = subprocess.run(
        [sys.executable, "-c", NAMELESS, str(lake / "rows")],
        env=os.environ | {"LUMOS_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert read(str(lake / "rows")).num_rows == 3


@pytest.mark.skipif(not prepared_jars(PREPARED), reason="`make setup` prepares Spark")
def test_replace_where_replaces_one_day_and_parameters_are_bound(tmp_path):
    table = (tmp_path / "activity").as_uri()
    with spark_session("test") as spark:
        spark.range(9).selectExpr("id", "cast(id % 3 as int) as day").write.format(
            "delta"
        ).partitionBy("day").save(table)
        spark.range(1).selectExpr("100 + id as id", "1 as day").write.format("delta").mode(
            "overwrite"
        ).option("replaceWhere", "day = 1").save(table)
        spark.read.format("delta").load(table).createOrReplaceTempView("activity")
        query = "with chosen as (select id from activity where day = :day) select * from chosen"
        assert [row.id for row in spark.sql(query, args={"day": 1}).collect()] == [100]
        assert spark.table("activity").count() == 7
        files = list((tmp_path / "activity" / "day=1").glob("*.parquet"))
        assert any("zstd" in file.name for file in files)
