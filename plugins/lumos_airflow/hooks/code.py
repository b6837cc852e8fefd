"""Put the code where rented machines and Databricks read it: wheels in S3, named by their digest.

What a digest names never changes, so a retry finds what its first try ran, two tasks that ship
at once ship the same, and nothing here is ever overwritten.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from lumos.cloud import Cloud

# Who may not list the bucket is not told that an object is missing.
_MISSING = {"404", "NoSuchKey", "NotFound", "403", "AccessDenied"}
_THERE = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_MEND = {
    "403": "let its role read and write there (s3:GetObject, s3:PutObject)",
    "AccessDenied": "let its role read and write there (s3:GetObject, s3:PutObject)",
    "NoSuchBucket": "make the bucket, or correct `bucket` in LUMOS_CLOUD",
    "InvalidAccessKeyId": "renew the keys of the connection",
    "SignatureDoesNotMatch": "renew the keys of the connection",
    "ExpiredToken": "renew the keys of the connection",
}


@dataclass(frozen=True)
class Shipped:
    """A file of the code in S3."""

    uri: str
    sha256: str
    name: str


def ship(cloud: Cloud, files: Iterable[Path]) -> list[Shipped]:
    """Upload each file to ``<root>/code/<sha256>/<name>``, unless it is there already.

    Raises:
        AirflowFailException: A file is missing, or the bucket refuses: a person must mend it.
        AirflowException: S3 does not answer; it may later.
    """
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    where = f"{cloud.root}/code by the connection {cloud.aws_conn_id}"
    contents = [(path, _read(path)) for path in files]
    try:
        s3 = S3Hook(aws_conn_id=cloud.aws_conn_id, region_name=cloud.region).get_conn()
        return [_ship_one(s3, cloud, path.name, data) for path, data in contents]
    except ClientError as error:
        found = error.response["Error"]
        msg = f"the code cannot be put into {where} ({found['Code']}: {found.get('Message', '')})"
        remedy = _MEND.get(found["Code"])
        if remedy is None:
            raise AirflowException(msg) from error
        raise AirflowFailException(f"{msg}: {remedy}") from error
    except BotoCoreError as error:
        msg = f"the code cannot be put into {where}: {error}"
        raise AirflowException(msg) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = (
            f"LUMOS_CLOUD names the wheel {path}, which cannot be read ({error.strerror}): "
            "make it with `make wheel`, or correct `wheels`"
        )
        raise AirflowFailException(msg) from error


def _ship_one(s3: Any, cloud: Cloud, name: str, data: bytes) -> Shipped:  # noqa: ANN401 - boto3's
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{cloud.prefix}/code/{sha256}/{name}"
    shipped = Shipped(f"s3://{cloud.bucket}/{key}", sha256, name)
    try:
        s3.head_object(Bucket=cloud.bucket, Key=key)
        return shipped
    except ClientError as error:
        if error.response["Error"]["Code"] not in _MISSING:
            raise
    try:
        # Whoever is first is right: both have the same bytes.
        s3.put_object(Bucket=cloud.bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["Error"]["Code"] not in _THERE:
            raise
    return shipped
