"""Where published scores may be exported to, as a recipe says it. No secret stands here."""

from typing import Annotated, Literal

from pydantic import Field

from lumos.frozen import Config

_NAME = r"^[a-z][a-z0-9_]{0,62}$"


class _Named(Config):
    name: str = Field(pattern=_NAME)
    users_per_second: float | None = Field(default=None, gt=0)


class RedisStore(_Named):
    """A Redis server.

    ``url_variable`` names the environment variable that holds its address, password and all.
    Keys begin with ``prefix``.
    """

    kind: Literal["redis"] = "redis"
    url_variable: str = Field(default="LUMOS_REDIS_URL", pattern=r"^[A-Z][A-Z0-9_]*$")
    prefix: str = Field(default="lumos", pattern=r"^[A-Za-z0-9_.-]+$")


class DynamoDbStore(_Named):
    """A table of DynamoDB with the string keys ``id`` and ``edition``, expiring by ``expires``."""

    kind: Literal["dynamodb"] = "dynamodb"
    table: str = Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")
    region: str | None = None


class ParquetStore(_Named):
    """A folder of Parquet files: a path or a URI."""

    kind: Literal["parquet"] = "parquet"
    folder: str = Field(min_length=1)


StoreConfig = Annotated[RedisStore | DynamoDbStore | ParquetStore, Field(discriminator="kind")]
