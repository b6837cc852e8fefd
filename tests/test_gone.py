"""A version of a table that is gone is not a table that is not there."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lumos.delta import open_table, read, replace
from lumos.gone import VersionGone
from lumos.verbs import BadInput


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A table of five versions, of which each replaced all rows."""
    uri = str(tmp_path / "a table")
    for number in range(5):
        replace(uri, pa.table({"number": [number]}), where=None)
    return uri


def test_a_table_that_is_not_there_is_none_at_any_version(tmp_path: Path) -> None:
    uri = str(tmp_path / "nothing")
    assert open_table(uri) is None
    assert open_table(uri, 3) is None
    assert read(uri, version=3) is None


def test_a_version_whose_files_were_removed_is_gone(uri: str) -> None:
    newest = DeltaTable(uri).version()
    DeltaTable(uri).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(VersionGone, match=f"version {newest - 1} .* is gone .*--force"):
        read(uri, version=newest - 1)
    assert read(uri, version=newest) == pa.table({"number": [4]})


def test_a_version_whose_log_was_cleaned_up_is_gone_and_a_retry_cannot_help(uri: str) -> None:
    table = DeltaTable(uri)
    table.create_checkpoint()
    logs = sorted((Path(uri) / "_delta_log").glob("*.json"))
    for log in logs[:-1]:
        log.unlink()
    # The log before the last checkpoint, the one within it, and one that never was.
    for version in (0, table.version() - 1, table.version() + 7):
        for look in (open_table, lambda uri, version: read(uri, version=version)):
            with pytest.raises(VersionGone) as caught:
                look(uri, version)
            assert isinstance(caught.value, BadInput)
    assert read(uri) == pa.table({"number": [4]})
