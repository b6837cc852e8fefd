"""What a data engineer writes once about the cloud: one TOML file, named by ``LUMOS_CLOUD``.

``docs/aws.md`` explains every line of an example. All of it reaches AWS and Databricks as values
of their APIs; what could reach a shell is held to patterns that no shell gives a meaning to.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lumos.frozen import Config, explain

EXAMPLE = "docs/aws/cloud.toml"

# No character of these means anything to a shell.
PlainPath = Annotated[str, Field(pattern=r"^~?(/[A-Za-z0-9._-]+)+$")]
_Id = r"-[0-9a-z]{4,32}$"
_VARIABLE = r"^[A-Z][A-Z0-9_]*$"


class Machine(Config):
    """Instances that run one verb, started for it and ended with it.

    Attributes:
        instance_type: Such as ``p4d.24xlarge``.
        ami: Image with the virtual environment of the lock; ``docs/aws.md`` says how to make it.
        subnets: Tried in this order where a zone has no capacity; one for each zone.
        security_groups: Without inbound rules, but for themselves where there are several nodes.
        instance_profile: Name of the profile whose role the verb has.
        market: How it is paid for. A spot instance that is taken back is replaced, and training
            goes on from its last state.
        capacity_reservation: The reservation of a ``capacity-block``.
        nodes: Instances that train together; ranks meet on the first one's ``rendezvous_port``.
        processes: Ranks on each node (default: the recipe's ``training.processes`` or
            ``scoring.processes``).
        volume_gib: Size of the encrypted root volume.
        kms_key: Key of the volume (default: the account's own for EBS).
        hourly_usd: Price of one instance, to say what a run may cost.
        capacity_hours: How long to go on asking where no zone has capacity.
        boot_minutes: How long an instance may take until it accepts commands.
        launches: How many times at most a lost or interrupted instance is replaced.
        poll_seconds: How often a waiting task looks.
        tags: Added to instances and volumes.
        python: Interpreter of the image's virtual environment.
        lock: The image's own copy of ``requirements.txt``.
        home: ``LUMOS_HOME`` there; on an NVMe disk where there is one.
    """

    instance_type: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*\.[a-z0-9-]+$")
    ami: str = Field(pattern="^ami" + _Id)
    subnets: tuple[Annotated[str, Field(pattern="^subnet" + _Id)], ...] = Field(min_length=1)
    security_groups: tuple[Annotated[str, Field(pattern="^sg" + _Id)], ...] = Field(min_length=1)
    instance_profile: str = Field(pattern=r"^[A-Za-z0-9+=,.@_-]{1,128}$")
    market: Literal["on-demand", "spot", "capacity-block"] = "on-demand"
    capacity_reservation: str | None = Field(None, pattern="^cr" + _Id)
    nodes: int = Field(1, ge=1, le=64)
    processes: int | None = Field(None, ge=1, le=64)
    rendezvous_port: int = Field(29_400, ge=1024, le=65535)
    volume_gib: int = Field(200, ge=8, le=16_384)
    kms_key: str | None = None
    hourly_usd: float = Field(gt=0)
    capacity_hours: float = Field(12, gt=0, le=168)
    boot_minutes: int = Field(20, ge=1, le=120)
    launches: int = Field(20, ge=1, le=100)
    poll_seconds: float = Field(15, ge=0.1, le=300)
    tags: Mapping[str, str] = Field(default_factory=dict)
    python: PlainPath = "/opt/lumos/venv/bin/python"
    lock: PlainPath = "/opt/lumos/requirements.txt"
    home: PlainPath = "/opt/lumos/home"

    @model_validator(mode="after")
    def _block_has_its_reservation(self) -> Self:
        if (self.market == "capacity-block") != (self.capacity_reservation is not None):
            msg = "a capacity-block, and nothing else, needs capacity_reservation (cr-...)"
            raise ValueError(msg)
        return self


class Databricks(Config):
    """One-off job runs: on a cluster of their own, or serverless.

    Attributes:
        cluster: ``new_cluster`` of the Jobs API, for Spark verbs; its ``spark_env_vars`` are ours.
        environment: ``spec`` of a serverless environment; its ``dependencies`` get the wheels.
        small: A ``new_cluster`` for verbs without Spark (default: ``cluster``).
        poll_seconds: How often a waiting task looks.
        repairs: How often a run is repaired whose cluster, not whose verb, was at fault.
    """

    cluster: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    small: Mapping[str, Any] | None = None
    poll_seconds: float = Field(30, ge=0.1, le=600)
    repairs: int = Field(2, ge=0, le=10)

    @model_validator(mode="after")
    def _one_kind_of_compute(self) -> Self:
        if (self.cluster is None) == (self.environment is None):
            msg = "give either cluster (a new_cluster) or environment (serverless), not both"
            raise ValueError(msg)
        return self


class Cloud(Config):
    """All of the file.

    Attributes:
        region: Of the bucket and the instances.
        bucket: For code, logs and training states; private, encrypted, in the same region.
        prefix: Folder in it.
        wheels: Files on the Airflow host: LUMOS's own, and those of your recipes.
        lock: ``requirements.txt`` on the Airflow host; an image made from another is refused.
        environment: Further variables of every verb.
        secrets: Variables of every verb on an instance, by the name or ARN of the secret in AWS
            Secrets Manager that the instance reads them from.
        machines: By verb: ``train``, ``evaluate``, ``score``; ``default`` for those not named.
        databricks: Where all other verbs run.
        aws_conn_id: Airflow connection.
        databricks_conn_id: Airflow connection.
    """

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    prefix: str = Field("lumos", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")
    wheels: tuple[Path, ...] = Field(min_length=1)
    lock: Path
    environment: Mapping[Annotated[str, Field(pattern=_VARIABLE)], str] = Field(
        default_factory=dict
    )
    secrets: Mapping[Annotated[str, Field(pattern=_VARIABLE)], str] = Field(default_factory=dict)
    machines: Mapping[str, Machine] = Field(min_length=1)
    databricks: Databricks
    aws_conn_id: str = "aws_default"
    databricks_conn_id: str = "databricks_default"

    @property
    def root(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}"

    def machine(self, verb: str) -> Machine:
        """Of a verb.

        Raises:
            ValueError: Neither it nor ``default`` is named.
        """
        found = self.machines.get(verb) or self.machines.get("default")
        if found is None:
            msg = f"LUMOS_CLOUD names no machine for {verb}: add [machines.{verb}] or .default"
            raise ValueError(msg)
        return found


def read_cloud(path: Path | None) -> Cloud:
    """The file that ``LUMOS_CLOUD`` names.

    Raises:
        ValueError: There is none, or something in it is wrong; says what, and the remedy.
    """
    if path is None:
        msg = f"LUMOS_PLATFORM=aws needs LUMOS_CLOUD, a file as {EXAMPLE} shows"
        raise ValueError(msg)
    try:
        return Cloud.model_validate(tomllib.loads(path.read_text()))
    except ValidationError as error:
        raise ValueError(f"LUMOS_CLOUD={path}: {explain(error)}; see {EXAMPLE}") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"LUMOS_CLOUD={path} cannot be read ({error}); see {EXAMPLE}") from error
