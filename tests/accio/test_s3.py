"""The loader on an S3 server that really answers: moto's, on a port of this machine."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lumos.accio.loader import Accio
from lumos.accio.stream import Sampling
from lumos.accio.table import SequenceTable
from lumos.verbs import BadInput
from tests.accio.one_epoch import COLUMNS
from tests.accio.test_table import clicks as written
from tests.accio.test_table import row
from tests.moto_server import bucket


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with bucket(monkeypatch) as uri:
        yield f"{uri}/a lake/sequences"


def test_a_table_in_a_bucket_gives_the_batches_of_the_same_table_on_disk(
    s3: str, tmp_path: Path
) -> None:
    rows = [row(f"user {n}", *range(100, 100 + n % 7)) for n in range(40)]
    written(tmp_path, rows)
    written(s3, rows)  # type: ignore[arg-type]

    def batches(uri: str, num_workers: int) -> list[list[str]]:
        table = SequenceTable.open(uri, COLUMNS)
        loader = Accio(
            table, Sampling(5, 2, 100, 110), batch_size=8, num_lanes=4, num_workers=num_workers
        )
        return [batch.user_id.tolist() for batch in loader]

    expected = batches(str(tmp_path), 0)
    assert batches(s3, 0) == batches(s3, 1) == expected
    assert batches(s3.replace("s3://", "s3a://"), 0) == expected

    table = SequenceTable.open(s3, COLUMNS)
    name, key = table.files[0].path.split("/", 1)
    boto3.client("s3").delete_object(Bucket=name, Key=key)
    with pytest.raises(BadInput, match="vacuumed"):
        table.read(0)


def test_a_shallow_clone_of_another_bucket_is_read_there_or_refused(s3: str) -> None:
    written(f"{s3} cloned", [row("a", 100), row("b", 101)])  # type: ignore[arg-type]
    client = boto3.client("s3")
    client.create_bucket(Bucket="other")
    log = client.get_object(
        Bucket="lake", Key="a lake/sequences cloned/_delta_log/00000000000000000000.json"
    )
    text = log["Body"].read().decode()

    def clone(name: str, files: str) -> str:
        body = text.replace('"path":"', f'"path":"{files}')
        key = f"{name}/_delta_log/00000000000000000000.json"
        client.put_object(Bucket="other", Key=key, Body=body.encode())
        return f"s3://other/{name}"

    (users,) = SequenceTable.open(
        clone("good", "s3a://lake/a%20lake/sequences%20cloned/"), COLUMNS
    ).users()
    assert sorted(users.user_id) == ["a", "b"]
    for name, files in (("dbfs", "dbfs:/lake/"), ("local", "file:/lake/"), ("root", "/lake/")):
        with pytest.raises(
            BadInput, match=r"shallow clone of files that cannot be opened here: .*lake"
        ):
            SequenceTable.open(clone(name, files), COLUMNS)
