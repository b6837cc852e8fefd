"""The calls to EC2, SSM and S3 that running a verb on rented machines takes, and no decisions.

Errors come out as :mod:`lumos_airflow.refusals` says.
"""

import datetime as dt
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from botocore.config import Config as BotoConfig
from botocore.exceptions import ClientError

import lumos.host.bootstrap
from lumos.cloud import Cloud, Machine
from lumos.host.folder import Folder
from lumos.host.job import BOOT_MINUTES
from lumos_airflow.record import Record
from lumos_airflow.refusals import NO_CAPACITY, NoCapacity, Refused, said, sentences

log = logging.getLogger(__name__)

OWNER, JOB, TASK, RUN, EXPIRES = (
    f"lumos:{name}" for name in ("owner", "job", "task", "run", "expires")
)
LAUNCH, DAG = "lumos:launch", "lumos:dag"
ALIVE = ("pending", "running", "stopping", "stopped", "shutting-down")
STARTING = ("pending", "running")
NOT_OVER = (*STARTING, "shutting-down", "stopping")

# Nobody runs on longer than this after its deadline: what the reaper goes by.
EXPIRY_MARGIN = dt.timedelta(hours=1)
MOST_COMMAND_SECONDS = 172_800  # SSM's own limit

_USER_DATA = f"""#!/bin/bash
shutdown -h +{BOOT_MINUTES} "lumos: the dead-man's switch, put off while a verb runs"
"""
_END_OF_SOURCE = "LUMOS_BOOTSTRAP"
_CLIENT_SECONDS = 900
# Of a call, and how often it is made where it fails: throttling is an everyday event for the calls
# that launch and describe.
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 10.0, 30.0, 6


@dataclass(frozen=True)
class Instance:
    """One instance as EC2 shows it."""

    instance_id: str
    state: str
    address: str
    launched: dt.datetime
    type: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Invocation:
    """What SSM says of a command on an instance; its output is cut by SSM."""

    status: str
    code: int
    error: str


class TorchrunEc2Hook:
    """EC2, SSM and S3 of one deployment, by the Airflow connection that it names."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    @cached_property
    def jobs(self) -> Folder:
        """Where the records of all jobs lie."""
        return Folder(self.s3, f"{self.cloud.root}/jobs")

    @property
    def ec2(self) -> Any:  # noqa: ANN401 - boto3's clients are made at run time
        """Client of EC2."""
        return self._client("ec2")

    @property
    def ssm(self) -> Any:  # noqa: ANN401
        """Client of Systems Manager."""
        return self._client("ssm")

    @property
    def s3(self) -> Any:  # noqa: ANN401
        """Client of S3."""
        return self._client("s3")

    @property
    def owner(self) -> str:
        """Tag of all that this deployment starts: another one in the account is left alone."""
        return f"{self.cloud.bucket}/{self.cloud.prefix}"

    def launch(self, record: Record, machine: Machine, *, dry: bool = False) -> list[str]:
        """Start a launch's instances, or find those that the same token has started already.

        Args:
            record: Its token and attempt say which zone is asked.
            machine: What to start.
            dry: Only ask whether it would be allowed.

        Raises:
            NoCapacity: Not in this zone, not now.
            Refused: A quota, a right or an id is wrong.
        """
        request = self._request(record, machine)
        try:
            with sentences(self.cloud, f"start {machine.nodes} x {machine.instance_type}"):
                answer = self.ec2.run_instances(**request, DryRun=dry)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "DryRunOperation":
                return []
            if code in NO_CAPACITY:
                raise NoCapacity(f"{request['SubnetId']}: {said(error)}") from error
            if code == "IdempotentParameterMismatch":  # LUMOS_CLOUD was changed in between
                found = self.find({JOB: record.key, LAUNCH: str(record.launch)})
                if ids := [each.instance_id for each in found if each.state in STARTING]:
                    return ids
                raise NoCapacity("LUMOS_CLOUD was changed meanwhile") from error
            raise
        return [instance["InstanceId"] for instance in answer["Instances"]]

    def _request(self, record: Record, machine: Machine) -> dict[str, Any]:
        """RunInstances' parameters: the same for the same record, as its token demands."""
        tags = {
            **machine.tags,
            "Name": f"lumos {record.task_id} {record.key[:8]}"[:255],
            OWNER: self.owner,
            JOB: record.key,
            LAUNCH: str(record.launch),
            TASK: record.task_key,
            RUN: record.run_key,
            DAG: record.dag_id[:255],
            EXPIRES: (record.deadline + EXPIRY_MARGIN).isoformat(timespec="seconds"),
        }
        tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
        disk: dict[str, Any] = {
            "VolumeSize": machine.volume_gib,
            "VolumeType": "gp3",
            "Encrypted": True,
            "DeleteOnTermination": True,
            **({"KmsKeyId": machine.kms_key} if machine.kms_key else {}),
        }
        return {
            "ImageId": machine.ami,
            "InstanceType": machine.instance_type,
            "MinCount": machine.nodes,
            "MaxCount": machine.nodes,
            "ClientToken": record.token,
            "SubnetId": machine.subnets[record.attempt % len(machine.subnets)],
            "SecurityGroupIds": list(machine.security_groups),
            "IamInstanceProfile": {"Name": machine.instance_profile},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "UserData": _USER_DATA,
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "BlockDeviceMappings": [{"DeviceName": self._root_device(machine), "Ebs": disk}],
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tag_list} for kind in ("instance", "volume")
            ],
            **_market(machine),
        }

    def _root_device(self, machine: Machine) -> str:
        with sentences(self.cloud, f"find the image {machine.ami}"):
            images = self.ec2.describe_images(ImageIds=[machine.ami])["Images"]
        if not images:
            msg = f"the image {machine.ami} is not in {self.cloud.region}: correct `ami`"
            raise Refused(msg)
        return str(images[0].get("RootDeviceName") or "/dev/sda1")

    def find(self, tags: Mapping[str, str], *, states: Sequence[str] = ALIVE) -> list[Instance]:
        """Instances of this deployment with all these tags."""
        filters = [
            {"Name": f"tag:{name}", "Values": [value]}
            for name, value in {OWNER: self.owner, **tags}.items()
        ]
        filters.append({"Name": "instance-state-name", "Values": list(states)})
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return [each for page in pages for each in _instances(page)]

    def describe(self, ids: Sequence[str]) -> dict[str, Instance]:
        """Instances by id; one that EC2 does not know, yet or any more, is left out."""
        pages = self.ec2.get_paginator("describe_instances").paginate(
            # Not InstanceIds: a single one that is not known yet would be an error for all.
            Filters=[{"Name": "instance-id", "Values": list(ids)}]
        )
        return {each.instance_id: each for page in pages for each in _instances(page)}

    def online(self, ids: Sequence[str]) -> set[str]:
        """Those that take commands now."""
        answer = self.ssm.describe_instance_information(
            Filters=[{"Key": "InstanceIds", "Values": list(ids)}]
        )
        return {
            each["InstanceId"]
            for each in answer["InstanceInformationList"]
            if each["PingStatus"] == "Online"
        }

    def send(self, record: Record, machine: Machine, uri: str, sha256: str) -> str:
        """Have the record's instances run the job at ``uri``; gives SSM's id of the command."""
        left = (record.deadline - dt.datetime.now(dt.UTC)).total_seconds() + 900
        with sentences(self.cloud, "send a command to the instances"):
            answer = self.ssm.send_command(
                InstanceIds=list(record.instance_ids),
                DocumentName="AWS-RunShellScript",
                Comment=f"lumos {record.token}",
                TimeoutSeconds=600,
                Parameters={
                    "commands": command(machine.python, uri, sha256, self.cloud.region),
                    "executionTimeout": [str(int(min(max(left, 60), MOST_COMMAND_SECONDS)))],
                },
            )
        return str(answer["Command"]["CommandId"])

    def invocation(self, command_id: str, instance_id: str) -> Invocation | None:
        """Of a command on an instance; ``None`` where SSM does not know of it, yet."""
        try:
            found = self.ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvocationDoesNotExist":
                return None
            raise
        return Invocation(
            found["Status"],
            int(found.get("ResponseCode", -1)),
            found.get("StandardErrorContent", "").strip()[-2000:],
        )

    def terminate(self, ids: Sequence[str]) -> None:
        """End instances; those that are gone already are no fault."""
        known = [found.instance_id for found in self.describe(ids).values()] if ids else []
        if known:
            with sentences(self.cloud, "terminate instances"):
                self.ec2.terminate_instances(InstanceIds=known)

    def end(self, record: Record) -> None:
        """End the command and all instances of a job, known or not to its record."""
        if record.command_id is not None:
            try:
                self.ssm.cancel_command(CommandId=record.command_id)
            except ClientError:  # its instances end now, and so does it
                log.info("command %s could not be cancelled", record.command_id, exc_info=True)
        strays = [each.instance_id for each in self.find({JOB: record.key}, states=ALIVE)]
        self.terminate(sorted({*record.instance_ids, *strays}))

    def num_gpus(self, instance_type: str) -> int:
        """GPUs of an instance type."""
        with sentences(self.cloud, f"look up the instance type {instance_type}"):
            found = self.ec2.describe_instance_types(InstanceTypes=[instance_type])
        gpus = found["InstanceTypes"][0].get("GpuInfo", {}).get("Gpus", ())
        return sum(int(gpu["Count"]) for gpu in gpus)

    def _client(self, service: str) -> Any:  # noqa: ANN401
        period = int(time.monotonic() // _CLIENT_SECONDS)
        with sentences(self.cloud, f"use the connection {self.cloud.aws_conn_id}"):
            return shared_client(service, self.cloud.aws_conn_id, self.cloud.region, period)


@lru_cache(maxsize=32)
def shared_client(service: str, conn_id: str, region: str, _period: int) -> Any:  # noqa: ANN401
    """A client for all tasks and triggers of a process: each takes megabytes and 0.1 s to make.

    Made anew every quarter of an hour, so that changed credentials are taken up.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    hook: Any = AwsGenericHook(
        aws_conn_id=conn_id,
        client_type=service,
        region_name=region,
        config=BotoConfig(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=40,
        ),
    )
    return hook.get_client_type(region_name=region)


def command(python: str, uri: str, sha256: str, region: str) -> list[str]:
    """The lines of the one shell command: fixed text, an address, a digest and a region.

    The address is made of the bucket, the prefix and hashes, which ``lumos.cloud`` and
    :mod:`lumos_airflow.record` hold to letters that mean nothing to a shell.
    """
    source = Path(lumos.host.bootstrap.__file__).read_text()
    return [
        f"exec {python} - {uri} {sha256} {region} <<'{_END_OF_SOURCE}'",
        *source.splitlines(),
        _END_OF_SOURCE,
    ]


def _market(machine: Machine) -> dict[str, Any]:
    if machine.market == "spot":
        return {
            "InstanceMarketOptions": {
                "MarketType": "spot",
                "SpotOptions": {
                    "SpotInstanceType": "one-time",
                    "InstanceInterruptionBehavior": "terminate",
                },
            }
        }
    if machine.market == "capacity-block":
        target = {"CapacityReservationId": machine.capacity_reservation}
        return {
            "InstanceMarketOptions": {"MarketType": "capacity-block"},
            "CapacityReservationSpecification": {"CapacityReservationTarget": target},
        }
    return {}


def _instances(page: Mapping[str, Any]) -> Iterator[Instance]:
    for reservation in page["Reservations"]:
        for found in reservation["Instances"]:
            yield Instance(
                found["InstanceId"],
                found["State"]["Name"],
                found.get("PrivateIpAddress", ""),
                found["LaunchTime"],
                found["InstanceType"],
                {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())},
            )
