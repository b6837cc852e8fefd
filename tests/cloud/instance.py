"""A machine of EC2 that really runs: a folder, processes of its own, and an end to all of them."""

import base64
import gzip
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moto.ec2.models.instances import InstanceState, StateReason

from tests.cloud.processes import MARK, Processes

GRACE_SECONDS = 0.2
_LOOK_SECONDS = 0.05
_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
# Codes of the API reference's StateReason.
_REASONS = {
    "TerminateInstances": "Client.UserInitiatedShutdown",
    "StopInstances": "Client.UserInitiatedShutdown",
    "shutdown": "Client.InstanceInitiatedShutdown",
    "spot": "Server.SpotInstanceTermination",
    "crash": "Server.InternalError",
}
# As shutdown(8): the first word that is not an option is the time, the rest a message to users,
# and each call replaces the one before.
_SHUTDOWN = """\
#!/bin/sh
when=
for word in "$@"; do
    case $word in
        -h|-P|-H|--halt|--poweroff|--no-wall) ;;
        -c) when=never; break ;;
        -*) echo "shutdown: $word is not emulated" >&2; exit 1 ;;
        now|+0) when=0; break ;;
        +*[!0-9]*|+) echo "shutdown: $word is not a time" >&2; exit 1 ;;
        +*) when=${word#+}; break ;;
        *) echo "shutdown: $word: only now and +MINUTES are emulated" >&2; exit 1 ;;
    esac
done
printf %s "${when:-1}" > "FOLDER/.shutdown.$$" &&
    mv "FOLDER/.shutdown.$$" "FOLDER/.shutdown"
"""


class InstanceGone(Exception):
    """Nothing can be started on a machine that is on its way out."""


@dataclass
class World:
    """What all instances of one pretended AWS share."""

    folder: Path
    url: str
    region: str
    boot_seconds: float
    agent_seconds: float
    processes: Processes
    minute_seconds: float = 60.0
    metadata_seconds: float = 0.0
    variables: dict[str, str] = field(default_factory=dict)


class Instance:
    """One instance; ``state`` is what DescribeInstances says.

    Attributes:
        why: What ended it: ``TerminateInstances``, ``shutdown``, ``crash`` or ``spot``.
        notice: When a spot interruption will end it, in seconds since 1970.
        launched: Monotonic time.
        ended: The same, once no process is left.
    """

    def __init__(self, record: Any, world: World) -> None:
        self.record = record
        self.id: str = record.id
        self.folder = world.folder / self.id
        self.why: str | None = None
        self.notice: float | None = None
        self.launched = time.monotonic()
        self.ended: float | None = None
        self.imds_tokens: set[str] = set()
        self._world = world
        self._profile = record.iam_instance_profile
        self._online_at = float("inf")
        self._lock = threading.RLock()
        self._leaving = threading.Event()
        self.gone = threading.Event()
        self._become("pending")
        threading.Thread(target=self._live, daemon=True, name=self.id).start()

    def __repr__(self) -> str:
        return f"<{self.id} {self.state} {self.why or ''} {self.tags}>"

    @property
    def state(self) -> str:
        """As DescribeInstances names it."""
        return self.record.state

    @property
    def tags(self) -> dict[str, str]:
        """Of the instance, not of its volumes."""
        return {tag["key"]: tag["value"] for tag in self.record.get_tags()}

    @property
    def type(self) -> str:
        """Such as ``p4d.24xlarge``."""
        return self.record.instance_type

    @property
    def token(self) -> str | None:
        """Its ClientToken."""
        return self.record.client_token

    @property
    def subnet(self) -> str:
        """Where it was launched."""
        return self.record.subnet_id

    @property
    def zone(self) -> str:
        """The same."""
        return self.record.placement.zone

    @property
    def access_key(self) -> str:
        """Of its role's temporary credentials: what a call is recognised by."""
        return "ASIA" + self.id.removeprefix("i-")[:16].upper()

    @property
    def has_profile(self) -> bool:
        """Whether a role is attached: without one there are no credentials and no agent."""
        return self._profile is not None

    @property
    def online(self) -> bool:
        """Whether its agent has reported to Systems Manager."""
        return self.state == "running" and self.has_profile and time.monotonic() >= self._online_at

    @property
    def metadata_seconds(self) -> float:
        """How long its metadata service takes to answer."""
        return self._world.metadata_seconds

    @property
    def environment(self) -> dict[str, str]:
        """All that a process on it inherits: nothing of this test's own environment.

        On AWS neither user data nor the agent's commands have HOME; here they do, so that
        nothing is written to the home of whoever runs the tests.
        """
        metadata = f"{self._world.url}/imds/{self.id}"
        return {
            "PATH": f"{self.folder}/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            MARK: self.id,
            "AWS_ENDPOINT_URL": self._world.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": self._world.region,
            "AWS_DEFAULT_REGION": self._world.region,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata,
            "AWS_METADATA_ENDPOINT": metadata,  # the same, as object_store (deltalake) calls it
            **({"JAVA_HOME": os.environ["JAVA_HOME"]} if "JAVA_HOME" in os.environ else {}),
            **self._world.variables,
        }

    def start(
        self, arguments: Sequence[str], variables: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process on it, in a group of its own.

        Raises:
            InstanceGone: It is not running.
        """
        with self._lock:
            if self._leaving.is_set() or self.state != "running":
                raise InstanceGone(self.id)
            return subprocess.Popen(
                arguments,
                env={**self.environment, **(variables or {})},
                process_group=0,
                stdin=subprocess.DEVNULL,
                **options,
            )

    def end(self, why: str, *, final: str = "terminated", grace: float = GRACE_SECONDS) -> None:
        """Begin its end, which takes a moment; the first reason stands."""
        with self._lock:
            if self._leaving.is_set():
                if self.state == "stopped" and final == "terminated":
                    self._finish(final, 0)
                return
            self._leaving.set()
            self.why = why
            self._become("shutting-down" if final == "terminated" else "stopping")
        if grace:
            threading.Thread(target=self._finish, args=(final, grace), daemon=True).start()
        else:
            self._finish(final, 0)

    def _finish(self, final: str, grace: float) -> None:
        self._world.processes.end(self.id, grace)
        with self._lock:
            if final == "terminated":
                self.record.terminate()
            self._become(final)
            self.ended = time.monotonic()
        self.gone.set()

    def _become(self, state: str) -> None:
        # A state of its own: moto's Reservation may share one with an answer under way.
        self.record._state = InstanceState(state, _CODES[state])
        if self.why:
            code = _REASONS[self.why]
            self.record.state_reason = StateReason(f"{code}: {self.why}", code)

    def _live(self) -> None:
        if self._leaving.wait(self._world.boot_seconds):
            return
        self._prepare()
        with self._lock:
            if self._leaving.is_set():
                return
            self._become("running")
            self._online_at = time.monotonic() + self._world.agent_seconds
            user_data = self._run_user_data()
        due, request = float("inf"), None
        while not self._leaving.wait(_LOOK_SECONDS):
            user_data.poll() if user_data else None  # no zombie of it is left
            if (found := self._shutdown_request()) != request:
                request = found
                due = self._due(found)
            if time.time() >= due:
                stop = self.record.instance_initiated_shutdown_behavior != "terminate"
                self.end("shutdown", final="stopped" if stop else "terminated")

    def _prepare(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        shim = self.folder / "bin" / "shutdown"
        shim.write_text(_SHUTDOWN.replace("FOLDER", str(self.folder)))
        shim.chmod(0o755)

    def _run_user_data(self) -> subprocess.Popen[bytes] | None:
        encoded = self.record.user_data
        if not encoded:
            return None
        script = base64.b64decode(str(encoded))
        if script.startswith(b"\x1f\x8b"):  # cloud-init unpacks it
            script = gzip.decompress(script)
        first = script.partition(b"\n")[0].decode()
        if not first.startswith(
            "#!"
        ):  # cloud-init runs nothing else; #cloud-config is not emulated
            return None
        path = self.folder / "user-data"
        path.write_bytes(script)
        with (self.folder / "user-data.log").open("wb") as log:
            # Through its interpreter: the file may still be open for writing in a process that
            # another thread is about to start, and Linux would refuse to execute it (ETXTBSY).
            return self.start(
                [*shlex.split(first[2:]), str(path)],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _shutdown_request(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / ".shutdown").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _due(self, request: tuple[int, int] | None) -> float:
        when = (self.folder / ".shutdown").read_text()
        if request is None or when == "never":
            return float("inf")
        return request[1] / 1e9 + int(when) * self._world.minute_seconds
