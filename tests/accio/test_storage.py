from pathlib import Path

import pytest
from pyarrow import fs

from lumos.accio.storage import StorageFailed, filesystem_of, locate, patiently, store_of
from lumos.verbs import BadInput


def test_storage_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.mkdir()  # a read of it fails, but not because it is missing
    pauses: list[float] = []

    def mend(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            path.rmdir()
            path.write_text("whole again")

    assert patiently(path.read_text, str(path), pause=mend) == "whole again"
    assert pauses == sorted(pauses)


def test_storage_that_stays_broken_is_named(tmp_path: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(StorageFailed, match=rf"{tmp_path} could not be read in 5 attempts"):
        patiently(tmp_path.read_text, str(tmp_path), pause=pauses.append)
    assert len(pauses) == 4


def test_a_file_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    def no_pause(_: float) -> None:
        pytest.fail("waited for a file that will not come back")

    with pytest.raises(BadInput, match=r"gone: it was vacuumed. Pin a newer version"):
        patiently((tmp_path / "gone").read_text, "gone", pause=no_pause)


def test_files_are_found_whatever_their_names() -> None:
    assert locate("/a b/t/", "p=x%2520y/f%25.parquet") == "/a b/t/p=x%20y/f%.parquet"
    assert locate("s3://bucket/t", "p=a/f.parquet") == "s3://bucket/t/p=a/f.parquet"
    # A shallow clone names the files of another table.
    for other in ("file:///other/p%20q/f", "file:/other/p%20q/f", "/other/p%20q/f"):
        assert locate("/clone", other) == "/other/p q/f"
    for scheme in ("s3", "s3a", "s3n"):
        assert locate("/clone", f"{scheme}://bucket/f.parquet") == "s3://bucket/f.parquet"
    assert store_of("s3://bucket/a/f") == "s3://bucket"
    assert store_of("/other/f") == "/"
    for root in ("/a%20b/t", "file:///a"):
        assert isinstance(filesystem_of(root)[0], fs.LocalFileSystem)
