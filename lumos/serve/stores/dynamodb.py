"""Scores in DynamoDB: an item a user and edition, and one that names the edition to read.

The table has the keys ``id`` (hash) and ``edition`` (range), both strings, and ``expires`` as its
time-to-live attribute. A user's item has the id ``{recipe}#user#{user_id}``; the pointer is
``{recipe}#pointer`` with the edition ``current``.
"""

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from lumos.config import DynamoDbStore
from lumos.serve.stores.contract import Pointer, Row, StoreFailed

_T = TypeVar("_T")

_MOST_WRITTEN, _MOST_READ = 25, 100  # DynamoDB's own limits a request
_MOST_TRIES = 10
_SMALLEST = 1e-130  # of its numbers
_CURRENT = "current"


class DynamoDb:
    """See :class:`lumos.serve.stores.contract.Store`."""

    rows_a_put = 1_000

    def __init__(self, config: DynamoDbStore, recipe: str) -> None:
        """Credentials are boto3's own: a role, or the environment."""
        self._name, self._table, self._recipe = config.name, config.table, recipe
        # Throttled for a while is no fault: boto3 slows down by itself.
        patient = BotoConfig(retries={"mode": "adaptive", "max_attempts": 8})
        self._client = boto3.client("dynamodb", region_name=config.region, config=patient)

    def pointer(self) -> Pointer | None:
        """The edition that consumers read."""
        item = self._item(f"{self._recipe}#pointer", _CURRENT)
        return Pointer.model_validate_json(item["pointer"]["S"]) if item else None

    def position(self, edition: str) -> int:
        """Rows that are there, in the order of the publication."""
        item = self._item(f"{self._recipe}#position", edition)
        return int(item["num_rows"]["N"]) if item else 0

    def put(self, edition: str, start: int, rows: Sequence[Row], expires: dt.datetime) -> None:
        """The rows, and then their number: what is written twice is the same."""
        until = {"N": str(int(expires.timestamp()))}
        items = [
            {
                **self._key(self._user(user), edition),
                "scores": {"M": {name: {"N": _number(score)} for name, score in scores.items()}},
                "expires": until,
            }
            for user, scores in rows
        ]
        for chunk in _chunks(items, _MOST_WRITTEN):
            self._write([{"PutRequest": {"Item": item}} for item in chunk])
        position = {
            **self._key(f"{self._recipe}#position", edition),
            "num_rows": {"N": str(start + len(rows))},
            "expires": until,
        }
        self._ask(lambda: self._client.put_item(TableName=self._table, Item=position))

    def restart(self, edition: str) -> None:
        """Forget how many rows are there."""
        key = self._key(f"{self._recipe}#position", edition)
        self._ask(lambda: self._client.delete_item(TableName=self._table, Key=key))

    def count(self, edition: str) -> int:
        """Items of the edition, found by a scan: it reads the whole table."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._table,
            Select="COUNT",
            FilterExpression="edition = :edition AND begins_with(id, :users)",
            ExpressionAttributeValues={
                ":edition": {"S": edition},
                ":users": {"S": self._user("")},
            },
        )
        return self._ask(lambda: sum(int(page["Count"]) for page in pages))

    def get(self, edition: str, users: Sequence[str]) -> dict[str, dict[str, float]]:
        """Users that have no item are left out."""
        found: dict[str, dict[str, float]] = {}
        for chunk in _chunks(users, _MOST_READ):
            keys = [self._key(self._user(user), edition) for user in chunk]
            for item in self._read(keys):
                user = item["id"]["S"].removeprefix(self._user(""))
                scores = item["scores"]["M"]
                found[user] = {name: float(cell["N"]) for name, cell in scores.items()}
        return found

    def point(self, pointer: Pointer, expires: dt.datetime) -> None:
        """One item, so that a consumer sees the old edition or the new one."""
        item = {
            **self._key(f"{self._recipe}#pointer", _CURRENT),
            "pointer": {"S": pointer.model_dump_json()},
            "expires": {"N": str(int(expires.timestamp()))},
        }
        self._ask(lambda: self._client.put_item(TableName=self._table, Item=item))

    def erase(self, users: Sequence[str]) -> int:
        """A user's items lie together, an edition each."""
        return sum(map(self._erase, users))

    def _erase(self, user: str) -> int:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="id = :user",
            ExpressionAttributeValues={":user": {"S": self._user(user)}},
            ProjectionExpression="edition",
            ConsistentRead=True,
        )
        editions = self._ask(lambda: [i["edition"]["S"] for page in pages for i in page["Items"]])
        requests = [{"DeleteRequest": {"Key": self._key(self._user(user), e)}} for e in editions]
        for chunk in _chunks(requests, _MOST_WRITTEN):
            self._write(chunk)
        return len(editions)

    def _user(self, user: str) -> str:
        return f"{self._recipe}#user#{user}"

    def _key(self, name: str, edition: str) -> dict[str, dict[str, Any]]:
        return {"id": {"S": name}, "edition": {"S": edition}}

    def _item(self, name: str, edition: str) -> Mapping[str, Any] | None:
        key = self._key(name, edition)
        answer = self._ask(
            lambda: self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        )
        item: Mapping[str, Any] | None = answer.get("Item")
        return item

    def _write(self, requests: list[dict[str, Any]]) -> None:
        self._until_taken(
            requests,
            lambda left: self._client.batch_write_item(RequestItems={self._table: left}),
            lambda answer: answer["UnprocessedItems"].get(self._table, []),
        )

    def _read(self, keys: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        items: list[Mapping[str, Any]] = []

        def read(left: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - boto3's own
            asked = {"Keys": left, "ConsistentRead": True}
            answer = self._client.batch_get_item(RequestItems={self._table: asked})
            items.extend(answer["Responses"][self._table])
            return answer

        self._until_taken(
            keys,
            read,
            lambda answer: answer["UnprocessedKeys"].get(self._table, {}).get("Keys", []),
        )
        return items

    def _until_taken(
        self,
        left: list[dict[str, Any]],
        send: Callable[[list[dict[str, Any]]], Any],
        untaken: Callable[[Any], list[dict[str, Any]]],
    ) -> None:
        """DynamoDB takes what it can of a batch; send the rest again, later and later."""
        for attempt in range(_MOST_TRIES):
            left = untaken(self._ask(lambda: send(left)))  # noqa: B023 - called at once
            if not left:
                return
            time.sleep(random.uniform(0.5, 1) * 0.05 * 2**attempt)
        msg = f"store {self._name} did not take {len(left)} items in {_MOST_TRIES} tries"
        raise StoreFailed(msg)

    def _ask(self, command: Callable[[], _T]) -> _T:
        try:
            return command()
        except (BotoCoreError, ClientError) as error:
            msg = f"store {self._name}, table {self._table}, failed: {error}"
            raise StoreFailed(msg) from error


def _number(value: float) -> str:
    """As DynamoDB takes it: its smallest numbers are larger than those of a float."""
    return repr(float(value)) if abs(value) >= _SMALLEST else "0"


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
