"""Spark's ``xxhash64``: of user ids, for the bucket that Spark would choose, and of whole rows."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_P1, _P2, _P3, _P4, _P5 = (np.uint64(prime) for prime in _PRIMES)
_SPARK_SEED = np.uint64(42)
_STRIPE = 32


def buckets_of(user_ids: pa.Array, num_buckets: int) -> np.ndarray:
    """Bucket of each user, ``pmod(xxhash64(user_id), num_buckets)``.

    Args:
        user_ids: Strings of any length, without nulls, N of them.
        num_buckets: Of the table.

    Returns:
        int64 of shape (N,).
    """
    buckets: np.ndarray = hash_ids(user_ids).astype(np.int64) % num_buckets
    return buckets


def hash_rows(rows: pa.Table) -> np.ndarray:
    """Spark's ``xxhash64(first column, second column, ...)`` of each row.

    Every column is hashed with what came out before it as the seed; a null changes nothing.

    Args:
        rows: Columns of strings, doubles and dates, N rows.

    Returns:
        uint64 of shape (N,).

    Raises:
        TypeError: A column of another type.
    """
    hashed = np.full(rows.num_rows, _SPARK_SEED)
    for column in rows.columns:
        cells = column.combine_chunks()
        valid = cells.is_valid().to_numpy(zero_copy_only=False)
        if valid.all():
            hashed = _hash_column(cells, hashed)
        else:
            hashed[valid] = _hash_column(cells.drop_null(), hashed[valid])
    return hashed


def _hash_column(cells: pa.Array, seed_N: np.ndarray) -> np.ndarray:
    if pa.types.is_string(cells.type):
        return hash_ids(cells, seed_N)
    if pa.types.is_float64(cells.type):
        # As Java sees them: one zero, one NaN.
        values = cells.to_numpy() + 0.0
        values[np.isnan(values)] = np.nan
        return xxhash64(values.astype("<f8").view(np.uint8).reshape(-1, 8), seed_N)
    if pa.types.is_date32(cells.type):
        days = pc.cast(cells, pa.int32()).to_numpy().astype("<i4")
        return xxhash64(days.view(np.uint8).reshape(-1, 4), seed_N)
    msg = f"a column of type {cells.type}, expected string, double or date"
    raise TypeError(msg)


def hash_ids(user_ids: pa.Array, seed_N: np.ndarray | None = None) -> np.ndarray:
    """Spark's ``xxhash64`` of each id.

    Args:
        user_ids: Strings of any length, without nulls, N of them.
        seed_N: uint64 of shape (N,); Spark's own seed if not given.

    Returns:
        uint64 of shape (N,).
    """
    ids = user_ids.cast(pa.large_binary())
    _, offsets, data = ids.buffers()
    edges = np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    characters = np.frombuffer(data if data is not None else b"", np.uint8)
    lengths = np.diff(edges)
    hashed = np.empty(len(ids), np.uint64)
    # Ids of one length are hashed together: there are few lengths, and no loop over users.
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        seed = None if seed_N is None else seed_N[same]
        hashed[same] = xxhash64(characters[edges[same][:, None] + np.arange(length)], seed)
    return hashed


def xxhash64(texts: np.ndarray, seed_N: np.ndarray | None = None) -> np.ndarray:
    """XXH64.

    Args:
        texts: uint8 of shape (N, L): N texts of L bytes each.
        seed_N: uint64 of shape (N,); Spark's seed if not given.

    Returns:
        uint64 of shape (N,).
    """
    number, length = texts.shape
    seed = np.full(number, _SPARK_SEED) if seed_N is None else seed_N
    state = seed + _P5
    start = length // _STRIPE * _STRIPE
    if start:
        state = _stripes(_words(texts[:, :start], "<u8"), seed)
    state += np.uint64(length)
    eights = (length - start) // 8
    for word in _words(texts[:, start : start + 8 * eights], "<u8").T:
        state = _rotated(state ^ _rotated(word * _P2, 31) * _P1, 27) * _P1 + _P4
    start += 8 * eights
    if length - start >= 4:
        (word,) = _words(texts[:, start : start + 4], "<u4").T
        state = _rotated(state ^ word * _P1, 23) * _P2 + _P3
        start += 4
    for byte in texts[:, start:].astype(np.uint64).T:
        state = _rotated(state ^ byte * _P5, 11) * _P1
    for shift, prime in ((33, _P2), (29, _P3)):
        state ^= state >> np.uint64(shift)
        state *= prime
    return state ^ state >> np.uint64(32)


def _stripes(words: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The state after all whole stripes of four lanes each."""
    # Wrapped around in Python: numpy warns of it in scalars, although not in arrays.
    starts = (_PRIMES[0] + _PRIMES[1], _PRIMES[1], 0, -_PRIMES[0])
    lanes = [seed + np.uint64(start % 2**64) for start in starts]
    for place, word in enumerate(words.T):
        lanes[place % 4] = _rotated(lanes[place % 4] + word * _P2, 31) * _P1
    turned = [_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)]
    state: np.ndarray = np.sum(turned, axis=0)
    for lane in lanes:
        state = (state ^ _rotated(lane * _P2, 31) * _P1) * _P1 + _P4
    return state


def _words(texts: np.ndarray, kind: str) -> np.ndarray:
    """Bytes as words, little end first; shape (N, words), uint64."""
    return np.ascontiguousarray(texts).view(kind).astype(np.uint64)


def _rotated(value: np.ndarray, by: int) -> np.ndarray:
    return value << np.uint64(by) | value >> np.uint64(64 - by)
