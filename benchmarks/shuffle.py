"""How well an epoch is mixed, when the table lies in the worst order there is.

    python -m benchmarks.shuffle [--users 1048576] [--batch 1024]

Users are numbered in the order in which they are stored, as if that order were what the model has
to learn (sorted by their future, say). A good shuffle makes a batch's mean number vary as it would
by drawing users at random: *variance ratio* 1. A bad one gives batches of neighbours: the ratio
goes up to the batch size. Also counted: row groups a batch draws from, and how alike two epochs
are. Pure planning, no files; Accio's lanes beside a shuffle buffer over files in random order, as
most streaming loaders have it, of the same memory.
"""

import argparse
import json
import sys
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from lumos.accio.plan import plan_epoch
from lumos.tables import ROW_GROUP_USERS

_LANES = (1, 8, 32, 64, 256)
_GROUPS_A_FILE = 16


def main() -> int:
    """Print the table and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.shuffle", description=__doc__.split("\n")[0])
    made.add_argument("--users", type=int, default=1 << 20)
    made.add_argument("--batch", type=int, default=1024)
    arguments = made.parse_args()
    orders = {f"lanes_{n}": lambda e, n=n: by_lanes(arguments.users, n, e) for n in _LANES}
    orders |= {
        f"buffer_of_{n}_row_groups": lambda e, n=n: by_buffer(arguments.users, n, e)
        for n in _LANES[1:]
    }
    orders["storage_order"] = lambda _: np.arange(arguments.users)
    orders["all_at_random"] = lambda e: np.random.default_rng(e).permutation(arguments.users)
    shown = Table(
        title=f"{arguments.users:,} users in the worst order, batches of {arguments.batch}"
    )
    for column in ("order", "variance ratio", "row groups a batch", "likeness of two epochs"):
        shown.add_column(column, justify="right")
    figures = {}
    for name, order in orders.items():
        first, second = order(0), order(1)
        assert np.array_equal(np.sort(first), np.arange(arguments.users)), "not every user once"
        ratio = variance_ratio(first, arguments.batch)
        mixed = row_groups_a_batch(first, arguments.batch)
        alike = likeness(first, second)
        shown.add_row(name, f"{ratio:,.2f}", f"{mixed:,.1f}", f"{alike:.3f}")
        figures[name] = {"variance_ratio": round(ratio, 3), "row_groups_a_batch": round(mixed, 1)}
        figures[name] |= {"likeness": round(alike, 4)}
    Console().print(shown)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def by_lanes(num_users: int, num_lanes: int, epoch: int) -> np.ndarray:
    """Users in the order of Accio's epoch."""
    starts = np.arange(0, num_users, ROW_GROUP_USERS)
    counts = np.diff(np.append(starts, num_users))
    plan = plan_epoch(counts, seed=0, epoch=epoch, batch_size=1024, num_lanes=num_lanes)
    order = np.empty(num_users, np.int64)
    for read in plan.reads(range(num_lanes)):
        shard = int(read["shard"])
        own = plan.order_within(shard, int(counts[shard]))[read["start"] : read["stop"]]
        order[plan.numbers(read)] = starts[shard] + own
    return order


def by_buffer(num_users: int, num_groups: int, epoch: int) -> np.ndarray:
    """Files in random order, through a buffer from which the next user is drawn at random."""
    random = np.random.default_rng([1, epoch])
    file_users = ROW_GROUP_USERS * _GROUPS_A_FILE
    size = ROW_GROUP_USERS * num_groups

    def stored() -> Iterator[int]:
        for file in random.permutation(-(-num_users // file_users)).tolist():
            yield from range(file * file_users, min((file + 1) * file_users, num_users))

    buffer: list[int] = []
    order = []
    places = random.integers(0, size, num_users).tolist()
    for user in stored():
        if len(buffer) < size:
            buffer.append(user)
            continue
        place = places[len(order)]
        order.append(buffer[place])
        buffer[place] = user
    return np.array([*order, *random.permutation(buffer)])


def variance_ratio(order: np.ndarray, batch: int) -> float:
    """Variance of the batches' mean place, over that of batches drawn at random."""
    whole = order[: len(order) // batch * batch].reshape(-1, batch)
    return float(whole.mean(axis=1).var() / (order.var() / batch))


def row_groups_a_batch(order: np.ndarray, batch: int) -> float:
    """Different row groups in a batch, on average."""
    whole = order[: len(order) // batch * batch].reshape(-1, batch) // ROW_GROUP_USERS
    return float(np.mean([len(np.unique(row)) for row in whole]))


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the users' places in two epochs."""
    return float(np.corrcoef(np.argsort(first), np.argsort(second))[0, 1])


if __name__ == "__main__":
    sys.exit(main())
