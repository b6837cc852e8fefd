"""How a table's users are dealt to shards, and shards to processes: pure arithmetic."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumos.config import ScoringConfig


@dataclass(frozen=True)
class Piece:
    """Users ``start`` .. ``stop - 1`` of a row group of `sequences`."""

    row_group: int
    start: int
    stop: int


def count_shards(num_users: int, scoring: ScoringConfig) -> int:
    """Enough that none is too large for memory, and as many as the recipe wants at least."""
    return max(scoring.num_shards, -(-num_users // scoring.users_per_shard))


def pieces(num_users: Sequence[int], num_shards: int) -> list[list[Piece]]:
    """Deal the table's users to shards of equal size, in canonical order.

    A shard is a run of consecutive users, so that each row group is read by few shards however
    many shards and row groups there are.

    Args:
        num_users: Of each row group.
        num_shards: How many lists to return.
    """
    ends = np.cumsum(num_users, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    bounds = [total * shard // num_shards for shard in range(num_shards + 1)]
    return [_between(num_users, ends, *bound) for bound in itertools.pairwise(bounds)]


def _between(num_users: Sequence[int], ends: np.ndarray, first: int, last: int) -> list[Piece]:
    """The pieces that hold users ``first`` .. ``last - 1`` of the table."""
    found = []
    row_group = int(np.searchsorted(ends, first, side="right"))
    while row_group < len(ends) and (begin := int(ends[row_group]) - num_users[row_group]) < last:
        start, stop = max(first, begin), min(last, int(ends[row_group]))
        if start < stop:
            found.append(Piece(row_group, start - begin, stop - begin))
        row_group += 1
    return found


def of_rank(num_shards: int, rank: int, num_ranks: int) -> range:
    """Numbers of the shards that one of several processes scores: every ``num_ranks``-th."""
    return range(rank, num_shards, num_ranks)


def in_few(counts: Sequence[int], most: int) -> list[int]:
    """Counts of neighbours added up, so that there are at most so many numbers."""
    size = -(-len(counts) // most) or 1
    return [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
