"""The gradient of a global batch, however many processes and micro-batches share it.

What counts for each term of the loss is known before the network runs, so it is summed over all
of them first. Then each divides its own sums by everybody's counts, and gradients add up to
those of one process that had the whole batch at once, up to the order of additions.

Shape suffixes: N terms of the loss.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lumos.accio.batch import RaggedBatch
from lumos.accio.dense import Batch
from lumos.model.loss import Objective
from lumos.train.distributed import World


def micro_batches(ragged: RaggedBatch, number: int) -> list[RaggedBatch]:
    """The batch in ``number`` parts of nearly one size; a short batch has fewer of them."""
    bounds = (len(ragged) * part // number for part in range(number + 1))
    return [ragged.part(start, stop) for start, stop in pairwise(bounds) if start < stop]


def add_gradients(
    objective: Objective,
    batches: Sequence[Batch],
    counts_N: Tensor,
    world: World,
    *,
    replica: nn.Module,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the global batch's loss to ``.grad``, the same on all processes.

    Args:
        objective: The loss.
        batches: This process's micro-batches, one forward and backward pass each.
        counts_N: What counts in the micro-batches of all processes.
        world: All processes.
        replica: The objective as the processes share it.

    Returns:
        This process's losses, summed, and log sigma^2, both without gradient, of shape (N,).
    """
    is_seen_N, nothing_N = counts_N > 0, torch.zeros_like(counts_N)
    sums_N, log_variance_N = torch.zeros((2, len(counts_N)), device=counts_N.device)
    for number, batch in enumerate(batches):
        is_last = number + 1 == len(batches)
        with _waiting(replica, is_last):
            with world.autocast():
                own_N, variance_N = replica(batch)
            # DDP averages gradients over processes; times their number it is the sum.
            losses_N = own_N * world.size / counts_N.clamp(min=1)
            loss = objective.total(losses_N, variance_N, is_seen_N)
            if not is_last:
                # The total is a constant plus a multiple of each loss: micro-batches add up to
                # the whole batch if all but one leave the constant (eq. 10: log sigma^2) out.
                loss = loss - objective.total(nothing_N, variance_N, is_seen_N)
            loss.backward()  # type: ignore[no-untyped-call]
        sums_N += own_N.detach()
        log_variance_N.copy_(variance_N.detach())
    return sums_N, log_variance_N


def _waiting(replica: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Processes exchange gradients once a step, after the last micro-batch."""
    if is_last or not isinstance(replica, DistributedDataParallel):
        return nullcontext()
    return replica.no_sync()
