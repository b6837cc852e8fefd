"""A world of a given size: its days, its blocks of users, and where its chance comes from.

Every draw belongs to a stream, and within it to a block of users or to a year of the calendar,
never to a shard or a file. So any part of a world can be made alone, in any order and on any
number of machines, and a larger world begins with the users of a smaller one.
"""

import datetime as dt
from dataclasses import dataclass

import numpy as np

from lumos.dates import day_number

# Users that are drawn together: a block of four years takes some 50 MB while it is made.
BLOCK_USERS = 1024
# One stream of chance for each question.
FIXTURES, PROMOTIONS, PEOPLE, SPELLS, ACTIVITY, AMOUNTS, OFFER_AMOUNTS = range(7)
MAX_USERS = 10**9  # as many as a user id has digits for


@dataclass(frozen=True)
class World:
    """Everything that happened on one platform; two equal worlds hold the same rows.

    ``first_day`` and ``last_day`` are the first registration and the last observed day.
    """

    num_users: int
    seed: int = 0
    first_day: dt.date = dt.date(2021, 1, 1)
    last_day: dt.date = dt.date(2024, 12, 31)

    def __post_init__(self) -> None:
        if not 1 <= self.num_users <= MAX_USERS:
            msg = f"num_users={self.num_users} is not from 1 to {MAX_USERS:,}"
            raise ValueError(msg)
        if self.seed < 0:
            msg = f"seed={self.seed} is negative; choose a whole number from 0"
            raise ValueError(msg)
        if self.first_day > self.last_day:
            msg = f"first_day={self.first_day} lies after last_day={self.last_day}"
            raise ValueError(msg)

    @property
    def first(self) -> int:
        """Day number of the first day."""
        return day_number(self.first_day)

    @property
    def num_days(self) -> int:
        """Days from the first to the last, both included."""
        return day_number(self.last_day) - self.first + 1

    @property
    def num_blocks(self) -> int:
        """Blocks of users; the last one may be short."""
        return -(-self.num_users // BLOCK_USERS)

    def numbers(self, block: int) -> np.ndarray:
        """Numbers of the users of a block, int64."""
        if not 0 <= block < self.num_blocks:
            msg = f"block {block} is not from 0 to {self.num_blocks - 1}"
            raise ValueError(msg)
        first = block * BLOCK_USERS
        return np.arange(first, min(first + BLOCK_USERS, self.num_users))

    def chance(self, stream: int, number: int) -> np.random.Generator:
        """The generator of one stream for one block of users or one year."""
        key = np.array([self.seed, stream << 40 | number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def user_ids(numbers: np.ndarray) -> np.ndarray:
    """Ids such as ``usr000000007``, bytes of shape (N,): in the order of the numbers.

    All have twelve characters, so that text order is number order and writing them needs no loop.
    """
    digits = numbers[:, None] // 10 ** np.arange(8, -1, -1) % 10
    letters = np.empty((len(numbers), 12), np.uint8)
    letters[:, :3] = np.frombuffer(b"usr", np.uint8)
    letters[:, 3:] = digits + ord("0")
    return letters.view("S12")[:, 0]
