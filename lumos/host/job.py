"""What a rented machine is asked to run, and what it answers: the contract with Airflow.

All of it is JSON in S3, under the folder of one launch::

    job.json                   what to run (Job); its SHA-256 is in the command
    stop                       written by Airflow: save, and leave
    <instance>/log-00000001    lines as they come (Line), in chunks
    <instance>/pulse           written again and again while the machine is at work
    <instance>/result.json     how it ended (Result), once

A verb's arguments are a list here, so no shell ever reads them.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from lumos.frozen import Config

JOB, STOP = "job.json", "stop"
# Named so that they are listed after the log: one request tells all that is new.
HEARTBEAT, RESULT = "pulse", "result.json"
LOG = "log-"

# How the dead-man's switch is set, in minutes: docs/aws.md counts what each can cost.
BOOT_MINUTES, ALIVE_MINUTES, ENDED_MINUTES = 30, 10, 2

Line = tuple[int, str]
Cause = Literal["ended", "spot", "stop", "budget", "shutdown"]


class Shipped(Config):
    """A file of the code in S3."""

    uri: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Lock(Config):
    """Where the image keeps the lock that it was made from, and what it must be."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Node(Config):
    """One instance of a job."""

    instance_id: str
    address: str


class Job(Config):
    """One verb on one or several instances.

    Attributes:
        arguments: What follows ``lumos`` on the command line.
        processes: Ranks a node under torchrun; none: the verb runs as it is.
        nodes: The first one is where ranks meet.
        rendezvous_port: Of the first node.
        wheels: The code.
        lock: What the image must have been made from.
        environment: Variables of the verb.
        secrets: Variables of the verb, by their ids in AWS Secrets Manager.
        home: ``LUMOS_HOME`` there.
        region: Of the bucket.
        budget_seconds: After which the verb is asked to save and leave.
        beat_seconds: How often the machine writes its heartbeat and looks for a stop.
    """

    arguments: tuple[str, ...]
    processes: int | None
    nodes: tuple[Node, ...]
    rendezvous_port: int
    wheels: tuple[Shipped, ...]
    lock: Lock
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    home: str
    region: str
    budget_seconds: float
    beat_seconds: float


class Result(Config):
    """How a verb ended on one instance.

    Attributes:
        code: The verb's exit code; under torchrun that of the first rank that failed.
        cause: ``ended`` by itself, or what made the machine ask it to save and leave.
        last_line: Of its stdout: the report, on the first node.
        last_error: The last ERROR line of its log.
        num_chunks: Of the log.
        seconds: From the verb's start to its end.
    """

    code: int
    cause: Cause
    last_line: str
    last_error: str
    num_chunks: int = 0
    seconds: float = 0.0


def pack_lines(lines: Iterable[Line]) -> bytes:
    """A chunk of a log."""
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def unpack_lines(data: bytes) -> list[Line]:
    """The lines of a chunk."""
    return [(level, text) for level, text in map(json.loads, data.decode().splitlines())]


def chunk_name(instance_id: str, number: int) -> str:
    """Of the ``number``-th chunk, counted from 1: names sort as they were written."""
    return f"{instance_id}/{LOG}{number:08d}"
