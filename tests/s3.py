"""An S3 server that really answers: moto's, on a port of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "lake"


@contextmanager
def server(name: str) -> Iterator[dict[str, str]]:
    """Environment variables that lead to an S3 with one empty bucket."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    url, region = f"http://{host}:{port}", "us-east-1"
    key = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
    s3 = boto3.client("s3", endpoint_url=url, region_name=region, **key)
    s3.create_bucket(Bucket=name)
    yield {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        **{variable.upper(): value for variable, value in key.items()},
    }
    moto.stop()


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket; this process's environment leads there."""
    with server(BUCKET) as variables:
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        yield f"s3://{BUCKET}"
