"""Accio: an epoch of windows, streamed from a pinned Delta version into a training.

The plan says who reads what, a stream makes one worker's part of it; here the parts of all workers
of a rank are joined, counted, and handed to the training.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from lumos.accio.batch import RaggedBatch
from lumos.accio.plan import check_world
from lumos.accio.stream import READ_AHEAD, Keep, Sampling, Stream
from lumos.accio.table import SequenceTable
from lumos.accio.worker import joined
from lumos.verbs import BadInput

log = logging.getLogger(__name__)

_GIB = 1 << 30
_MUCH_WASTE = 0.1


class Accio(IterableDataset[RaggedBatch]):
    """The batches of one rank, epoch after epoch.

    Each iteration gives what is left of the current epoch and moves on to the next; every user
    that qualifies is in an epoch ``windows_per_user`` times. The content of global batches
    depends on the table's version, the seed, the epoch and the batch size, and not on how many
    ranks or workers there are. All ranks take the same number of steps; a rank's batches all have
    the same length, and ``weight`` is 0 in slots that nobody fills.

    It is iterated as it is (it starts its own workers), not wrapped in a ``DataLoader`` with
    workers: there every worker would have to read everything.
    """

    def __init__(
        self,
        table: SequenceTable,
        sampling: Sampling,
        *,
        batch_size: int,
        seed: int = 0,
        keep: Keep | None = None,
        num_workers: int = 0,
        num_lanes: int = 64,
        rank: int | None = None,
        world_size: int | None = None,
        max_worker_bytes: int = _GIB,
    ) -> None:
        """Count who has windows: reads the ids and registration days of the whole table.

        Args:
            table: From :meth:`SequenceTable.open`.
            sampling: Which windows.
            batch_size: Global: of all ranks together.
            seed: Of every choice.
            keep: Which users to give, from their ids and registration days: a mask of shape
                (N,). It is sent to workers, and must depend on nothing else.
            num_workers: Processes that read and cut beside this one; 0 does it here.
            num_lanes: How many row groups an epoch mixes at any time; the most ranks there can
                be. More mix better and take more memory.
            rank: This process; torchrun's by default.
            world_size: Number of processes; torchrun's by default.
            max_worker_bytes: What a worker may hold of decoded windows, at most.

        Raises:
            BadInput: More ranks than lanes, nobody to give, or not enough memory allowed.
        """
        rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        if world_size is None:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
        check_world(num_lanes, world_size)
        stream = Stream(
            table, sampling, np.zeros(0, np.int64), keep, batch_size, num_lanes, seed, rank,
            world_size,
        )  # fmt: skip
        num_users = table.map_index(lambda users: len(stream.eligible(users)))
        counts = np.asarray(num_users, np.int64) * sampling.windows_per_user
        self._stream = replace(stream, counts=counts)
        self._num_workers = num_workers
        self.epoch, self.step = 0, 0
        self._plan = self._stream.plan(0)
        if not self._plan.num_samples:
            msg = (
                f"{table.uri} version {table.version} has nobody who is registered by "
                f"last_origin={sampling.last_origin} and kept"
            )
            raise BadInput(msg)
        self._num_slots = self._plan.num_slots(world_size)
        self._check_memory(max_worker_bytes)
        waste = 1 - batch_size / (self._num_slots * world_size)
        if waste > _MUCH_WASTE and rank == 0:
            log.warning(
                "%.0f%% of the slots of every batch stay empty: %d lanes and batches of %d do "
                "not divide among %d ranks", 100 * waste, num_lanes, batch_size, world_size,
            )  # fmt: skip

    @property
    def num_users(self) -> int:
        """Users that an epoch gives, over all ranks."""
        return self._plan.num_samples // self._stream.sampling.windows_per_user

    @property
    def num_steps(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return self._plan.num_steps

    @property
    def worker_bytes(self) -> int:
        """What a worker holds at most: a piece a lane and those read ahead, fully decoded."""
        table, share = self._stream.table, self._stream.world_size * max(self._num_workers, 1)
        num_held = -(-self._stream.num_lanes // share) + 2 * READ_AHEAD + 1
        largest = int(table.shards["num_days"].max(initial=0))
        cells = len(table.columns.activity) + 1
        return num_held * largest * cells * 4 * self._stream.sampling.windows_per_user

    def _check_memory(self, allowed: int) -> None:
        if self.worker_bytes > allowed:
            msg = (
                f"a worker would hold up to {self.worker_bytes >> 20} MiB, more than "
                f"max_worker_bytes={allowed >> 20} MiB: use fewer num_lanes (now "
                f"{self._stream.num_lanes}), more num_workers (now {self._num_workers}), or "
                "rewrite the table with smaller row groups"
            )
            raise BadInput(msg)

    def __len__(self) -> int:
        """Batches left of the current epoch."""
        return self.num_steps - self.step

    def __iter__(self) -> Iterator[RaggedBatch]:
        info = get_worker_info()
        if info is not None and info.num_workers > 1:
            msg = (
                "Accio starts its own workers: give it num_workers and iterate it as it is, "
                "or wrap it in a DataLoader with num_workers=0"
            )
            raise BadInput(msg)
        for batch in self._batches(alone=info is not None):
            missing = self._num_slots - len(batch)
            padding = [self._stream.empty(missing)] if missing else []
            # Counted before it is handed out: a state saved now goes on after this batch.
            self.step += 1
            if self.step == self.num_steps:
                self.epoch, self.step = self.epoch + 1, 0
            yield RaggedBatch.concat([batch, *padding])

    def _batches(self, *, alone: bool) -> Iterator[RaggedBatch]:
        if alone or not self._num_workers:
            return self._stream.parts(self.epoch, self.step, 0, 1)
        return joined(self._stream, self.epoch, self.step, self._num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is; a few numbers, however large the table."""
        return {"epoch": self.epoch, "step": self.step, "stream": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader was, of any number of ranks and workers.

        Raises:
            BadInput: The state is of other batches; names what differs.
        """
        ours, theirs = self._identity(), dict(state["stream"])
        differing = [
            f"{name} (now {ours.get(name)}, then {theirs.get(name)})"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]
        if differing:
            msg = f"the state belongs to other batches: {'; '.join(differing)} changed"
            raise BadInput(msg)
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def _identity(self) -> dict[str, Any]:
        """All that the content of global batches depends on."""
        stream = self._stream
        users = hashlib.blake2b(stream.counts.tobytes(), digest_size=8).hexdigest()
        return {
            "version": stream.table.version,
            "users": users,
            "batch_size": stream.batch_size,
            "num_lanes": stream.num_lanes,
            "seed": stream.seed,
            **asdict(stream.sampling),
        }
