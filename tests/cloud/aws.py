"""An AWS that executes: moto's servers of the APIs, and real processes behind EC2 and Run Command.

moto answers as AWS does and remembers; what it lacks is in ``ec2``, ``ssm`` and ``imds``. All of
it is one HTTP server on a port of this machine, so everything speaks to it as it speaks to AWS:
boto3, pyarrow, deltalake, the shell scripts on an instance. Only one at a time can exist in a
process: moto's memory belongs to the process.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from unittest import mock

import boto3
import psutil
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.ec2.responses import EC2Response
from moto.ssm.responses import SimpleSystemManagerResponse

from tests.cloud.command import Command
from tests.cloud.ec2 import Ec2
from tests.cloud.faults import AIRFLOW, TEST, Call, Faults
from tests.cloud.front import KEYS, Front
from tests.cloud.instance import Instance, World
from tests.cloud.processes import History, Processes
from tests.cloud.ssm import Ssm

_JOB = "lumos:job"
_AN_IMAGE = {"Name": "name", "Values": ["amzn2-ami-hvm-2.0*"]}


class Aws:
    """The server while the ``with`` lasts; at its end no process of any instance is left.

    Args:
        folder: Each instance has its own folder in it.
        faults: What goes wrong (default: nothing).
        boot_seconds: From a launch until the instance runs.
        agent_seconds: From then until it accepts commands.
        region: Of everything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        faults: Faults | None = None,
        boot_seconds: float = 0.3,
        agent_seconds: float = 0.3,
        region: str = "us-east-1",
    ) -> None:
        processes = Processes()
        self._processes = processes
        self._history = History(processes)
        self._world = World(folder.resolve(), "", region, boot_seconds, agent_seconds, processes)
        self._ec2 = Ec2(self._world)
        self._ssm = Ssm(self._ec2.instances)
        self._front = Front(faults or Faults(), self._ec2.instances)
        self._boto = boto3.Session()
        self._boto_lock = threading.Lock()
        self._network: dict[str, Any] | None = None
        self._before = Counter[str]()
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        BackendDict.reset()
        self._exit.callback(BackendDict.reset)
        for owner, service in ((EC2Response, self._ec2), (SimpleSystemManagerResponse, self._ssm)):
            for name, action in service.actions().items():
                patch = mock.patch.object(owner, name, _method(action), create=True)
                self._exit.enter_context(patch)
        transformers = self._exit.enter_context(
            mock.patch.dict(EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER)
        )
        # moto: always pending. AWS: an answer that is repeated says the state of now.
        del transformers["RunInstances.Reservation.Instances.Instance.State"]
        self._world.url = self._exit.enter_context(self._front.serving())
        self._history.start()
        self._exit.callback(self._history.stop)
        self._exit.callback(self._end_all)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def url(self) -> str:
        """Of the one endpoint of all services."""
        return self._world.url

    @property
    def faults(self) -> Faults:
        """The plan; rules can be added at any time."""
        return self._front.faults

    @property
    def calls(self) -> list[Call]:
        """Everything asked of it, by whom; each attempt of a client that retries is one."""
        return self._front.calls[self._before["calls"] :]

    @property
    def environment(self) -> dict[str, str]:
        """For a process on Airflow's side."""
        return self._environment(AIRFLOW)

    @property
    def variables(self) -> dict[str, str]:
        """Further ones of everything on instances, from now on."""
        return self._world.variables

    @property
    def minute_seconds(self) -> float:
        """How long a minute of ``shutdown -h +N`` is."""
        return self._world.minute_seconds

    @minute_seconds.setter
    def minute_seconds(self, seconds: float) -> None:
        self._world.minute_seconds = seconds

    @property
    def metadata_seconds(self) -> float:
        """How long an instance's metadata service takes to answer."""
        return self._world.metadata_seconds

    @metadata_seconds.setter
    def metadata_seconds(self, seconds: float) -> None:
        self._world.metadata_seconds = seconds

    def _environment(self, caller: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEYS[caller],
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": self._world.region,
            "AWS_REGION": self._world.region,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, *, caller: str = TEST, retries: int = 0) -> Any:
        """A boto3 client: the test's own, which no fault meets, or Airflow's with its faults."""
        with self._boto_lock:  # clients may be used by several threads, but not made by them
            return self._boto.client(
                service,
                endpoint_url=self.url,
                region_name=self._world.region,
                aws_access_key_id=KEYS[caller],
                aws_secret_access_key="nothing",
                config=Config(retries={"total_max_attempts": retries + 1, "mode": "standard"}),
            )

    def network(self) -> dict[str, Any]:
        """What a launch needs: ``ami``, two ``subnets`` in two zones, and so on; made once."""
        if self._network is None:
            ec2, iam = self.client("ec2"), self.client("iam")
            subnets = ec2.describe_subnets()["Subnets"][:2]
            group = ec2.create_security_group(
                GroupName="lumos", Description="lumos", VpcId=subnets[0]["VpcId"]
            )
            iam.create_role(RoleName="lumos-instance", AssumeRolePolicyDocument="{}")
            iam.create_instance_profile(InstanceProfileName="lumos")
            iam.add_role_to_instance_profile(InstanceProfileName="lumos", RoleName="lumos-instance")
            self._network = {
                "ami": ec2.describe_images(Filters=[_AN_IMAGE])["Images"][0]["ImageId"],
                "subnets": [subnet["SubnetId"] for subnet in subnets],
                "zones": [subnet["AvailabilityZone"] for subnet in subnets],
                "security_group": group["GroupId"],
                "instance_profile": "lumos",
            }
        return self._network

    def begin(self) -> None:
        """Another test: what was there before it is no longer listed, and nothing goes wrong."""
        self._before = Counter(
            instances=len(self._ec2.instances),
            commands=len(self._ssm.commands),
            calls=len(self._front.calls),
        )
        self.faults.rules.clear()
        self.metadata_seconds = 0.0

    def instances(self) -> list[Instance]:
        """All there ever were, oldest first; since ``begin``, if it was called."""
        return list(self._ec2.instances.values())[self._before["instances"] :]

    def alive(self) -> list[Instance]:
        """Those that cost money or still hold processes."""
        return [instance for instance in self.instances() if instance.state != "terminated"]

    def instance(self, instance_id: str) -> Instance:
        """One of them."""
        return self._ec2.instances[instance_id]

    def crash(self, instance_id: str) -> None:
        """The hardware is gone: when this returns, so are all processes."""
        self.instance(instance_id).end("crash", grace=0)

    def interrupt(self, instance_id: str, seconds: float = 2.0) -> None:
        """Take a spot instance back: a notice in its metadata, then the end (AWS: two minutes)."""
        instance = self.instance(instance_id)
        instance.notice = time.time() + seconds
        timer = threading.Timer(seconds, instance.end, ["spot"])
        timer.daemon = True
        timer.start()

    def commands(self) -> list[Command]:
        """Each on its instance, oldest first."""
        return self._ssm.commands[self._before["commands"] :]

    def processes(self, instance_id: str) -> list[psutil.Process]:
        """What runs there now."""
        return self._processes.of(instance_id)

    def command_lines(self, instance_id: str) -> list[str]:
        """Of what runs there now."""
        return self._processes.command_lines(instance_id)

    def most_running(self, pattern: str) -> dict[str, int]:
        """By the tag ``lumos:job``, the most commands that ever ran at once.

        A command is a tree of processes whose root has the pattern in its command line: torchrun
        and its ranks are one. Looked at four times a second.
        """
        jobs = {one.id: one.tags.get(_JOB, "") for one in self.instances()}
        return self._history.most_running(pattern, jobs)

    def _end_all(self) -> None:
        for instance in self._ec2.instances.values():
            instance.end("crash", grace=0)
        for instance in self._ec2.instances.values():
            instance.gone.wait(60)
            self._processes.end(instance.id, 0)


def _method(action: Callable[..., Any]) -> Callable[..., Any]:
    # moto looks for functions of the class; a bound method of ours would not be one.
    return lambda call: action(call)
