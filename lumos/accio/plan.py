"""Who reads what, and when: pure arithmetic on counts, seed, epoch, world and workers.

A *shard* is what is read at a time (a row group), a *sample* one window of one user. An epoch puts
the shards into an order of its own and shuffles the samples of each. That one long row of samples
is cut into ``num_lanes`` equal *lanes*, and the epoch's batches are dealt from all lanes in turn:
position ``p`` of the epoch is sample ``p // num_lanes`` of lane ``p % num_lanes``, and global batch
``g`` is positions ``g * batch_size`` and on. So every batch mixes as many shards as there are
lanes, and its content depends on neither ranks nor workers: these only share out the lanes.

Lane ``l`` belongs to rank ``l % world_size``; the lanes of a rank go to its workers in blocks. A
rank's part of a global batch is the positions on its lanes, in the order of lanes. All ranks take
``ceil(num_samples / batch_size)`` steps; slots that nobody fills (the rest of the last batch, or
lanes that do not divide among the ranks) are empty and weigh nothing, so that no sample is
dropped and none is repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumos.verbs import BadInput

_ORDER, _WITHIN = 3, 8  # salts: the order of the shards, and of the samples in one

READ = np.dtype(
    [
        ("step", "i8"),
        ("lane", "i4"),
        ("sample", "i8"),
        ("shard", "i8"),
        ("start", "i8"),
        ("stop", "i8"),
    ]
)


@dataclass(frozen=True)
class Plan:
    """One epoch of all ranks.

    Attributes:
        shards: Numbers of the shards in the epoch's order, shape (S,).
        ends: Samples up to the end of each of them, shape (S,).
        num_lanes: How many shards are mixed; the most ranks there can be.
        batch_size: Global: of all ranks together.
        seed: The run's seed.
        epoch: Number of the epoch.
    """

    shards: np.ndarray
    ends: np.ndarray
    num_lanes: int
    batch_size: int
    seed: int
    epoch: int

    @property
    def num_samples(self) -> int:
        """Samples of the epoch."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def num_steps(self) -> int:
        """Steps of the epoch, the same on every rank."""
        return -(-self.num_samples // self.batch_size)

    def lanes_of(self, rank: int, world_size: int, worker: int = 0, num_workers: int = 1) -> range:
        """Lanes of a worker of a rank, ascending; none where there are more workers than lanes."""
        num_own = len(range(rank, self.num_lanes, world_size))
        first, last = (num_own * number // num_workers for number in (worker, worker + 1))
        return range(rank + first * world_size, rank + last * world_size, world_size)

    def lane_starts(self) -> np.ndarray:
        """Where each lane begins in the epoch's row of samples, shape (num_lanes + 1,)."""
        lengths = self._taken(np.arange(self.num_lanes), self.num_samples)
        return np.concatenate([[0], np.cumsum(lengths)])

    def slices(self, lanes: range, step: int) -> np.ndarray:
        """First and last (excluded) sample of each lane at a step, shape (len(lanes), 2)."""
        own = np.asarray(lanes, np.int64)
        last = min((step + 1) * self.batch_size, self.num_samples)
        edges = [self._taken(own, position) for position in (step * self.batch_size, last)]
        return np.stack(edges, axis=1)

    def _taken(self, lanes: np.ndarray, position: int) -> np.ndarray:
        """Samples that each lane has given when the epoch is at ``position``."""
        return np.asarray(np.maximum(0, -(-(position - lanes) // self.num_lanes)))

    def num_slots(self, world_size: int) -> int:
        """Rows of every batch of every rank: the most that any rank ever has."""
        # Which lanes a batch begins with repeats after at most num_lanes steps.
        begins = np.unique(np.arange(self.num_lanes) * self.batch_size % self.num_lanes)
        lanes = (begins[:, None] + np.arange(min(self.batch_size, self.num_lanes))) % self.num_lanes
        whole, rest = divmod(self.batch_size, self.num_lanes)
        per_lane = whole + (np.arange(lanes.shape[1]) < rest) if whole else 1
        most = 0
        for begin in lanes:
            held = np.bincount(
                begin % world_size, np.broadcast_to(per_lane, begin.shape), world_size
            )
            most = max(most, int(held.max()))
        return most

    def reads(self, lanes: range, first_step: int = 0) -> np.ndarray:
        """Pieces of shards that these lanes need from a step on, in the order of need.

        Returns:
            Records of ``step`` (when it is needed first), ``lane``, ``sample`` (its first one's
            number in the lane), ``shard``, and ``start`` and ``stop``: the samples wanted, in the
            shard's own shuffled order.
        """
        starts = self.lane_starts()
        begins = self.ends - np.diff(self.ends, prepend=0)
        done = self._taken(np.asarray(lanes, np.int64), first_step * self.batch_size)
        parts = []
        for lane, given in zip(lanes, done.tolist(), strict=True):
            first, last = int(starts[lane]) + given, int(starts[lane + 1])
            if first >= last:
                continue
            low, high = np.searchsorted(self.ends, [first, last - 1], side="right")
            part = np.zeros(high - low + 1, READ)
            begin, end = begins[low : high + 1], self.ends[low : high + 1]
            part["start"] = np.maximum(begin, first) - begin
            part["stop"] = np.minimum(end, last) - begin
            part["sample"] = np.maximum(begin, first) - int(starts[lane])
            part["step"] = (part["sample"] * self.num_lanes + lane) // self.batch_size
            part["lane"], part["shard"] = lane, self.shards[low : high + 1]
            parts.append(part)
        reads = np.concatenate([np.zeros(0, READ), *parts])
        return reads[np.lexsort((reads["lane"], reads["step"]))]

    def order_within(self, shard: int, num_samples: int) -> np.ndarray:
        """The samples of a shard as this epoch shuffles them: a permutation."""
        random = np.random.default_rng([_WITHIN, self.seed, self.epoch, shard])
        return random.permutation(num_samples)

    def numbers(self, read: np.void) -> np.ndarray:
        """Places in the epoch of the samples of a read."""
        sample = int(read["sample"]) + np.arange(int(read["stop"] - read["start"]))
        return np.asarray(sample * self.num_lanes + int(read["lane"]), np.int64)


def plan_epoch(
    counts: Sequence[int] | np.ndarray,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    num_lanes: int,
) -> Plan:
    """Put the samples of all shards into the epoch's order.

    Costs O(S log S) time and O(S) memory; asking a worker's reads costs O(S / num_lanes) a lane.

    Args:
        counts: Samples of each shard: live users times windows a user, in canonical order.
        seed: The run's seed.
        epoch: Number of the epoch.
        batch_size: Global.
        num_lanes: How many shards are mixed.
    """
    counts = np.asarray(counts, np.int64)
    order = np.random.default_rng([_ORDER, seed, epoch]).permutation(len(counts))
    order = order[counts[order] > 0]
    return Plan(order, np.cumsum(counts[order]), num_lanes, batch_size, seed, epoch)


def check_world(num_lanes: int, world_size: int) -> None:
    """Refuse more ranks than lanes: some would have nothing to do.

    Raises:
        BadInput: Says how many lanes are needed.
    """
    if world_size > num_lanes:
        msg = (
            f"{world_size} ranks cannot share {num_lanes} lanes; give num_lanes={world_size} or "
            "a multiple of it (and know that it changes the order of an epoch)"
        )
        raise BadInput(msg)
