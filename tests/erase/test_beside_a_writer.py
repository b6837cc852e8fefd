"""The campaign of ``benchmarks/erase.py``, in short."""

import pytest

from benchmarks import erase
from tests.conftest import enter
from tests.erase.served import mention

pytestmark = pytest.mark.xdist_group("erase")


def test_killed_beside_a_writer_erase_loses_no_file_and_leaves_no_id(served, tmp_path, monkeypatch):
    base = enter(served.copy(tmp_path / "base"), monkeypatch)
    mention(base)
    found = erase.measure(tmp_path, base, num_kills=2)
    assert found["commits"] > 0
    assert (found["kills"], found["lost_files"], found["ids_found"]) == (2, 0, 0)
