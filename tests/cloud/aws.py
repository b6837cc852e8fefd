"""An AWS that executes: moto's servers of the APIs, and real processes behind EC2 and Run Command.

moto answers as AWS does and remembers; what it lacks is in ``ec2``, ``ssm`` and ``imds``. All of
it is one HTTP server on a port of this machine, so everything speaks to it as it speaks to AWS:
boto3, pyarrow, deltalake, the shell scripts on an instance. Only one at a time can exist in a
process: moto's memory belongs to the process.
"""

import contextlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from unittest import mock

import boto3
import psutil
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.ec2.responses import EC2Response
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.ssm.responses import SimpleSystemManagerResponse
from werkzeug.serving import make_server

from tests.cloud import imds, wire
from tests.cloud.command import Command
from tests.cloud.ec2 import HIDE, Ec2
from tests.cloud.faults import AIRFLOW, NOBODY, TEST, Call, Faults, Rule
from tests.cloud.instance import Instance, World
from tests.cloud.processes import History, Processes
from tests.cloud.ssm import Ssm

_KEYS = {"AKIAAIRFLOWAIRFLOW00": AIRFLOW, "AKIATESTTESTTEST0000": TEST}
_KEY_OF = {caller: key for key, caller in _KEYS.items()}
_JOB = "lumos:job"

StartResponse = Callable[..., Any]


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Not a line for each request."""


class Aws:
    """The server while the ``with`` lasts; at its end no process of any instance is left.

    Attributes:
        url: Of the one endpoint of all services.
        calls: Everything asked of it, by whom.
        faults: The plan; rules can be added at any time.
        variables: Further environment variables of everything on instances started from now on.
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
        self.faults = faults or Faults()
        self.calls: list[Call] = []
        self._numbers = itertools.count(1)
        self._processes = Processes()
        self._history = History(self._processes)
        self._world = World(folder, "", region, boot_seconds, agent_seconds, self._processes)
        self._ec2 = Ec2(self._world)
        self._ssm = Ssm(self._ec2.instances)
        self._s3_writes = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._network: dict[str, Any] | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        BackendDict.reset()
        for owner, service in ((EC2Response, self._ec2), (SimpleSystemManagerResponse, self._ssm)):
            for name, action in service.actions().items():
                patch = mock.patch.object(owner, name, _method(action), create=True)
                self._exit.enter_context(patch)
        server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self._world.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True, name="aws")
        thread.start()
        self._history.start()
        self._exit.callback(BackendDict.reset)
        self._exit.callback(server.server_close)
        self._exit.callback(thread.join)
        self._exit.callback(server.shutdown)
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

    def _environment(self, caller: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": _KEY_OF[caller],
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": self._world.region,
            "AWS_REGION": self._world.region,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, *, caller: str = TEST, retries: int = 0) -> Any:
        """A boto3 client: the test's own, which no fault meets, or Airflow's with its faults."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=self._world.region,
            aws_access_key_id=_KEY_OF[caller],
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
                "ami": ec2.describe_images()["Images"][0]["ImageId"],
                "subnets": [subnet["SubnetId"] for subnet in subnets],
                "zones": [subnet["AvailabilityZone"] for subnet in subnets],
                "security_group": group["GroupId"],
                "instance_profile": "lumos",
            }
        return self._network

    def instances(self) -> list[Instance]:
        """All there ever were, oldest first."""
        return list(self._ec2.instances.values())

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
        return list(self._ssm.commands)

    def processes(self, instance_id: str) -> list[psutil.Process]:
        """What runs there now."""
        return self._processes.of(instance_id)

    def most_running(self, pattern: str) -> dict[str, int]:
        """By the tag ``lumos:job``, the most commands that ever ran at once.

        A command is a tree of processes whose root has the pattern in its command line: torchrun
        and its ranks are one. Looked at every 50 ms.
        """
        jobs = {one.id: one.tags.get(_JOB, "") for one in self.instances()}
        return self._history.most_running(pattern, jobs)

    def _end_all(self) -> None:
        for instance in self.instances():
            instance.end("crash", grace=0)
        for instance in self.instances():
            instance.gone.wait(10)
            self._processes.end(instance.id, 0)

    def _caller(self, key: str | None) -> str:
        for instance in self.instances():
            if instance.access_key == key:
                return instance.id
        return _KEYS.get(key or "", NOBODY)

    def _answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/imds/"):
            _, _, instance_id, rest = path.split("/", 3)
            instance = self.instance(instance_id)
            return _send(imds.answer(instance, "/" + rest.lstrip("/"), environ), start)
        body = _body(environ)
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        key, service = wire.credential(environ)
        action, parameters = wire.request(environ, service, body)
        call = Call(
            next(self._numbers), service, action, self._caller(key), parameters, time.monotonic()
        )
        self.calls.append(call)
        if self.faults.before and call.caller != TEST:
            self.faults.before(call)
        rule = self.faults.choose(call)
        call.fault = rule.kind if rule else None
        return self._execute(call, rule, environ, start)

    def _execute(
        self, call: Call, rule: Rule | None, environ: dict[str, Any], start: StartResponse
    ) -> Iterable[bytes]:
        kind = rule.kind if rule else None
        if kind == "drop":
            return _drop(environ)
        if kind == "empty":
            return _send(wire.nothing(call.action), start)
        if kind in ("throttle", "capacity", "fail", "deny"):
            return _send(wire.error(kind, call.service, environ), start)
        if rule and kind == "slow":
            time.sleep(rule.seconds)
        environ[HIDE] = rule.first if rule and kind == "hide" else 0
        started: list[Any] = []
        # moto looks at the conditions of a write and then writes: two at once would both succeed.
        is_write = call.service == "s3" and environ["REQUEST_METHOD"] not in ("GET", "HEAD")
        with self._s3_writes if is_write else contextlib.nullcontext():
            blocks = list(self._moto(environ, lambda *given: started.append(given)))
        call.status = int(started[0][0].split()[0])
        if self.faults.after and call.caller != TEST:
            self.faults.after(call)
        if kind == "lost-answer":
            return _drop(environ)
        start(*started[0][:2])
        return blocks


def _method(action: Callable[..., Any]) -> Callable[..., Any]:
    # moto looks for functions of the class; a bound method of ours would not be one.
    return lambda call: action(call)


def _body(environ: Mapping[str, Any]) -> bytes:
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        return environ["wsgi.input"].read()
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _send(answer: wire.Answer, start: StartResponse) -> Iterable[bytes]:
    status, content_type, body = answer
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    if b"__type" in body:
        headers.append(("x-amzn-errortype", body.split(b'"')[3].decode()))
    start(f"{status} -", headers)
    return [body]


def _drop(environ: Mapping[str, Any]) -> Iterable[bytes]:
    with contextlib.suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("dropped by the test's plan")
