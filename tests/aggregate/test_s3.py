"""A lake on S3 with Spark on this machine: the connector that was tested, or a sentence."""

import hashlib
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from lumos.aggregate import prepare, spark
from lumos.doctor import check_s3_jars
from lumos.settings import Settings
from lumos.verbs import BadInput

FETCH = "python -m lumos.aggregate.prepare --s3"


def settings(home: Path, lake: str) -> Settings:
    return Settings.from_environment({"LUMOS_HOME": str(home), "LUMOS_LAKE": lake})


@pytest.fixture
def with_connector(tmp_path: Path) -> Path:
    """A home whose connector's files are there, and empty."""
    for name in prepare.S3:
        path = tmp_path / "spark" / spark.S3_JARS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_lake_on_s3_without_the_connector_is_refused_with_the_command_that_fetches_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    monkeypatch.setenv("LUMOS_LAKE", "s3://lake/tables")
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)  # of another test here
    with (
        pytest.raises(BadInput, match=f"{FETCH}; or .*LUMOS_PLATFORM=aws"),
        spark.spark_session("test"),
    ):
        pass


@pytest.mark.parametrize("lake", ["s3://lake/tables", "s3a://lake/tables"])
def test_the_doctor_looks_for_the_connector_too(tmp_path, with_connector, lake):
    bare = tmp_path / "bare"
    (finding,) = check_s3_jars(settings(bare, lake))
    assert FETCH in finding.remedy
    (finding,) = check_s3_jars(settings(with_connector, lake))
    assert finding.ok
    assert check_s3_jars(settings(bare, str(tmp_path))) == []


def test_the_connector_comes_after_delta_s_jars_and_serves_both_names_of_s3(
    with_connector, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = spark._s3_settings(with_connector / "spark")
    assert found["spark.hadoop.fs.s3.impl"] == "org.apache.hadoop.fs.s3a.S3AFileSystem"
    assert found["spark.hadoop.fs.s3a.endpoint"] == "http://127.0.0.1:9"
    names = [Path(path).name for path in found["spark.driver.extraClassPath"].split(":")]
    assert names == sorted(prepare.S3)


def test_a_jar_that_is_not_the_one_that_was_tested_is_not_used(tmp_path):
    jar = tmp_path / "some.jar"
    jar.write_bytes(b"theirs")
    prepare.refuse_other(jar, hashlib.sha256(b"theirs").hexdigest())
    with pytest.raises(RuntimeError, match=r"some\.jar has SHA-256 .* was tested: it is not used"):
        prepare.refuse_other(jar, hashlib.sha256(b"ours").hexdigest())


def test_the_jars_here_are_those_that_were_tested_and_fit_this_spark():
    folder = Settings.from_environment().home / "spark"
    jars = spark.prepared_jars(folder)
    assert {jar.name for jar in jars} == set(prepare.DELTA)
    for jar in jars:
        prepare.refuse_other(jar, prepare.DELTA[jar.name])
    hadoop = {p.name for p in (Path(pyspark.__file__).parent / "jars").glob("hadoop-client-api-*")}
    (ours,) = (name.rsplit("-", 1)[1] for name in prepare.S3 if "hadoop-aws" in name)
    assert hadoop == {f"hadoop-client-api-{ours}"}
