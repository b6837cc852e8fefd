"""Who reads what, and from which origin: pure functions of ids, seed, epoch and world.

Every stochastic choice of the loader is made here by hashing, so that a run can be resumed,
repeated on another number of processes, and tested without files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_HELD_OUT, _ORIGIN, _ORDER = 1, 2, 3  # salts: one stream of chance per question


@dataclass(frozen=True)
class Plan:
    """What one rank reads in one epoch: row ``row`` of file ``file`` at each step and slot.

    Attributes:
        file: Number of the file, shape (steps, slots).
        row: Row in that file, shape (steps, slots).
        weight: float32; 1, or 0 for a repeat that fills the last batch, shape (steps, slots).
    """

    file: np.ndarray
    row: np.ndarray
    weight: np.ndarray

    @property
    def num_steps(self) -> int:
        """Steps of the epoch, the same on every rank."""
        return len(self.file)


def plan_epoch(
    rows: Sequence[np.ndarray],
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Plan:
    """Deal every row to exactly one step and rank.

    Files follow one another in an order drawn anew each epoch, and so do the rows within a
    file, so that few files are open at a time. The global order, and with it each global
    batch, does not depend on ``world_size``; a batch is dealt round-robin to the ranks. The
    last batch, and every batch that does not divide among the ranks, is filled with repeats
    of weight 0: all ranks take equal steps of equal shape and every user counts once.

    Args:
        rows: For each file the rows to use, in canonical file order.
        seed: The run's seed.
        epoch: Number of the epoch.
        batch_size: Global: of all ranks together.
        rank: This process.
        world_size: Number of processes.
    """
    random = np.random.default_rng([_ORDER, seed, epoch])
    order = random.permutation(len(rows))
    dealt = [random.permutation(rows[number]) for number in order]
    row = np.concatenate([np.zeros(0, np.int64), *dealt])
    file = np.repeat(order, [len(part) for part in dealt])
    num_users, num_steps = len(row), -(-len(row) // batch_size)
    slots = -(-batch_size // world_size)
    within = np.arange(slots) * world_size + rank
    position = np.arange(num_steps)[:, None] * batch_size + within
    is_real = (within < batch_size) & (position < num_users)
    # A repeat is of the batch's own first user: its file is open anyway.
    position = np.where(is_real, position, np.arange(num_steps)[:, None] * batch_size)
    return Plan(file[position], row[position], is_real.astype(np.float32))


def hash_users(user_id: np.ndarray) -> np.ndarray:
    """A stable 64-bit number for each id (uint64), the same on every machine and version."""
    digests = b"".join(
        hashlib.blake2b(str(user).encode(), digest_size=8).digest() for user in user_id
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def uniform(hashes: np.ndarray, *salts: int) -> np.ndarray:
    """Numbers in [0, 1) that look random and depend on the hashes and salts alone."""
    state = hashes
    for salt in salts:
        state = _mix(state ^ _mix(np.full_like(state, salt % 2**64)))
    return np.asarray((_mix(state) >> np.uint64(11)) / 2.0**53, np.float64)


def _mix(state: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64; wraps on purpose."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)), np.uint64)


def is_held_out(user_id: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Whether each user is kept out of training; depends on nothing but the three arguments."""
    return np.asarray(uniform(hash_users(user_id), _HELD_OUT, seed) < share)


def first_origins(registered: np.ndarray, first_day: int) -> np.ndarray:
    """First origin each user may be trained at: it exists, and enough days were recorded.

    Args:
        registered: Day numbers, shape (N,).
        first_day: First day with enough recorded history before it.
    """
    return np.asarray(np.maximum(registered, first_day))


def draw_origins(
    hashes: np.ndarray, first: np.ndarray, last: int, *, seed: int, epoch: int
) -> np.ndarray:
    """One origin a user and epoch, evenly over ``first .. last`` (both included).

    Args:
        hashes: From :func:`hash_users`, shape (N,).
        first: First allowed day number of each user, none after ``last``, shape (N,).
        last: Last training origin.
        seed: The run's seed.
        epoch: Number of the epoch.

    Returns:
        int32 day numbers of shape (N,).
    """
    share = uniform(hashes, _ORIGIN, seed, epoch)
    return np.asarray(first + np.floor(share * (last - first + 1)), np.int32)
