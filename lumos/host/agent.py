"""Run one verb on a rented machine: its log to S3 as it comes, its end too, and no day too long.

Usage: ``python -m lumos.host.agent s3://.../job.json JOB_FILE``; started by
:mod:`lumos.host.bootstrap`. Only one of them runs for a job on a machine, however often it was
asked for: SSM has no token that would make two equal requests one.

Each duty towards the outside (the pulse, the log, the switch, the looks for a spot notice and for
Airflow's stop) has a thread of its own: an S3 that accepts and never answers delays what goes to S3
and nothing else.

The machine switches itself off. Its user data has set ``shutdown`` for half an hour after boot;
the agent puts that off while the verb lives and its budget lasts, and at the end sets it for soon.
So a machine that nobody looks after any more is gone within minutes of its verb.
"""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from botocore.exceptions import ClientError

from lumos.host.bootstrap import impatient, insist, is_passing, metadata, s3_client
from lumos.host.folder import Conflict, Folder
from lumos.host.job import (
    ALIVE_MINUTES,
    ENDED_MINUTES,
    HEARTBEAT,
    RESULT,
    STOP,
    Cause,
    Job,
    Line,
    Result,
    chunk_name,
    pack_lines,
)
from lumos.host.process import Command, child_environment

log = logging.getLogger(__name__)

# A spot instance has two minutes from its notice to its end.
_SAVE_SECONDS = 100.0
_RENEW_SECONDS = 60.0
_CHUNK_LINES = 2000
# How long a machine stays for the end of its log and its result: 11 USD of a p4d.
_END_SECONDS = 1800.0
# Before the verb, within the switch that was set at boot.
_CLAIM_SECONDS = _SECRET_SECONDS = 300.0


class Shipper:
    """Lines to chunks in S3, in order and none left out; a chunk that fails is tried again."""

    def __init__(self, folder: Folder, instance_id: str) -> None:
        self._folder, self._instance_id = folder, instance_id
        self._lines: list[Line] = []
        self._guard = threading.Lock()
        self._number = self._num_due = 0

    @property
    def num_chunks(self) -> int:
        """How many were written."""
        return self._number

    def add(self, level: int, text: str) -> None:
        """Take a line; any thread may."""
        with self._guard:
            self._lines.append((level, text))

    def ship(self) -> None:
        """Write what has come, one chunk at a time; only one thread may."""
        while True:
            with self._guard:
                # One that failed stays as it was: it may be there all the same, and read by now.
                self._num_due = self._num_due or min(len(self._lines), _CHUNK_LINES)
                chunk = self._lines[: self._num_due]
            if not chunk:
                return
            self._folder.write(chunk_name(self._instance_id, self._number + 1), pack_lines(chunk))
            with self._guard:
                del self._lines[: len(chunk)]
                self._num_due = 0
            self._number += 1


class Agent:
    """One job on this machine.

    Args:
        job: What to run.
        folder: Of the launch, in S3.
        instance_id: This machine's.
    """

    def __init__(self, job: Job, folder: Folder, instance_id: str) -> None:
        self.job, self.folder, self.instance_id = job, folder, instance_id
        self.home = Path(job.home).expanduser()
        ids = [node.instance_id for node in job.nodes]
        self.rank = ids.index(instance_id)
        self.shipper = Shipper(folder, instance_id)
        self.cause: Cause = "ended"
        self._started = time.monotonic()
        self._asked_at: float | None = None
        self._asking = threading.Lock()
        self._is_shutting_down = threading.Event()
        self._command: Command | None = None

    def run(self) -> Result:
        """Run the verb to its end."""
        signal.signal(signal.SIGTERM, lambda *_: self._is_shutting_down.set())
        command = self._command = Command(self.argv(), environment=self.environment())
        duties = (self.shipper.ship, self._look_around, self._look_for_stop)
        with repeated(self.job.beat_seconds, *duties):
            ended = command.run(self._log)
        insist(self.shipper.ship, patience_seconds=_END_SECONDS)
        return Result(
            code=ended.code,
            cause=self.cause,
            last_line=ended.last_line,
            last_error=ended.last_error,
            num_chunks=self.shipper.num_chunks,
            seconds=round(time.monotonic() - self._started, 2),
        )

    def argv(self) -> list[str]:
        """The verb's command line on this node."""
        job, python = self.job, sys.executable
        if job.processes is None:
            return [python, "-m", "lumos", *job.arguments]
        meeting = ["--standalone"]
        if len(job.nodes) > 1:
            meeting = [
                *("--nnodes", str(len(job.nodes)), "--node-rank", str(self.rank)),
                *("--master-addr", job.nodes[0].address),
                *("--master-port", str(job.rendezvous_port)),
            ]
        return [
            *(python, "-m", "torch.distributed.run", *meeting),
            *("--nproc-per-node", str(job.processes), "-m", "lumos", *job.arguments),
        ]

    def environment(self) -> dict[str, str]:
        """The verb's variables; secrets are read here, and are in no file and no log."""
        scratch = self.home / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        given = {
            "LUMOS_HOME": str(self.home),
            "TMPDIR": str(scratch),
            "AWS_REGION": self.job.region,
            "AWS_DEFAULT_REGION": self.job.region,
            **self.job.environment,
            **read_secrets(self.job.secrets, self.job.region),
        }
        return child_environment(os.environ, given)

    def ask(self, cause: Cause) -> None:
        """Have the verb save and leave; the first cause counts."""
        with self._asking:
            if self._asked_at is not None or self._command is None:
                return
            self.cause, self._asked_at = cause, time.monotonic()
        self._log(logging.WARNING, f"asking the verb to save and leave: {_WHY[cause]}")
        self._command.interrupt()

    def _log(self, level: int, text: str) -> None:
        self.shipper.add(level, text)
        # SSM keeps the first 24,000 characters, for who looks there.
        sys.stderr.write(f"{logging.getLevelName(level)} {text}\n")

    def _look_around(self) -> None:
        """Whether the verb must go: it ran too long, or the machine is taken. Asks no S3."""
        now = time.monotonic()
        assert self._command is not None
        if self._asked_at is not None:
            if now - self._asked_at > _SAVE_SECONDS:
                self._command.stop()
        elif self._is_shutting_down.is_set():
            self.ask("shutdown")
        elif now - self._started > self.job.budget_seconds:
            self.ask("budget")
        elif metadata("spot/instance-action") is not None:
            self.ask("spot")

    def _look_for_stop(self) -> None:
        if self._asked_at is None and self.folder.read(STOP) is not None:
            self.ask("stop")


_WHY: Mapping[Cause, str] = {
    "budget": "its time is over",
    "spot": "AWS takes this spot instance back in two minutes",
    "stop": "Airflow wants it to end",
    "shutdown": "this machine is shutting down",
}


@contextmanager
def repeated(seconds: float, *duties: Callable[[], Any]) -> Iterator[None]:
    """Do each duty every so many seconds while the ``with`` lasts, each in a thread of its own.

    One that fails is done again at its next turn. At the end the last turn of each is waited for.
    """
    over = threading.Event()

    def repeat(duty: Callable[[], Any]) -> None:
        while not over.wait(seconds):
            try:
                duty()
            except Exception as error:
                log.warning("%s: %s", duty.__name__, error)

    threads = [threading.Thread(target=repeat, args=(duty,)) for duty in duties]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def kept_alive(folder: Folder, instance_id: str, *, beat_seconds: float) -> Iterator[None]:
    """While the ``with`` lasts, Airflow sees a pulse and the switch is put off."""

    def pulse() -> None:
        folder.write(f"{instance_id}/{HEARTBEAT}", b"")

    def renew() -> None:
        switch_off_in(ALIVE_MINUTES)

    with (
        repeated(beat_seconds, pulse),
        repeated(min(_RENEW_SECONDS, 4 * beat_seconds), renew),
    ):
        yield


def switch_off_in(minutes: int) -> None:
    """Set the dead-man's switch anew; the new time replaces the old one."""
    done = subprocess.run(
        ["shutdown", "-h", f"+{minutes}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        log.error("the dead-man's switch could not be set: %s", done.stderr.strip())


def read_secrets(secrets: Mapping[str, str], region: str) -> dict[str, str]:
    """Variables from AWS Secrets Manager, read with this machine's own role."""
    if not secrets:
        return {}
    manager = boto3.client("secretsmanager", region_name=region, config=impatient())
    found = {}
    for name, secret in secrets.items():
        try:
            answer = insist(
                lambda: manager.get_secret_value(SecretId=secret),  # noqa: B023 - called at once
                patience_seconds=_SECRET_SECONDS,
                may_pass=is_passing,
            )
        except ClientError as error:
            msg = (
                f"the secret {secret} for {name} cannot be read by this machine's role "
                f"({error.response['Error']['Code']}): allow secretsmanager:GetSecretValue, or "
                "correct [secrets] in LUMOS_CLOUD"
            )
            raise RuntimeError(msg) from error
        if "SecretString" not in answer:
            msg = (
                f"the secret {secret} for {name} is binary, and a variable is text: store it as "
                "text, or correct [secrets] in LUMOS_CLOUD"
            )
            raise RuntimeError(msg)
        found[name] = answer["SecretString"]
    return found


def main(argv: list[str]) -> int:
    """Run the job unless it runs or ran here already; returns the verb's exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    uri, path = argv
    job = Job.model_validate(json.loads(Path(path).read_text()))
    folder = Folder(s3_client(job.region), uri.rsplit("/", 1)[0])
    instance_id = metadata("instance-id") or ""
    with Path(path).with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("this job runs here already: asked for twice, it runs once")
            return 0
        # Also once: a killed agent's verb may have left half-written files to another launch.
        if not _claims(folder, instance_id):
            log.warning("this job ran here already")
            return 0
        try:
            with kept_alive(folder, instance_id, beat_seconds=job.beat_seconds):
                result = _run(job, folder, instance_id)
                data = result.model_dump_json().encode()
                insist(
                    lambda: folder.write(f"{instance_id}/{RESULT}", data),
                    patience_seconds=_END_SECONDS,
                )
        finally:
            switch_off_in(ENDED_MINUTES)
    return result.code


def _run(job: Job, folder: Folder, instance_id: str) -> Result:
    """The job's result, whatever happens to this program."""
    try:
        return Agent(job, folder, instance_id).run()
    except Exception as error:
        log.exception("the agent failed")
        why = f"the agent on {instance_id} failed: {error!r}"
        return Result(code=1, cause="ended", last_line="", last_error=why)


def _claims(folder: Folder, instance_id: str) -> bool:
    mine = uuid4().bytes  # one for all tries: a try whose answer was lost meets itself
    try:
        insist(
            lambda: folder.create(f"{instance_id}/claim", mine),
            patience_seconds=_CLAIM_SECONDS,
            may_pass=is_passing,
        )
    except Conflict:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
