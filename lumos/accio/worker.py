"""Worker processes that read and cut beside a training, without torch and without its memory.

Not a ``DataLoader``'s: those import torch, which takes longer than a first batch and holds some
400 MB each, pass tensors through /dev/shm, and want the caller's script to guard its main part. A
worker here is a fresh interpreter that is told its part through a pipe and answers through another.
When either end dies, the other one notices by the pipe.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from lumos.accio.batch import RaggedBatch
from lumos.accio.stream import Stream
from lumos.verbs import BadInput

_MADE_AHEAD = 2  # parts that wait in the worker until the training asks for them


class WorkerDied(RuntimeError):
    """A worker ended before its part was done; a later run goes on from the last state."""


@dataclass(frozen=True)
class Job:
    """What a worker is told: which share of what is left of an epoch."""

    stream: Stream
    epoch: int
    first_step: int
    worker: int
    num_workers: int


class Worker:
    """The training's end of one worker."""

    def __init__(self, job: Job) -> None:
        """Start the process.

        Raises:
            BadInput: ``keep`` is not from a module that a worker can import.
        """
        self._told = _told(job)
        self._answers, theirs = Pipe(duplex=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lumos.accio.worker", str(theirs.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            # So that it finds the module of `keep`, wherever this process found it.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        theirs.close()

    def tell(self) -> None:
        """Hand over the job; apart from the start, so that all workers start at once."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: `take` says how
            self._process.stdin.write(self._told)
            self._process.stdin.close()

    def take(self) -> RaggedBatch:
        """The next part.

        Raises:
            WorkerDied: There is none any more.
            Exception: Whatever stopped the worker.
        """
        try:
            answer = pickle.loads(self._answers.recv_bytes())
        except EOFError as error:
            code = self._process.wait()
            why = "; -9 mostly means that memory ran out" if code == -9 else ""
            msg = f"a loader worker ended with exit code {code}{why}"
            raise WorkerDied(msg) from error
        if isinstance(answer, Exception):
            raise answer
        part: RaggedBatch = answer
        return part

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._answers.close()


def _told(job: Job) -> bytes:
    keep = job.stream.keep
    try:
        if getattr(keep, "__module__", None) == "__main__":
            raise pickle.PicklingError("it is defined in the script that was started")
        return pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        msg = f"workers cannot import keep={keep!r}: {error}. Define it in a module of its own"
        raise BadInput(msg) from error


def joined(stream: Stream, epoch: int, first_step: int, num_workers: int) -> Iterator[RaggedBatch]:
    """One rank's batches from a step on: the parts of all workers, in the order of lanes."""
    workers = [
        Worker(Job(stream, epoch, first_step, number, num_workers)) for number in range(num_workers)
    ]
    try:
        for worker in workers:
            worker.tell()
        for _ in range(first_step, stream.plan(epoch).num_steps):
            yield RaggedBatch.concat([worker.take() for worker in workers])
    finally:
        for worker in workers:
            worker.stop()


def work(answers: Connection) -> None:
    """The worker's end: make the parts, a few ahead of those that were taken."""
    job: Job = pickle.load(sys.stdin.buffer)
    made: queue.Queue[bytes | None] = queue.Queue(_MADE_AHEAD)
    sender = threading.Thread(target=_send, args=(answers, made), daemon=True)
    sender.start()
    try:
        share = (job.epoch, job.first_step, job.worker, job.num_workers)
        for part in job.stream.parts(*share):
            made.put(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))
    except Exception as error:
        error.add_note("in a loader worker:\n" + traceback.format_exc())
        made.put(pickle.dumps(error))
    made.put(None)
    sender.join()


def _send(answers: Connection, made: "queue.Queue[bytes | None]") -> None:
    try:
        while (part := made.get()) is not None:
            answers.send_bytes(part)
    except BrokenPipeError:
        os._exit(0)  # nobody is there any more


if __name__ == "__main__":
    from lumos.accio import worker

    # Under its own name, not as `__main__`: the job was pickled by a process that knows it so.
    worker.work(Connection(int(sys.argv[1]), readable=False))
