"""What is known of one task's job on EC2, in one object of S3 that all who act on it share.

A worker acts (launches, sends, terminates) and a trigger watches. Either may die at any moment,
and a task may be delivered twice; so before each act it is written here what will be done, and
a record that someone else has changed meanwhile cannot be replaced. The id of a job (``key``) is
a hash of dag, run, task and *generation*: the same for every try of a task, another one once it
was cleared.
"""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from lumos.codes import BAD_INPUT, REFUSED, RESUME
from lumos.frozen import Config
from lumos.host.folder import Folder
from lumos.host.job import Cause, Result, Shipped

RECORD = "record.json"

State = Literal["launching", "booting", "running", "replacing", "ended"]


class End(Config):
    """How a launch ended; ``cause`` ``lost`` when its machine never said."""

    code: int
    cause: Cause | Literal["lost"]
    last_line: str = ""
    last_error: str = ""


class Record(Config):
    """One task's job.

    Attributes:
        key: Its id; part of every ClientToken and the tag of every instance.
        task_key: The same for all generations of a task.
        run_key: The same for all tasks of a DAG run.
        deadline: When the verb must have ended, by Airflow's clock.
        wheels: The code of every launch: a retry runs what the first try ran.
        lock_sha256: What the image must have been made from.
        state: What its current launch does; ``replacing``: it waits for its machines to be gone.
        launch: Number of the current launch; the next one replaces a lost machine.
        attempt: How often the zones were asked for it.
        first_asked: When the current launch asked first.
        instance_ids: Of the current launch.
        command_id: SSM's.
        end: Of the current launch.
        last_errors: Why launches before were replaced, newest last.
    """

    key: str
    task_key: str
    run_key: str
    dag_id: str
    run_id: str
    task_id: str
    deadline: dt.datetime
    wheels: tuple[Shipped, ...]
    lock_sha256: str
    state: State = "launching"
    launch: int = 0
    attempt: int = 0
    first_asked: dt.datetime | None = None
    instance_ids: tuple[str, ...] = ()
    command_id: str | None = None
    end: End | None = None
    replaced: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        """ClientToken: asking twice with it gives the same instances, not others."""
        return f"{self.key}-{self.launch}-{self.attempt}"

    @property
    def launch_folder(self) -> str:
        """Name of the folder of the current launch, below the record's."""
        return f"{self.launch:03d}"

    def but(self, **changes: Any) -> "Record":  # noqa: ANN401 - checked by the model
        """A copy with other values, all checked."""
        return Record.model_validate({**self.model_dump(), **changes})

    def next_launch(self, why: str) -> "Record":
        """The record of the launch that replaces this one."""
        return self.but(
            state="launching",
            launch=self.launch + 1,
            attempt=0,
            first_asked=None,
            instance_ids=(),
            command_id=None,
            end=None,
            replaced=(*self.replaced, why)[-5:],
        )


@dataclass(frozen=True)
class Task:
    """A task instance of Airflow, as far as it names a job."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    generation: int

    @property
    def run_key(self) -> str:
        """Of its DAG run."""
        return _hash(self.dag_id, self.run_id)

    @property
    def task_key(self) -> str:
        """Of all its generations."""
        return _hash(self.dag_id, self.run_id, self.task_id, self.map_index)

    @property
    def key(self) -> str:
        """Of its job."""
        return _hash(self.dag_id, self.run_id, self.task_id, self.map_index, self.generation)


def task_of(context: Any) -> Task:  # noqa: ANN401 - Airflow's context
    """The task instance that runs.

    Clearing a task raises ``max_tries`` by as many tries as it may have anew; a retry leaves it.
    """
    ti, retries = context["ti"], context["task"].retries or 0
    generation = max(0, ti.max_tries - retries)
    return Task(ti.dag_id, ti.run_id, ti.task_id, getattr(ti, "map_index", -1), generation)


def run_key(dag_id: str, run_id: str) -> str:
    """Of a DAG run."""
    return _hash(dag_id, run_id)


class Book:
    """The record of a job, read and written by whoever was first.

    Args:
        jobs: Folder of all jobs.
        key: Of this one.
    """

    def __init__(self, jobs: Folder, key: str) -> None:
        self.folder = jobs.of(key)
        self._etag = ""

    def read(self) -> Record | None:
        """What is written, if anything is."""
        found = self.folder.read(RECORD)
        if found is None:
            return None
        self._etag = found.etag
        return Record.model_validate_json(found.data)

    def write(self, record: Record) -> Record:
        """Write the next record, in place of the one that was read.

        Raises:
            Conflict: Someone else has written another one meanwhile.
        """
        data = record.model_dump_json(indent=1).encode()
        if self._etag:
            self._etag = self.folder.replace(RECORD, data, self._etag)
        else:
            self._etag = self.folder.create(RECORD, data)
        return record

    def launch(self, record: Record) -> Folder:
        """The folder of the record's current launch."""
        return self.folder.of(record.launch_folder)


def combined(results: list[Result]) -> End:
    """How a launch of several machines ended: by what stopped one of them, or as the first did.

    Args:
        results: Of the nodes that answered, the first node first.
    """
    stopped = next((r for r in results if r.cause != "ended" and r.code != 0), None)
    # Where one rank failed the others are ended by torchrun (1): the failed one knows better.
    telling = [r for r in results if r.code not in (0, 1)]
    chosen = stopped or next(iter(telling), None) or next((r for r in results if r.code), None)
    said = chosen or results[0]
    return End(
        code=said.code,
        cause=said.cause,
        last_line=results[0].last_line,
        last_error=said.last_error or next((r.last_error for r in results if r.last_error), ""),
    )


WHY_REPLACED = {
    "spot": "AWS took a spot instance back",
    "shutdown": "the instance was shut down",
    "ended": "the verb saved its state and left",
}


def is_done(end: End) -> bool:
    """Whether a launch that ended so was the last one; else another one goes on from its state."""
    if end.cause == "lost":
        return False
    if end.code in (0, BAD_INPUT, REFUSED) or end.cause in ("budget", "stop"):
        return True
    return end.code != RESUME and end.cause not in ("spot", "shutdown")


def is_final(end: End | None) -> bool:
    """Whether a retry must say the same again, rather than try again."""
    return end is not None and (end.code in (0, BAD_INPUT, REFUSED) or end.cause == "budget")


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:32]
