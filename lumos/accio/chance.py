"""Every choice that chance makes, by hashing: a pure function of the user, a seed and an epoch.

So a run can be resumed, repeated on another number of processes or workers, and tested without
files; and no generator's state has to be carried anywhere.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lumos.hashing import hash_ids

# Salts: one stream of chance a question. Others: scaler 4, validate 5, evaluate 6, calibrate 10,
# holdout 11.
_HELD_OUT, _ORIGIN, _INNER_ORIGIN = 1, 2, 7


@dataclass(frozen=True)
class Chance:
    """Which of a user's origins: of a run, of an epoch, and of the windows drawn in it.

    Attributes:
        seed: The run's seed.
        epoch: Number of the epoch.
        draw: Which of the user's windows of the epoch, one number or shape (N,).
    """

    seed: int
    epoch: int
    draw: int | np.ndarray = 0


def hash_users(user_id: np.ndarray | pa.Array) -> np.ndarray:
    """A stable 64-bit number for each id, the same on every machine and version.

    Args:
        user_id: N strings, as objects or as an Arrow array.

    Returns:
        uint64 of shape (N,).
    """
    return hash_ids(pa.array(user_id, pa.string()))


def uniform(hashes: np.ndarray, *salts: int | np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) that look random and depend on the hashes and salts alone."""
    state = hashes
    for salt in salts:
        numbers = np.asarray(salt, np.int64).astype(np.uint64)
        state = _mix(state ^ _mix(np.broadcast_to(numbers, state.shape)))
    return np.asarray((_mix(state) >> np.uint64(11)) / 2.0**53, np.float64)


def _mix(state: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64; wraps on purpose."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)), np.uint64)


def is_held_out(user_id: np.ndarray | pa.Array, share: float, seed: int) -> np.ndarray:
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
    hashes: np.ndarray,
    first: np.ndarray,
    last: int,
    chance: Chance,
) -> np.ndarray:
    """One origin a user, epoch and draw, evenly over ``first .. last`` (both included).

    Args:
        hashes: From :func:`hash_users`, shape (N,).
        first: First allowed day number of each user, none after ``last``, shape (N,).
        last: Last training origin.
        chance: Which of a user's origins.

    Returns:
        int32 day numbers of shape (N,).
    """
    share = uniform(hashes, _ORIGIN, chance.seed, chance.epoch, chance.draw)
    return np.asarray(first + np.floor(share * (last - first + 1)), np.int32)


def draw_inner_origins(
    hashes: np.ndarray,
    span: tuple[np.ndarray, np.ndarray],
    num_origins: int,
    chance: Chance,
    days_between: int = 1,
) -> np.ndarray:
    """Origins inside a span, one from each of ``num_origins`` equal parts of it.

    Args:
        hashes: From :func:`hash_users`, shape (N,).
        span: First allowed origin of each span, and its last day, which always is the last
            origin; each of shape (N,).
        num_origins: M.
        chance: Which of a user's origins.
        days_between: Origins are whole multiples of so many days before the last.

    Returns:
        int32 day numbers of shape (N, M), ascending; a span that has fewer repeats some.
    """
    first, last = (end[:, None] for end in span)
    part = np.arange(num_origins)
    salts = (chance.seed, chance.epoch, np.asarray(chance.draw)[..., None], part)
    share = uniform(np.repeat(hashes[:, None], num_origins, 1), _INNER_ORIGIN, *salts)
    number = (last - first) // days_between + 1
    start, stop = part * number // num_origins, (part + 1) * number // num_origins
    place = start + np.floor(share * (stop - start))
    place[:, -1:] = number - 1
    return np.asarray(last - (number - 1 - place) * days_between, np.int32)
