"""The lock of a recipe's tables: shared by verbs, held alone by an erasure."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lumos.lock import FOLDER, STALE_SECONDS, Locked, exclusive, shared
from tests.conftest import World
from tests.moto_server import bucket


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "home")


def marks(world: World) -> Path:
    return world.home / "lake" / "gym" / FOLDER


def leave(world: World, name: str, **holder: object) -> Path:
    """A mark that is nobody's of this process."""
    path = marks(world) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"verb": "score", "host": "elsewhere", "pid": 1, **holder}))
    return path


def test_verbs_share_it_and_leave_nothing_behind(world):
    request = world.request("score")
    with shared(request, patience_seconds=0), shared(request, patience_seconds=0):
        assert len(list(marks(world).iterdir())) == 2
    assert list(marks(world).iterdir()) == []


def test_an_erasure_waits_for_verbs_that_run_and_those_that_begin_wait_for_it(world):
    score, erase = world.request("score"), world.request("erase")
    happened: list[str] = []
    begins, may_end = threading.Event(), threading.Event()

    def erasing() -> None:
        with exclusive(erase):
            happened.append("erasure begins")
            begins.set()
            may_end.wait(60)
            happened.append("erasure ends")

    thread = threading.Thread(target=erasing)
    with shared(score):
        thread.start()
        assert not begins.wait(1.5)
        happened.append("verb ends")
    assert begins.wait(60)
    with pytest.raises(Locked, match="locked by `erase`"), shared(score, patience_seconds=0):
        pass
    may_end.set()
    with shared(score):
        happened.append("next verb")
    thread.join()
    assert happened == ["verb ends", "erasure begins", "erasure ends", "next verb"]


def test_a_verb_that_begins_while_an_erasure_waits_does_not_keep_it_waiting(world):
    score, erase = world.request("score"), world.request("erase")
    happened: list[str] = []

    def erasing() -> None:
        with exclusive(erase, patience_seconds=30):
            happened.append("erasure")

    def scoring() -> None:
        with shared(score, patience_seconds=30):
            happened.append("next verb")

    threads = [threading.Thread(target=work) for work in (erasing, scoring)]
    with shared(score):
        threads[0].start()
        while len(list(marks(world).iterdir())) < 2:
            threading.Event().wait(0.01)
        threads[1].start()
    for thread in threads:
        thread.join()
    assert happened == ["erasure", "next verb"]
    assert list(marks(world).iterdir()) == []


def test_of_two_erasures_the_second_gives_way(world):
    request = world.request("erase")
    with (
        exclusive(request),
        pytest.raises(Locked, match="run this again when it has ended"),
        exclusive(request),
    ):
        pass
    assert list(marks(world).iterdir()) == []


def test_a_process_that_was_killed_holds_nobody_up_on_its_host(world):
    script = (
        "import os, sys\n"
        "from tests.conftest import World, Path\n"
        "from lumos.lock import exclusive\n"
        "with exclusive(World(Path(sys.argv[1])).request('erase')):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(world.home)])
    # Its number still stands for it: a parent that never waits is no reason to wait for it.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    (mark,) = marks(world).iterdir()
    holder = mark.read_text()
    for _ in range(2):
        mark.write_text(holder)
        with shared(world.request("score"), patience_seconds=0):
            pass
        assert list(marks(world).iterdir()) == []
        assert process.wait() == -9


def test_a_holder_on_another_host_is_believed_until_its_mark_was_not_renewed_for_long(world):
    path = leave(world, "exclusive-1.json", verb="erase")
    renewed = path.stat().st_mtime
    os.utime(path, (renewed, renewed - STALE_SECONDS + 60))
    with pytest.raises(Locked, match="host elsewhere"):
        shared(world.request("score"), patience_seconds=0).__enter__()
    os.utime(path, (renewed, renewed - STALE_SECONDS - 60))
    with shared(world.request("score"), patience_seconds=0):
        pass
    assert not path.exists()


def test_a_mark_that_is_just_being_written_counts(world):
    (marks(world)).mkdir(parents=True)
    (marks(world) / "shared-1.json").write_text("")
    with pytest.raises(Locked, match=r"shared-1\.json"):
        exclusive(world.request("erase"), patience_seconds=0).__enter__()


def test_it_holds_in_a_bucket_as_on_a_disk(world, monkeypatch):
    with bucket(monkeypatch) as lake:
        monkeypatch.setattr(World, "settings", world.settings.model_copy(update={"lake": lake}))
        with exclusive(world.request("erase")), pytest.raises(Locked, match="`erase`"):
            shared(world.request("score"), patience_seconds=0).__enter__()
        with shared(world.request("score"), patience_seconds=0):
            pass
