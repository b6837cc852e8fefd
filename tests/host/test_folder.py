"""Two writers of one object find out who was first, and one whose answer was lost meets itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from lumos.host.folder import Conflict, Folder, Found
from tests.cloud.aws import Aws
from tests.cloud.faults import AIRFLOW, Rule


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with Aws(Path(tmp_path_factory.mktemp("cloud"))) as aws:
        aws.client("s3").create_bucket(Bucket="acme")
        yield aws


@pytest.fixture
def folder(aws: Aws, request: pytest.FixtureRequest) -> Iterator[Folder]:
    """Of a client that gives up at once."""
    yield Folder(aws.client("s3", caller=AIRFLOW), f"s3://acme/{request.node.name}/")
    aws.faults.rules.clear()


def test_what_was_written_is_read_back_and_what_was_not_is_none(folder):
    assert folder.read("there") is None
    etag = folder.write("there", b"\x00\xff")
    assert folder.read("there") == Found(b"\x00\xff", etag)
    assert folder.of("sub").read("there") is None


def test_an_object_is_created_once(folder):
    folder.create("claim", b"one")
    with pytest.raises(Conflict, match=r"s3://acme/.*/claim"):
        folder.create("claim", b"two")
    assert folder.read("claim").data == b"one"


def test_of_many_that_create_at_once_one_does(folder):
    def create(number: int) -> bool:
        try:
            folder.create("claim", str(number).encode())
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(16)))
    assert won.count(True) == 1
    assert folder.read("claim").data == str(won.index(True)).encode()


def test_an_object_is_replaced_only_as_it_was_read(folder):
    first = folder.create("record", b"1")
    second = folder.replace("record", b"2", first)
    with pytest.raises(Conflict):
        folder.replace("record", b"3", first)
    assert folder.read("record").data == b"2"
    folder.replace("record", b"3", second)


def test_one_s_own_write_whose_answer_was_lost_is_no_conflict(aws):
    folder = Folder(aws.client("s3", caller=AIRFLOW, retries=2), "s3://acme/own")
    lost = aws.faults.add(Rule("lost-answer", "s3", "PutObject", times=1))
    etag = folder.create("record", b"mine")
    # What it gives is the version to go on from.
    assert etag == folder.read("record").etag
    assert aws.faults.struck(lost) == 1
    again = aws.faults.add(Rule("lost-answer", "s3", "PutObject", times=1))
    etag = folder.replace("record", b"mine too", etag)
    assert aws.faults.struck(again) == 1
    assert folder.read("record") == Found(b"mine too", etag)


def test_a_fault_of_storage_is_neither_a_conflict_nor_a_missing_object(aws, folder):
    aws.faults.add(Rule("deny", "s3"))
    for act in (
        lambda: folder.read("record"),
        lambda: folder.create("record", b""),
        lambda: folder.replace("record", b"", '"1"'),
        lambda: folder.list(),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            act()


def test_a_connection_that_breaks_is_told_to_the_caller(aws, folder):
    aws.faults.add(Rule("drop", "s3"))
    with pytest.raises(ConnectionClosedError):
        folder.write("record", b"")


def test_names_are_listed_after_one_and_without_the_folder(folder):
    for name in ("log-00000001", "log-00000002", "log-00000010", "pulse", "result.json", "claim"):
        folder.of("i-1").write(name, b"")
    folder.of("i-10").write("log-00000003", b"")
    listed = folder.of("i-1").list(after="log-00000001")
    assert sorted(listed) == ["log-00000002", "log-00000010", "pulse", "result.json"]
