"""docs/backup.sh, beside a verb at work."""

import subprocess

import pytest

from benchmarks.backup import campaign
from lumos.settings import REPOSITORY


def test_a_copy_that_is_made_amid_publications_has_all_that_it_names(tmp_path):
    found = campaign(2, tmp_path)
    assert found["commits_meanwhile"]
    assert (found["backups"], found["unreadable"]) == (2, 0)


@pytest.mark.parametrize(
    ("lake", "sentence"),
    [("s3://acme/lake", "is no folder: docs/operate.md"), ("", "exists: name a new folder")],
)
def test_a_lake_in_a_bucket_and_a_folder_that_is_there_are_refused(tmp_path, lake, sentence):
    (tmp_path / "lake").mkdir()
    done = subprocess.run(
        [REPOSITORY / "docs" / "backup.sh", tmp_path],
        env={"PATH": "/usr/bin:/bin", "LUMOS_LAKE": lake or str(tmp_path / "lake")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]
