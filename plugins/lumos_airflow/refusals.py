"""What AWS's errors mean to a task: ask elsewhere, have a person mend something, or try again.

Errors of calls come out as one of three: :class:`NoCapacity` (another zone, or later),
:class:`Refused` (a retry cannot mend it) or botocore's own (try again).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from lumos.cloud import Cloud

NO_CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientCapacity",
    "InsufficientReservedInstanceCapacity",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "Unsupported",  # this zone has no such instance type
}
_QUOTA = {"VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"}
_DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "403", "Forbidden"}
_BAD_KEYS = {
    "AuthFailure",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "UnrecognizedClientException",
}


class NoCapacity(Exception):
    """This zone has no such instance now."""


class Refused(Exception):
    """AWS will not, however often it is asked; says what to change."""


def said(error: ClientError) -> str:
    """AWS's own words, not too many."""
    found = error.response["Error"]
    return f"{found['Code']}: {found.get('Message', '')}".strip()[:500]


@contextmanager
def sentences(cloud: Cloud, what: str) -> Iterator[None]:
    """Turn what a person must mend into :class:`Refused`, with the remedy.

    Raises:
        Refused: Credentials, rights, quotas, ids.
        ConnectionError: Nothing answers; it may later.
    """
    where = f"in {cloud.region} by the connection {cloud.aws_conn_id}"
    doctor = "`lumos doctor --platform aws` looks at all of it"
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        msg = (
            f"cannot {what} {where}: it has no credentials. Give the connection "
            "some, or the Airflow host an instance role"
        )
        raise Refused(msg) from error
    except EndpointConnectionError as error:
        msg = f"cannot {what} {where}: {error}. Is the region right, and the network open?"
        raise ConnectionError(msg) from error
    except ClientError as error:
        remedy = _remedy(error.response["Error"]["Code"])
        if remedy is None:
            raise
        raise Refused(f"cannot {what} {where}: {said(error)}. {remedy}; {doctor}") from error
    except BotoCoreError as error:
        if "config profile" in str(error):
            raise Refused(f"cannot {what} {where}: {error}") from error
        raise


def _remedy(code: str) -> str | None:
    if code in _QUOTA:
        return "Ask for a higher quota of vCPUs (Service Quotas, EC2), or use fewer nodes"
    if code in _DENIED:
        return "Allow it: docs/aws/airflow-policy.json is all that Airflow needs"
    if code in _BAD_KEYS:
        return "The credentials are wrong or have expired: renew those of the connection"
    if code == "NoSuchBucket":
        return "Make the bucket, or correct `bucket` in LUMOS_CLOUD"
    if code == "InvalidInstanceId":  # SSM: not online any more, another look will tell
        return None
    if code.startswith("Invalid") or code in ("MissingParameter", "InstanceTypeNotSupported"):
        return "Correct it in LUMOS_CLOUD"
    return None
