import logging
import os
from pathlib import Path

import pytest
import torch

from lumos.train.state import Progress, State, newest_state, save_state
from lumos.verbs import BadInput


def state(epoch: int, step: int) -> State:
    log = ({"loss": 0.1 + 0.2},) * epoch
    where = Progress({"epoch": epoch, "step": step}, log, (0.3,), (7.0,))
    number = torch.tensor([1.0 * epoch, step])
    return State(where, {"weights": {"a.weight": number}, "optimiser": {"adamw.a.step": number}})


def save(folder: Path, *places: tuple[int, int]) -> None:
    for place in places:
        save_state(folder, state(*place), recipe="r")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    save(tmp_path, (2, 3))
    found = newest_state(tmp_path, recipe="r")
    assert found is not None
    assert found.progress == Progress(
        {"epoch": 2, "step": 3}, ({"loss": 0.1 + 0.2},) * 2, [0.3], [7.0]
    )
    assert (found.progress.epoch, found.progress.step) == (2, 3)
    for kind, tensors in state(2, 3).tensors.items():
        assert all(torch.equal(t, found.tensors[kind][name]) for name, t in tensors.items())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, (0, 5), (1, 0), (1, 5), (2, 0))
    assert names(tmp_path) == ["state-00001-0000005", "state-00002-0000000"]


def test_a_state_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a name would stand for files that were never written."""
    folder = tmp_path / "state-00001-0000000"
    had_name: dict[int, bool] = {}
    fsync = os.fsync

    def recorded(number: int) -> None:
        had_name[os.fstat(number).st_ino] = folder.exists()
        fsync(number)

    monkeypatch.setattr(os, "fsync", recorded)
    save(tmp_path, (1, 0))
    for path in (folder, *folder.iterdir()):
        assert had_name.get(path.stat().st_ino) is False, path
    assert had_name.get(tmp_path.stat().st_ino) is True


@pytest.mark.parametrize("file", ["weights.safetensors", "optimiser.safetensors", "state.json"])
def test_a_damaged_state_is_fallen_back_from_with_a_warning(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, (1, 0), (2, 0))
    newest = tmp_path / "state-00002-0000000" / file
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        found = newest_state(tmp_path, recipe="r")
    assert found is not None
    assert found.progress.epoch == 1
    assert f"state-00002-0000000 is damaged: {file}" in caplog.text
    # What goes on from the older one is the newest from then on.
    save(tmp_path, (1, 7))
    assert names(tmp_path) == ["state-00001-0000000", "state-00001-0000007"]


def test_nothing_but_damaged_states_is_said_and_not_begun_anew_in_silence(tmp_path: Path) -> None:
    save(tmp_path, (1, 0))
    (tmp_path / "state-00001-0000000" / "weights.safetensors").unlink()
    with pytest.raises(BadInput, match="all are damaged; --force begins anew"):
        newest_state(tmp_path, recipe="r")


def test_a_draft_left_by_a_kill_is_no_state(tmp_path: Path) -> None:
    (tmp_path / ".draft-state-00009-0000000").mkdir()
    assert newest_state(tmp_path, recipe="r") is None
    assert newest_state(tmp_path / "none", recipe="r") is None


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    save(tmp_path, (1, 0))
    with pytest.raises(BadInput, match=r"of another recipe \(digest r, now s\).*begins anew"):
        newest_state(tmp_path, recipe="s")
