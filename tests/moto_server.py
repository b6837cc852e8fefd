"""An AWS that really answers: moto's server, on a port of this machine.

All servers of a process have one memory: what is made in one is there in the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import boto3
import botocore.session
import pytest
from moto.server import ThreadedMotoServer

from lumos.accio.storage import filesystem_of

# The descriptions of all services, which each session of boto3's would read and parse again.
botocore.session.create_loader = cache(botocore.session.create_loader)

BUCKET = "lake"


@contextmanager
def serving(bucket: str | None = None) -> Iterator[dict[str, str]]:
    """Environment variables that lead to a server, in which there is a bucket of this name."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url, region = f"http://{host}:{port}", "us-east-1"
    key = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
    try:
        if bucket is not None:
            s3 = boto3.client("s3", endpoint_url=url, region_name=region, **key)
            s3.create_bucket(Bucket=bucket)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            **{variable.upper(): value for variable, value in key.items()},
        }
    finally:
        server.stop()


@contextmanager
def entered(monkeypatch: pytest.MonkeyPatch, bucket: str | None = None) -> Iterator[None]:
    """Such a server; this process's environment leads there."""
    with serving(bucket) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        # A bucket of the same name was at another server's port before.
        filesystem_of.cache_clear()
        yield


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch, name: str = BUCKET) -> Iterator[str]:
    """The URI of an empty bucket; this process's environment leads there."""
    with entered(monkeypatch, name):
        yield f"s3://{name}"
