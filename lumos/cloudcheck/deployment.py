"""What a deployment on AWS has once: its file, its bucket, its secrets, its code, Databricks."""

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from lumos.cloud import EXAMPLE, Cloud, read_cloud
from lumos.cloudcheck.asking import Aws, Check, Unseen, error_code, run_all
from lumos.cloudcheck.machines import checks_of_machines
from lumos.finding import Finding
from lumos.settings import Settings

_PRIVATE = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_ANSWER_SECONDS = 10


def examine_aws(settings: Settings) -> list[Finding]:
    """All checks of ``LUMOS_PLATFORM=aws``; none of them starts or changes anything."""
    try:
        cloud = read_cloud(settings.cloud)
    except ValueError as error:
        return [Finding("cloud", str(error), f"Correct it; {EXAMPLE} is a whole example")]
    aws = Aws(cloud.region)
    first = Check(
        "credentials",
        lambda: _who(aws, cloud),
        "Give this host credentials: an instance role, or AWS_PROFILE",
    ).run()
    found = [
        Finding("cloud", f"{settings.cloud}: {cloud.root} in {cloud.region}"),
        *_reachable(settings, cloud),
        *_code(cloud),
        _databricks(cloud),
        first,
    ]
    if not first.ok:  # each of the others would say the same
        return found
    machines = checks_of_machines(aws, cloud, _lake(settings, cloud))
    return [*found, *run_all(_checks(aws, cloud)), *run_all(machines)]


def _checks(aws: Aws, cloud: Cloud) -> Iterator[Check]:
    bucket = cloud.bucket
    make = f"aws s3api create-bucket --bucket {bucket} --region {cloud.region}"
    yield Check(
        "bucket",
        lambda: _bucket(aws, cloud),
        f"Make it ({make}), or correct `bucket` in LUMOS_CLOUD",
        must=True,
    )
    yield Check("bucket private", lambda: _private(aws, cloud), _block_command(bucket))
    yield Check("bucket encrypted", lambda: _encrypted(aws, cloud), f"See {EXAMPLE}")
    yield Check(
        "bucket rights",
        lambda: _write(aws, cloud),
        f"Let the credentials read, write and delete below {cloud.root}/",
        must=True,
    )
    for variable, name in cloud.secrets.items():
        yield Check(
            f"secret {variable}",
            lambda name=name: _secret(aws, name),  # type: ignore[misc]
            f"Make the secret {name} (aws secretsmanager create-secret), or correct [secrets]",
        )


def _who(aws: Aws, cloud: Cloud) -> tuple[str, str]:
    arn = aws("sts").get_caller_identity()["Arn"]
    return f"{arn}; Airflow itself uses the connection {cloud.aws_conn_id}", ""


def _bucket(aws: Aws, cloud: Cloud) -> tuple[str, str]:
    answer = aws("s3").head_bucket(Bucket=cloud.bucket)
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", cloud.region)
    if region == cloud.region:
        return f"{cloud.bucket} in {region}", ""
    return (
        f"{cloud.bucket} is in {region}, the instances in {cloud.region}",
        f"Make a bucket in {cloud.region}: traffic between regions is slow and is charged",
    )


def _block_command(bucket: str) -> str:
    settings = ",".join(f"{name}=true" for name in _PRIVATE)
    return (
        f"aws s3api put-public-access-block --bucket {bucket} "
        f"--public-access-block-configuration {settings}"
    )


def _private(aws: Aws, cloud: Cloud) -> tuple[str, str]:
    answer = aws("s3").get_public_access_block(Bucket=cloud.bucket)
    given = answer["PublicAccessBlockConfiguration"]
    open_ones = [name for name in _PRIVATE if not given.get(name)]
    if open_ones:
        return f"{', '.join(open_ones)} is off", _block_command(cloud.bucket)
    return "no public access", ""


def _encrypted(aws: Aws, cloud: Cloud) -> tuple[str, str]:
    from botocore.exceptions import ClientError

    try:
        answer = aws("s3").get_bucket_encryption(Bucket=cloud.bucket)
    except ClientError as error:
        if error_code(error) != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        return "by S3's own keys, as every new object is", ""
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    kinds = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    return f"by default with {', '.join(kinds)}", ""


def _write(aws: Aws, cloud: Cloud) -> tuple[str, str]:
    s3, key = aws("s3"), f"{cloud.prefix}/doctor-{uuid4().hex}"
    s3.put_object(Bucket=cloud.bucket, Key=key, Body=b"lumos doctor")
    try:
        s3.get_object(Bucket=cloud.bucket, Key=key)["Body"].read()
    finally:
        s3.delete_object(Bucket=cloud.bucket, Key=key)
    return f"wrote, read and deleted an object below {cloud.root}/", ""


def _secret(aws: Aws, name: str) -> tuple[str, str]:
    """That it is there; its value is never asked for."""
    if aws("secretsmanager").describe_secret(SecretId=name).get("DeletedDate"):
        return (
            f"{name} is about to be deleted",
            "aws secretsmanager restore-secret, or name another",
        )
    return f"{name} is there", ""


def _reachable(settings: Settings, cloud: Cloud) -> Iterator[Finding]:
    """The lake and the tracking server, as a machine sees them."""
    lake = _lake(settings, cloud)
    remedy = "Set LUMOS_LAKE to an address that machines can reach, such as s3://bucket/lake"
    yield Finding("lake of machines", lake, "" if "://" in lake else remedy)
    tracking = cloud.environment.get("MLFLOW_TRACKING_URI", settings.mlflow_uri)
    kind = tracking.partition(":")[0]
    remedy = "Set MLFLOW_TRACKING_URI to an http(s):// address, or databricks"
    is_fine = kind in ("http", "https", "databricks", "databricks-uc")
    yield Finding("tracking of machines", f"{kind}:...", "" if is_fine else remedy)


def _lake(settings: Settings, cloud: Cloud) -> str:
    return cloud.environment.get("LUMOS_LAKE", settings.lake)


def _code(cloud: Cloud) -> Iterator[Finding]:
    """What is shipped to machines, by the digests that they check."""
    remedy = "Run `make wheel`, and name the file as `wheels` in LUMOS_CLOUD"
    for path in cloud.wheels:
        digest = _digest(path)
        is_fine = digest is not None and path.suffix == ".whl"
        yield Finding("wheel", f"{path}: {digest or 'no such file'}", "" if is_fine else remedy)
    if not any(path.name.startswith("lumos-") for path in cloud.wheels):
        yield Finding("wheel", "none of `wheels` is LUMOS's own (lumos-...whl)", remedy)
    digest = _digest(cloud.lock)
    remedy = "Name the requirements.txt that the image was made from as `lock` in LUMOS_CLOUD"
    yield Finding("lock", f"{cloud.lock}: {digest or 'no such file'}", "" if digest else remedy)


def _digest(path: Path) -> str | None:
    try:
        return f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError:
        return None


def _databricks(cloud: Cloud) -> Finding:
    """By the variables that Databricks' own tools read; Airflow uses its connection."""
    host, token = os.environ.get("DATABRICKS_HOST"), os.environ.get("DATABRICKS_TOKEN")
    if not (host and token):
        conn = cloud.databricks_conn_id
        seen = f"left to the tasks, which use the connection {conn}; DATABRICKS_HOST and "
        return Finding("databricks", f"{seen}DATABRICKS_TOKEN let the doctor look")
    address = (host if "://" in host else f"https://{host}").rstrip("/")
    try:
        versions = _spark_versions(address, token)
    except Unseen as error:
        remedy = "Correct DATABRICKS_HOST and DATABRICKS_TOKEN, or let the token make job runs"
        return Finding("databricks", str(error), remedy)
    wanted = (cloud.databricks.cluster or {}).get("spark_version")
    if wanted and versions and wanted not in versions:
        remedy = f"Choose one of those that it offers, such as {sorted(versions)[-1]}"
        return Finding("databricks", f"{address} has no spark_version {wanted}", remedy)
    return Finding("databricks", f"{address} answers")


def _spark_versions(address: str, token: str) -> set[str]:
    url = f"{address}/api/2.1/clusters/spark-versions"
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(asked, timeout=_ANSWER_SECONDS) as answer:
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise Unseen(f"{address} refuses the token ({error.code})") from error
    except (OSError, ValueError) as error:
        raise Unseen(f"{address} does not answer: {error}") from error
    return {str(version["key"]) for version in found.get("versions", ())}
