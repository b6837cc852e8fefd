"""Stores that really answer: Debian's redis-server, moto's DynamoDB, a folder."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import redis

from lumos.config import DynamoDbStore, ParquetStore, RedisStore, StoreConfig
from tests.moto_server import entered

PASSWORD = "not-for-logs"


@dataclass(frozen=True)
class Served:
    """A store, and how to take one user's scores out of it behind everybody's back."""

    config: StoreConfig
    lose: Callable[[str, str], None]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def redis_store(monkeypatch: pytest.MonkeyPatch, *options: str) -> Iterator[Served]:
    """A server of its own, gone afterwards; ``options`` are further ones of its command line."""
    program = shutil.which("redis-server")
    assert program, "these tests need a real Redis: apt-get install redis-server"
    port = free_port()
    server = subprocess.Popen(
        [
            *(program, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD),
            *("--save", "", "--appendonly", "no", *options),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "Ready to accept connections" in line:
                break
        monkeypatch.setenv("LUMOS_REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
        client = redis.Redis(port=port, password=PASSWORD)

        def lose(edition: str, user: str) -> None:
            assert client.delete(f"lumos:gym:{edition}:{user}") == 1

        yield Served(RedisStore(name="fast"), lose)
        client.close()
    finally:
        server.kill()
        server.communicate()


@contextmanager
def dynamodb_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A table on moto's server."""
    with entered(monkeypatch):
        client = boto3.client("dynamodb")
        keys = {"id": "HASH", "edition": "RANGE"}
        client.create_table(
            TableName="scores",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
            BillingMode="PAY_PER_REQUEST",
        )

        def lose(edition: str, user: str) -> None:
            key = {"id": {"S": f"gym#user#{user}"}, "edition": {"S": edition}}
            answer = client.delete_item(TableName="scores", Key=key, ReturnValues="ALL_OLD")
            assert answer["Attributes"]

        yield Served(DynamoDbStore(name="fast", table="scores", region="us-east-1"), lose)
        client.delete_table(TableName="scores")


@contextmanager
def parquet_store(folder: Path) -> Iterator[Served]:
    """A folder."""

    def lose(edition: str, _user: str) -> None:
        next((folder / "gym" / edition).glob("part-*.parquet")).unlink()

    yield Served(ParquetStore(name="fast", folder=str(folder)), lose)
