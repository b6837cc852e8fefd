"""The processes of one training: who this one is, and the few things they tell each other."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)

# A process that lost its peers stops after this long, instead of waiting for ever.
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """All processes of a run: without torchrun, this one alone."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    has_bfloat16: bool = False
    is_first_here: bool = True  # of the processes of this machine

    @property
    def is_first(self) -> bool:
        """Whether this process logs, saves and registers."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def first_says(self, answer: bool) -> bool:
        """What the first process answers, on every process."""
        word = torch.tensor([float(answer and self.is_first)], device=self.device)
        return bool(self.sum(word) > 0)

    def first_sentence(self, sentence: str) -> str:
        """What the first process that has something to say says; for the end of a run."""
        if self.size == 1:
            return sentence
        sentences: list[str] = [""] * self.size
        dist.all_gather_object(sentences, sentence)
        return next((said for said in sentences if said), "")

    def agrees(self, number: int) -> bool:
        """Whether all processes have the same number as the first one."""
        numbers = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        return bool((self.sum(numbers) == numbers[0]).all())

    def autocast(self) -> torch.autocast:
        """A block that computes in bfloat16 where the device has it; never on a CPU."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, torch.bfloat16, enabled=self.has_bfloat16)

    def wait_for_the_end(self) -> None:
        """Wait until the first process has ended, and torchrun or its silence ends this one."""
        try:
            dist.barrier()
        except RuntimeError as error:
            log.debug("the first process is gone: %s", error)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The float32 rows of all processes, by rank; they may differ in number."""
        if self.size == 1:
            return rows
        sizes = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(rows)
        longest = int(self.sum(sizes).max())
        padded = np.zeros((longest, *rows.shape[1:]), np.float32)
        padded[: len(rows)] = rows
        mine = torch.from_numpy(padded).to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        kept = [p[: int(n)].cpu().numpy() for p, n in zip(parts, sizes, strict=True)]
        return np.concatenate(kept)

    def replicate(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes."""
        if self.size == 1:
            return module
        return DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True
        )


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started; leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(local_rank)
    device = f"cuda:{local_rank}" if has_cuda else "cpu"
    has_bfloat16 = has_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if size == 1:
        yield World(device=device, has_bfloat16=has_bfloat16)
        return
    die_with_parent()
    dist.init_process_group("nccl" if has_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield World(int(os.environ["RANK"]), size, device, has_bfloat16, local_rank == 0)
    finally:
        dist.destroy_process_group()


def die_with_parent() -> None:
    """Ask Linux to end this process when torchrun ends.

    torchrun starts its workers in sessions of their own: a SIGKILL to it or to its process
    group would leave them training on, beside the run that replaces them.
    """
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class StopSignal:
    """Remembers a SIGTERM, so that the run can save at a moment of its own choosing."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Catch SIGTERM inside the block; afterwards it acts as before."""

        def remember(_number: int, _frame: FrameType | None) -> None:
            self.is_asked = True

        before = signal.signal(signal.SIGTERM, remember)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)
