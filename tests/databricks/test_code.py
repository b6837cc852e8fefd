import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from lumos_airflow.hooks.code import ship

from lumos.cloud import Cloud, read_cloud
from lumos.settings import Settings
from tests.databricks.deployment import BUCKET


@pytest.fixture
def cloud(deployed) -> Cloud:
    return read_cloud(Settings.from_environment().cloud)


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / "acme-1.0-py3-none-any.whl"
    path.write_bytes(tmp_path.name.encode())
    return path


def stored() -> dict[str, bytes]:
    s3 = boto3.client("s3")
    found = s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())
    return {
        item["Key"]: s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in found
    }


def test_a_file_is_stored_under_its_digest_once(cloud, written):
    (shipped,) = ship(cloud, [written])
    sha256 = hashlib.sha256(written.read_bytes()).hexdigest()
    key = f"lumos/code/{sha256}/{written.name}"
    assert (shipped.uri, shipped.sha256, shipped.name) == (
        f"s3://{BUCKET}/{key}",
        sha256,
        written.name,
    )
    assert stored()[key] == written.read_bytes()
    assert ship(cloud, [written]) == [shipped]


def test_what_was_shipped_is_never_overwritten(cloud, written):
    (shipped,) = ship(cloud, [written])
    key = shipped.uri.removeprefix(f"s3://{BUCKET}/")
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"someone else's")
    assert ship(cloud, [written]) == [shipped]
    assert stored()[key] == b"someone else's"


def test_tasks_that_ship_at_once_ship_the_same(cloud, written):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ship(cloud, [written])[0], range(16)))
    assert len(set(found)) == 1


def test_a_missing_wheel_says_how_to_make_it(cloud, tmp_path):
    with pytest.raises(AirflowFailException, match=r"nothing\.whl.*make it with `make wheel`"):
        ship(cloud, [tmp_path / "nothing.whl"])


def test_a_missing_bucket_says_which_line_to_correct(cloud, written):
    elsewhere = Cloud.model_validate({**cloud.model_dump(), "bucket": "nobody-s-bucket"})
    with pytest.raises(AirflowFailException, match="make the bucket, or correct `bucket`"):
        ship(elsewhere, [written])


def test_an_s3_that_does_not_answer_is_asked_another_time(cloud, written, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(AirflowException, match="cannot be put into s3://") as raised:
        ship(cloud, [written])
    assert not isinstance(raised.value, AirflowFailException)
