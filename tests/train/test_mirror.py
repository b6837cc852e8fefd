"""States copied to a bucket: a machine that vanishes with its disk loses no more than a pause."""

import logging
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import torch
from pyarrow import fs

from lumos.accio.storage import StorageFailed, filesystem_of
from lumos.settings import Settings
from lumos.train import loop, mirror, saving, tracking
from lumos.train.distributed import StopSignal, World
from lumos.train.mirror import Mirror
from lumos.train.state import states
from lumos.train.training import Training
from lumos.verbs import RESUME, BadInput, Request
from tests.accio import small
from tests.moto_server import bucket as served
from tests.train.command import Command
from tests.train.ready import lake, prepared, recipe
from tests.train.test_state import save
from tests.train.test_training import After, everything

BUCKET = "states"
FIRST, SECOND, THIRD = ((1, 0), (2, 0), (3, 0))
NAMES = ["state-00001-0000000", "state-00002-0000000", "state-00003-0000000"]


class Bucket:
    """A bucket on moto's server, and whether the way to it is open."""

    def __init__(self) -> None:
        self.is_down = False

    def keys(self, prefix: str) -> list[str]:
        """Of objects; a store that has no folders may keep empty ones in their place."""
        found = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        keys = (item["Key"].removeprefix(f"{prefix}/") for item in found.get("Contents", ()))
        return [key for key in keys if key and not key.endswith("/")]

    def filesystem_of(self, uri: str) -> tuple[fs.FileSystem, str]:
        if self.is_down:
            raise OSError("the storage is down")
        return filesystem_of(uri)


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, served(patch, BUCKET):
        yield Bucket()


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    server.is_down = False
    monkeypatch.setattr(mirror, "filesystem_of", server.filesystem_of)
    return server


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return lake(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def prefix(bucket: Bucket, request: pytest.FixtureRequest) -> str:
    return f"a prefix/{request.node.name[:40]}"


@pytest.fixture
def uri(prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}"


def pushed(folder: Path, uri: str, *places: tuple[int, int]) -> Mirror:
    copy = Mirror(uri, folder)
    for place in places:
        save(folder, place)
        copy.push(states(folder)[-1])
    return copy


def fetched(uri: str, folder: Path) -> list[str]:
    """What an empty disk holds once it was asked."""
    Mirror(uri, folder).fetch(World())
    return [path.name for path in states(folder)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_an_empty_disk_gets_the_newest_state_to_the_last_byte(
    kind: str, uri: str, tmp_path: Path
) -> None:
    there = uri if kind == "bucket" else str(tmp_path / "there")
    pushed(tmp_path / "lost", there, FIRST, SECOND)
    assert fetched(there, tmp_path / "new") == [NAMES[1]]
    newest = tmp_path / "lost" / NAMES[1]
    assert files(tmp_path / "new" / NAMES[1]) == files(newest) != {}


def test_the_newest_two_are_kept_there_and_half_copies_are_not(
    bucket: Bucket, prefix: str, uri: str, tmp_path: Path
) -> None:
    copy = pushed(tmp_path, uri, FIRST)
    boto3.client("s3").put_object(
        Bucket=BUCKET, Key=f"{prefix}/state-00001-0000009/weights.safetensors", Body=b"half"
    )
    for place in (SECOND, THIRD):
        save(tmp_path, place)
        copy.push(states(tmp_path)[-1])
    assert sorted({key.split("/")[0] for key in bucket.keys(prefix)}) == NAMES[1:]


@pytest.mark.parametrize("harm", ["no seal", "cut short"])
def test_half_a_copy_is_said_and_the_state_before_it_is_used(
    harm: str, prefix: str, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pushed(tmp_path / "lost", uri, FIRST, SECOND)
    s3 = boto3.client("s3")
    if harm == "no seal":
        s3.delete_object(Bucket=BUCKET, Key=f"{prefix}/{NAMES[1]}/state.json")
    else:
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{NAMES[1]}/weights.safetensors", Body=b"ha")
    assert fetched(uri, tmp_path / "new") == [NAMES[0]]
    assert f"{NAMES[1]} is not whole and is not used" in caplog.text


def test_a_copy_is_sealed_last(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Mirror._write

    def watched(self: Mirror, file: Path, name: str) -> None:
        written.append(file.name)
        write(self, file, name)

    monkeypatch.setattr(Mirror, "_write", watched)
    pushed(tmp_path, uri, FIRST)
    assert written == ["optimiser.safetensors", "weights.safetensors", "state.json"]


def test_a_newer_state_of_this_disk_is_used_and_copied(
    bucket: Bucket, prefix: str, uri: str, tmp_path: Path
) -> None:
    pushed(tmp_path, uri, FIRST)
    save(tmp_path, SECOND)  # and the storage was down
    assert fetched(uri, tmp_path) == NAMES[:2]
    assert f"{NAMES[1]}/state.json" in bucket.keys(prefix)


@dataclass(frozen=True)
class Second(World):
    """The first process of the second machine; the first machine has chosen."""

    chosen: str = ""

    def first_sentence(self, sentence: str) -> str:
        assert not sentence
        return self.chosen

    def first_says(self, answer: bool) -> bool:
        return answer


def test_every_machine_goes_on_from_the_state_that_the_first_one_chose(
    uri: str, tmp_path: Path
) -> None:
    pushed(tmp_path / "first", uri, FIRST, SECOND)
    own = tmp_path / "second"
    save(own, FIRST, THIRD)  # of the time when it was the first machine, and storage was down
    second = Second(rank=1, size=2, chosen=NAMES[1])
    Mirror(uri, own).fetch(second)
    assert [path.name for path in states(own)] == [NAMES[1]]
    with pytest.raises(StorageFailed, match=f"{NAMES[2]} of the first machine did not come"):
        Mirror(uri, own).fetch(Second(rank=1, size=2, chosen=NAMES[2]))
    beside = Second(rank=1, size=2, is_first_here=False, chosen=NAMES[0])
    Mirror(uri, tmp_path / "third").fetch(beside)
    assert not (tmp_path / "third").exists()


def test_storage_that_is_down_at_the_start_ends_the_run_rather_than_begin_anew(
    bucket: Bucket, uri: str, tmp_path: Path
) -> None:
    pushed(tmp_path / "lost", uri, FIRST)
    bucket.is_down = True
    with pytest.raises(StorageFailed, match="failed in 5 attempts: the storage is down"):
        fetched(uri, tmp_path / "new")
    bucket.is_down = False
    assert fetched(uri, tmp_path / "new") == [NAMES[0]]


def test_an_address_that_is_no_storage_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"LUMOS_STATES gives ftp://x/y, which is no storage"):
        fetched("ftp://x/y", tmp_path)


def stopped(at: Settings, copy: Mirror, folder: Path, stop: StopSignal | None = None) -> Training:
    """A training on this disk, with a copy of its states; ended by the stop if it is one."""
    copy.fetch(World())
    training = Training(prepared(at, recipe(ema=0.9)), World(), folder, mirror=copy)
    if stop is None:
        training.run(StopSignal(), lambda _epochs: None)
        return training
    with pytest.raises(SystemExit) as ended:
        training.run(stop, lambda _epochs: None)
    assert ended.value.code == RESUME
    return training


def test_a_training_whose_disks_are_lost_twice_ends_with_equal_tensors(
    at: Settings, uri: str, tmp_path: Path
) -> None:
    straight = Training(prepared(at, recipe(ema=0.9)), World(), tmp_path / "straight")
    straight.run(StopSignal(), lambda _epochs: None)
    for number, steps in enumerate((2, 4)):  # inside the first epoch, inside the second
        disk = tmp_path / str(number)
        stopped(at, Mirror(uri, disk), disk, After(steps))
    resumed = stopped(at, Mirror(uri, tmp_path / "last"), tmp_path / "last")
    assert resumed.epochs == straight.epochs
    ours, theirs = everything(straight), everything(resumed)
    assert ours.keys() == theirs.keys()
    assert [name for name, t in ours.items() if not torch.equal(t, theirs[name])] == []


def test_a_training_survives_storage_that_is_down_and_copies_once_it_is_back(
    at: Settings,
    bucket: Bucket,
    prefix: str,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(saving, "COPY_AGAIN_SECONDS", 0.0)
    copy = Mirror(uri, tmp_path)
    copy.fetch(World())
    training = Training(prepared(at, recipe()), World(), tmp_path, mirror=copy)
    bucket.is_down = True

    def back_after_the_first(epochs: object) -> None:
        if len(training.epochs) == 1:
            assert "state-00001-0000000 is NOT safe" in caplog.text
            bucket.is_down = False

    training.run(StopSignal(), back_after_the_first)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [key for key in bucket.keys(prefix) if key.endswith("state.json")] == [
        "state-00002-0000000/state.json",
        "state-00003-0000000/state.json",
    ]


def test_a_state_due_again_after_a_failed_copy_does_not_wait_for_the_next_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down(Mirror):
        def push(self, path: Path, **_: int) -> None:
            raise OSError("down")

    monkeypatch.setattr(saving, "save_state", lambda *_, **__: tmp_path)
    saver = saving.Saver(tmp_path, Down("", tmp_path), recipe="r")
    for seconds in (1000.0, 0.0):
        monkeypatch.setattr(saving, "COPY_AGAIN_SECONDS", seconds)
        saver.save(None, is_leaving=False)  # type: ignore[arg-type]
        assert not saver.is_safe
        assert saver.is_due is (seconds == 0)


def test_a_sigterm_while_storage_is_down_waits_for_it_and_else_says_that_nothing_is_safe(
    at: Settings,
    bucket: Bucket,
    prefix: str,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(saving, "_PAUSE_SECONDS", 0.01)
    copy, attempts = Mirror(uri, tmp_path), []
    push = Mirror.push

    def counted(self: Mirror, path: Path, **how: int) -> None:
        attempts.append(how)
        bucket.is_down = len(attempts) < 3
        push(self, path, **how)

    monkeypatch.setattr(Mirror, "push", counted)
    stopped(at, copy, tmp_path, After(2))
    assert attempts == [{"attempts": 1}] * 3
    assert "the state is saved" in caplog.text
    assert "state-00000-0000002/state.json" in bucket.keys(prefix)

    monkeypatch.setattr(saving, "LEAVING_SECONDS", 0.0)
    attempts.clear()
    stopped(at, copy, tmp_path, After(2))
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "NOT safe" in said
    assert "the state is on this machine's disk ONLY" in caplog.text


def verb(at: Settings, **fields: bool) -> Request:
    of = recipe(epochs=2)
    return Request(verb="train", recipe=of, date=small.AS_OF, settings=at, **fields)  # type: ignore[arg-type]


def test_nothing_is_left_there_once_the_model_is_in_the_ledger(
    bucket: Bucket, prefix: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = elsewhere(lake(tmp_path / "home"), tmp_path / "disk", uri)
    seen: list[str] = []
    monkeypatch.setattr(loop.ledger, "record", lambda *_, **__: seen.extend(bucket.keys(prefix)))
    loop.train(verb(at))
    assert {key.split("/")[2] for key in seen} == set(NAMES[:2])
    assert bucket.keys(prefix) == []


def test_force_forgets_the_states_there_too(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at = elsewhere(lake(tmp_path / "home"), tmp_path / "disk", uri)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.train(verb(at))
    caplog.set_level(logging.INFO)
    loop.train(verb(elsewhere(at, tmp_path / "new disk", uri), force=True))
    assert "fetched" not in caplog.text
    assert "resuming" not in caplog.text


def elsewhere(at: Settings, home: Path, uri: str) -> Settings:
    """The same lake and tracking server, seen from a machine with a disk of its own."""
    return Settings.model_validate({**at.model_dump(), "home": home, "states": uri})


def machines(at: Settings, disks: Path, uri: str) -> list[Command]:
    """Two machines that share nothing but the lake, the tracking server and the bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1")
    meet = ("--master-addr=127.0.0.1", f"--master-port={port}")
    return [
        Command(
            elsewhere(at, disks / f"{rank}", uri), *node, f"--node-rank={rank}", *meet, epochs=6
        )
        for rank in range(2)
    ]


def test_two_machines_killed_with_9_and_replaced_by_empty_ones_end_as_if_undisturbed(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = small.write_lake(tmp_path / "undisturbed", small.users(60))
    ended = [machine.end() for machine in machines(undisturbed, tmp_path / "calm", uri)]
    assert [code for code, _ in ended] == [0, 0], ended
    at = small.write_lake(tmp_path / "killed", small.users(60))
    monkeypatch.setenv("LUMOS_STATES", uri)
    lost = machines(at, tmp_path / "lost", uri)
    lost[0].wait_for("epoch 2/6")
    for machine in lost:
        machine.end(signal.SIGKILL)
    ended = [machine.end() for machine in machines(at, tmp_path / "new", uri)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "fetched the training state" in ended[0][1]
    assert "resuming at epoch" in ended[0][1]

    def weights(at: Settings) -> bytes:
        folder = tracking.checkpoint_of(at, small.recipe(), "1")
        return (folder / "weights.safetensors").read_bytes()

    assert weights(at) == weights(undisturbed)
