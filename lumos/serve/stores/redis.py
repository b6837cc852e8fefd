"""Scores in Redis: a string of JSON a user, and a string that names the edition to read.

``{prefix}:{recipe}:current`` is the pointer, ``{prefix}:{recipe}:{edition}:{user_id}`` a user's
scores, ``{prefix}:{recipe}:{edition}`` how many rows are there. All keys expire by themselves.
"""

import datetime as dt
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
)

from lumos.addresses import refuse_unencoded
from lumos.config import RedisStore
from lumos.serve.stores.contract import Pointer, Row, StoreFailed
from lumos.verbs import BadInput

_T = TypeVar("_T")

_SCAN = 10_000
_SECONDS = 10.0


class Redis:
    """See :class:`lumos.serve.stores.contract.Store`."""

    rows_a_put = 1_000

    def __init__(self, config: RedisStore, recipe: str) -> None:
        """Connect lazily: the first command does.

        Raises:
            BadInput: The variable that holds the address is not set, or is no Redis URL.
        """
        self._name = config.name
        self._root = f"{config.prefix}:{recipe}"
        url = os.environ.get(config.url_variable)
        if not url:
            msg = f"store {config.name}: set {config.url_variable} to redis://HOST:PORT/DATABASE"
            raise BadInput(msg)
        refuse_unencoded(config.url_variable, url)
        self._is_single = False
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS
            )
        except ValueError:  # it may quote the address, and the address holds a password
            msg = f"store {config.name}: what {config.url_variable} holds is no Redis URL"
            raise BadInput(msg) from None

    def pointer(self) -> Pointer | None:
        """The edition that consumers read."""
        found = self._ask(lambda: self._client.get(f"{self._root}:current"))
        return Pointer.model_validate_json(found) if found else None

    def position(self, edition: str) -> int:
        """Rows that are there, in the order of the publication."""
        return int(self._ask(lambda: self._client.get(self._edition(edition))) or 0)

    def put(self, edition: str, start: int, rows: Sequence[Row], expires: dt.datetime) -> None:
        """All rows and their number, or nothing of it: one transaction."""
        with self._client.pipeline(transaction=True) as pipe:
            for user, scores in rows:
                text = json.dumps(scores, separators=(",", ":"))
                pipe.set(self._user(edition, user), text, exat=expires)
            pipe.set(self._edition(edition), start + len(rows), exat=expires)
            self._ask(pipe.execute)

    def restart(self, edition: str) -> None:
        """Forget how many rows are there."""
        self._ask(lambda: self._client.delete(self._edition(edition)))

    def count(self, edition: str) -> int:
        """Keys of the edition, found by a scan."""
        pattern = _literally(self._user(edition, "")) + "*"
        # A scan may tell a key twice.
        return self._ask(lambda: len(set(self._client.scan_iter(pattern, count=_SCAN))))

    def get(self, edition: str, users: Sequence[str]) -> dict[str, dict[str, float]]:
        """Users that have no key are left out."""
        keys = [self._user(edition, user) for user in users]
        found: Any = self._ask(lambda: self._client.mget(keys)) if keys else []
        return {u: json.loads(text) for u, text in zip(users, found, strict=True) if text}

    def point(self, pointer: Pointer, expires: dt.datetime) -> None:
        """One command, so that a consumer sees the old edition or the new one."""
        text = pointer.model_dump_json()
        self._ask(lambda: self._client.set(f"{self._root}:current", text, exat=expires))

    def erase(self, users: Sequence[str]) -> int:
        """By a scan a user: which editions there are, no key says."""
        return self._ask(lambda: sum(map(self._erase, users)))

    def _erase(self, user: str) -> int:
        root = f"{self._root}:"
        pattern = _literally(root) + "*" + _literally(f":{user}")
        # No edition has a colon in its name; a user may.
        keys = {
            key
            for key in self._client.scan_iter(pattern, count=_SCAN)
            if key.decode().removeprefix(root).partition(":")[2] == user
        }
        return int(self._client.delete(*keys)) if keys else 0

    def _edition(self, edition: str) -> str:
        return f"{self._root}:{edition}"

    def _user(self, edition: str, user: str) -> str:
        return f"{self._root}:{edition}:{user}"

    def _ask(self, command: Callable[[], _T]) -> _T:
        """The answer of a command, after the server has been seen to hold all keys.

        Raises:
            BadInput: It is a node of a Redis Cluster: one transaction of many keys is not
                possible there, and a scan sees the node's own keys only.
            StoreFailed: The server did not do it.
        """
        try:
            if not self._is_single:
                self._refuse_cluster()
            return command()
        except (MovedError, AskError, ClusterDownError, ClusterCrossSlotError):
            raise BadInput(self._no_cluster()) from None
        except RedisError as error:
            msg = f"store {self._name} failed: {error}"
            raise StoreFailed(msg) from error

    def _refuse_cluster(self) -> None:
        try:
            is_cluster = bool(self._client.info("cluster").get("cluster_enabled"))
        except ResponseError:  # INFO may be forbidden: then the commands themselves will say so
            is_cluster = False
        if is_cluster:
            raise BadInput(self._no_cluster())
        self._is_single = True

    def _no_cluster(self) -> str:
        return (
            f"store {self._name}: the server is a node of a Redis Cluster, and clusters are not "
            "supported. Name a single server (ElastiCache: cluster mode disabled)"
        )


def _literally(text: str) -> str:
    """The text without the meaning that a pattern gives to some characters."""
    return "".join("\\" + c if c in "*?[]^\\" else c for c in text)
