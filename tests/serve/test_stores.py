"""What one kind of store does beyond what every store must."""

import datetime as dt
from pathlib import Path

import pytest

from lumos.config import DynamoDbStore, ParquetStore, RedisStore
from lumos.serve.stores.contract import Pointer
from lumos.serve.stores.dynamodb import DynamoDb
from lumos.serve.stores.parquet import Parquet
from lumos.serve.stores.redis import Redis
from lumos.verbs import BadInput
from tests.serve.stores import dynamodb_store, free_port, parquet_store, redis_store

UNTIL = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


def pointer(edition: str) -> Pointer:
    return Pointer(
        edition=edition,
        as_of=dt.date(2024, 5, 10),
        num_rows=5,
        columns=("score",),
        valid_until=dt.date(2024, 5, 12),
        model_version="1",
        calibrator_version="1",
        checksum="0",
    )


def test_what_dynamodb_did_not_take_of_a_batch_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untaken: dict[str, list] = {}

    def send_half(params: dict, **_: object) -> dict:
        items = params["RequestItems"]["scores"]
        untaken["scores"] = items[: len(items) // 2]
        return {"RequestItems": {"scores": items[len(items) // 2 :]}}

    def answer(parsed: dict, **_: object) -> None:
        parsed["UnprocessedItems"] = {name: items for name, items in untaken.items() if items}

    with dynamodb_store(monkeypatch) as served:
        assert isinstance(served.config, DynamoDbStore)
        store = DynamoDb(served.config, "gym")
        events = store._client.meta.events
        events.register("provide-client-params.dynamodb.BatchWriteItem", send_half)
        events.register("after-call.dynamodb.BatchWriteItem", answer)
        expected = {f"user {number}": {"score": number / 10} for number in range(5)}

        store.put("edition", 0, list(expected.items()), UNTIL)

        assert store.get("edition", list(expected)) == expected


def test_a_node_of_a_redis_cluster_is_refused_before_anything_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # By itself the nodes' own port is 10,000 higher, of which not every port leaves one.
    bus = ("--cluster-port", str(free_port()))
    options = ("--cluster-enabled", "yes", *bus, "--dir", str(tmp_path))
    with redis_store(monkeypatch, *options) as served:
        assert isinstance(served.config, RedisStore)
        store = Redis(served.config, "gym")
        for ask in (store.pointer, lambda: store.count("e"), lambda: store.erase(["user"])):
            with pytest.raises(BadInput, match="Redis Cluster, and clusters are not supported"):
                ask()


@pytest.mark.parametrize("url", ["redis://u:top@secretpart#rest@h:1/0", "redis://u:1/secretpart@h"])
def test_a_redis_password_that_is_not_encoded_is_refused_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("LUMOS_REDIS_URL", url)
    with pytest.raises(BadInput, match="LUMOS_REDIS_URL is not a URL: percent-encode") as refused:
        Redis(RedisStore(name="fast"), "gym")
    assert "secretpart" not in str(refused.value)


def test_a_reader_that_has_opened_the_pointer_file_reads_it_whole(tmp_path: Path) -> None:
    with parquet_store(tmp_path) as served:
        assert isinstance(served.config, ParquetStore)
        store = Parquet(served.config, "gym")
        store.put("old", 0, [("user", {"score": 0.5})], UNTIL)
        store.point(pointer("old"), UNTIL)
        with (tmp_path / "gym" / "current.json").open() as reader:
            store.point(pointer("new"), UNTIL)
            assert Pointer.model_validate_json(reader.read()) == pointer("old")
        assert store.pointer() == pointer("new")
