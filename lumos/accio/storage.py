"""Files on a disk or in a bucket: where they are, and patience with storage that fails."""

import logging
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from lumos.verbs import BadInput

log = logging.getLogger(__name__)

_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.2
# Hadoop's names of the one protocol.
_S3 = ("s3", "s3a", "s3n")
_T = TypeVar("_T")


class StorageFailed(OSError):
    """A file could not be read, however often it was tried; a later run may well succeed."""


def locate(root: str, path: str) -> str:
    """Path or URI of a file that the Delta log names, in one form for all ways to write it.

    A shallow clone names its files absolutely: Spark writes ``file:/x`` and ``s3a://bucket/x``,
    delta-rs ``file:///x``.

    Args:
        root: The table's path or URI.
        path: As in the log: URL-encoded, relative to the table or absolute.
    """
    plain = unquote(path)
    scheme = urlsplit(path).scheme
    if scheme == "file":
        return "/" + plain.removeprefix("file:").lstrip("/")
    if scheme in _S3:
        return "s3://" + plain.split(":", 1)[1].lstrip("/")
    if scheme or plain.startswith("/"):
        return plain
    return f"{root.rstrip('/')}/{plain}"


def store_of(place: str) -> str:
    """The root of the file system that has a place: ``s3://bucket``, or ``/`` for a local one."""
    scheme, found, rest = place.partition("://")
    return f"{scheme}://{rest.split('/', 1)[0]}" if found else "/"


@lru_cache
def filesystem_of(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the prefix that its own paths lack.

    Only the root is read as a URI: the names below it may hold any character.
    """
    if "://" not in root:
        return fs.LocalFileSystem(), ""
    scheme, rest = root.split("://", 1)
    if scheme == "file":
        return fs.LocalFileSystem(), "file://"
    bucket = rest.split("/", 1)[0]
    # `s3a` is what Spark calls it.
    system, _ = fs.FileSystem.from_uri(f"{'s3' if scheme == 's3a' else scheme}://{bucket}")
    return system, f"{scheme}://"


def patiently(
    read: Callable[[], _T], path: str, *, pause: Callable[[float], None] = time.sleep
) -> _T:
    """What ``read`` returns; tried again with growing pauses while the storage fails.

    Raises:
        BadInput: The file is gone (it was vacuumed), or it is no Parquet file.
        StorageFailed: Every attempt failed; names the file.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except FileNotFoundError as error:
            msg = (
                f"{path} is named by the pinned version of the table but is gone: it was "
                "vacuumed. Pin a newer version, and keep delta.deletedFileRetentionDuration "
                "longer than a run"
            )
            raise BadInput(msg) from error
        except pa.ArrowInvalid as error:
            msg = f"{path} cannot be read as Parquet: {error}"
            raise BadInput(msg) from error
        except OSError as error:
            if attempt == _ATTEMPTS - 1:
                msg = f"{path} could not be read in {_ATTEMPTS} attempts: {error}"
                raise StorageFailed(msg) from error
            # Jitter, so that many workers do not come back at the same moment.
            seconds = _FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1)
            log.warning("%s: %s; trying again in %.1f s", path, error, seconds)
            pause(seconds)
    raise AssertionError("unreachable")
