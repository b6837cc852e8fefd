"""A folder of a bucket: what Airflow and a rented machine tell each other lies there.

S3 is consistent, and writes of one object can be made to depend on what is there, so it is also
where two writers find out which of them was first.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

_MISSING = {"NoSuchKey", "404", "NotFound"}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


class Conflict(Exception):
    """Someone else has written the object meanwhile."""


@dataclass(frozen=True)
class Found:
    """An object and its version."""

    data: bytes
    etag: str


class Folder:
    """Objects by their names below ``uri``.

    Args:
        s3: A boto3 client.
        uri: Such as ``s3://bucket/lumos/jobs/0123``.
    """

    def __init__(self, s3: Any, uri: str) -> None:  # noqa: ANN401 - boto3's are made at run time
        self.s3 = s3
        self.uri = uri.rstrip("/")
        self._bucket, self._prefix = self.uri.removeprefix("s3://").split("/", 1)

    def of(self, name: str) -> "Folder":
        """A folder in it."""
        return Folder(self.s3, f"{self.uri}/{name}")

    def read(self, name: str) -> Found | None:
        """An object, if it is there."""
        try:
            answer = self.s3.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")
            return Found(answer["Body"].read(), answer["ETag"])
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise

    def write(self, name: str, data: bytes) -> str:
        """Write an object, whatever is there; gives its version."""
        return self._put(name, data, {})

    def create(self, name: str, data: bytes) -> str:
        """Write an object that is not there yet.

        Raises:
            Conflict: It is.
        """
        return self._put(name, data, {"IfNoneMatch": "*"})

    def replace(self, name: str, data: bytes, etag: str) -> str:
        """Write an object that is still the one which was read.

        Raises:
            Conflict: It is not.
        """
        return self._put(name, data, {"IfMatch": etag})

    def list(self, *, after: str = "") -> dict[str, datetime]:
        """When each object was written whose name comes after ``after``; the first thousand."""
        prefix = f"{self._prefix}/"
        start = {"StartAfter": prefix + after} if after else {}
        answer = self.s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **start)
        return {
            item["Key"].removeprefix(prefix): item["LastModified"]
            for item in answer.get("Contents", ())
        }

    def _put(self, name: str, data: bytes, condition: dict[str, str]) -> str:
        try:
            answer = self.s3.put_object(
                Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=data, **condition
            )
        except ClientError as error:
            if error.response["Error"]["Code"] not in _CONFLICT:
                raise
            # An answer that was lost on its way is asked for again, and then meets itself.
            found = self.read(name)
            if found is None or found.data != data:
                raise Conflict(f"{self.uri}/{name}") from error
            return found.etag
        etag: str = answer["ETag"]
        return etag
