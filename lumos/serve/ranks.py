"""The processes that torchrun started to score one day: what little they tell each other.

They share torchrun's own key-value store and no collective: a process that is done early waits for
nobody, and one that dies takes the others with it through torchrun, which starts none again.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from lumos.compute import num_threads
from lumos.train.distributed import die_with_parent

# The first process decides within seconds; the others may have hours of shards left.
_DECIDES = timedelta(minutes=10)
_SCORES = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """All processes of a run: without torchrun, this one alone.

    Attributes:
        rank: Of this process.
        size: How many there are.
        num_cores: How many this process computes on.
        device: Where it computes.
    """

    rank: int
    size: int
    num_cores: int
    device: str
    _store: Store | None

    @classmethod
    def join(cls) -> "Ranks":
        """Find the others, if there are any."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        num_cores = num_threads()
        device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
        if size == 1:
            return cls(0, 1, num_cores, device, None)
        die_with_parent()
        store, rank, size = next(rendezvous("env://", timeout=_DECIDES))
        return cls(rank, size, num_cores, device, store)

    @property
    def is_first(self) -> bool:
        """Whether this process decides, finishes and reports."""
        return self.rank == 0

    def tell(self, decided: str) -> None:
        """Let the first process say what all of them do."""
        if self._store is not None:
            self._store.set("decided", decided)

    def told(self) -> str:
        """What the first process said."""
        assert self._store is not None, "there is nobody else"
        self._store.wait(["decided"], _DECIDES)
        return str(self._store.get("decided").decode())

    def is_done(self) -> None:
        """Say that this process has scored its shards."""
        if self._store is not None:
            self._store.set(f"done/{self.rank}", "")

    def wait_for_all(self) -> None:
        """Until every process has scored its shards."""
        if self._store is not None:
            self._store.wait([f"done/{rank}" for rank in range(self.size)], _SCORES)
