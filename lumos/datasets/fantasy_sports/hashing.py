"""Spark's ``xxhash64`` of user ids, so that a user is in the bucket that Spark would choose."""

import numpy as np

_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_P1, _P2, _P3, _P4, _P5 = (np.uint64(prime) for prime in _PRIMES)
_SPARK_SEED = 42


def buckets_of(user_ids: np.ndarray, num_buckets: int) -> np.ndarray:
    """Bucket of each user, ``pmod(xxhash64(user_id), num_buckets)``.

    Args:
        user_ids: Bytes of twelve characters, shape (N,).
        num_buckets: Of the table.

    Returns:
        int64 of shape (N,).
    """
    return xxhash64(user_ids).astype(np.int64) % num_buckets


def xxhash64(user_ids: np.ndarray) -> np.ndarray:
    """XXH64 with Spark's seed of twelve bytes each: one lane of eight and one of four."""
    words = np.ascontiguousarray(user_ids).view("<u4").reshape(-1, 3).astype(np.uint64)
    eight, four = words[:, 0] | words[:, 1] << np.uint64(32), words[:, 2]
    state = np.full(len(words), _SPARK_SEED + 12, np.uint64) + _P5
    state ^= _rotated(eight * _P2, 31) * _P1
    state = _rotated(state, 27) * _P1 + _P4
    state ^= four * _P1
    state = _rotated(state, 23) * _P2 + _P3
    for shift, prime in ((33, _P2), (29, _P3)):
        state ^= state >> np.uint64(shift)
        state *= prime
    return state ^ state >> np.uint64(32)


def _rotated(value: np.ndarray, by: int) -> np.ndarray:
    return value << np.uint64(by) | value >> np.uint64(64 - by)
