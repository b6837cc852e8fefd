"""Versions of a Delta table that are gone, which is not the same as a table that is not there.

delta-rs and Spark remove logs and files that are older than a table's retention (30 days). The
ledger goes on naming the versions: who asks for one is told so, and never "there is no table".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lumos.verbs import BadInput


class VersionGone(DeltaError, BadInput):
    """A table is there, but a version of it can no longer be read: a retry cannot help."""

    def __init__(self, uri: str, version: int, why: object) -> None:
        super().__init__(
            f"version {version} of the Delta table at {uri} is gone ({why}): old versions are kept "
            "for 30 days. Run the verb that wrote it again, with --force, for a date that is needed"
        )


def open_version(uri: str, version: int | None) -> DeltaTable | None:
    """The table at a version, the newest for ``None``; ``None`` where there is no table yet.

    Raises:
        VersionGone: There is a table, which does not have the version any more.
    """
    try:
        return DeltaTable(uri, version=version)
    except TableNotFoundError as error:
        # With its log entry gone, a version looks to delta-rs as a table that never was.
        if version is None or open_version(uri, None) is None:
            return None
        raise VersionGone(uri, version, "its log was cleaned up") from error
    except DeltaError as error:
        if version is None or isinstance(error, VersionGone):
            raise
        if open_version(uri, None) is None:
            return None
        raise VersionGone(uri, version, error) from error


@contextmanager
def reading(uri: str, version: int | None) -> Iterator[None]:
    """Turn a file that is missing while a version is read into :class:`VersionGone`.

    Raises:
        VersionGone: A file of the version was removed.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        is_missing = isinstance(error, FileNotFoundError) or "not found" in str(error)
        if version is None or not is_missing:
            raise
        raise VersionGone(uri, version, "its files were removed") from error
