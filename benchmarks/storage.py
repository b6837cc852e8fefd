"""What a training set costs to keep: users' sequences, and the exploded windows they replace.

    python -m benchmarks.storage [--users 131072]

Four years of users who are active on one day in ten. `sequences` is measured whole, from the Delta
log; exploded windows (360 + 7 days x 13 columns of each sample written out, without the calendar)
on a part of the users, one window each, with the same compression. A training draws a new window
of each user every epoch, so it would need one for each day of the origins it allows.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from benchmarks import _worlds as worlds
from lumos.accio.loader import Accio
from lumos.accio.table import SequenceTable

_EXPLODED_USERS = 4_096


def main() -> int:
    """Print the table and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.storage", description=__doc__.split("\n")[0])
    made.add_argument("--users", type=int, default=131_072)
    arguments = made.parse_args()
    table = worlds.sequences(arguments.users)
    found = measure(table)
    shown = Table(title=f"{arguments.users:,} users, four years")
    shown.add_column("figure")
    shown.add_column("value", justify="right")
    for name, value in found.items():
        shown.add_row(name, f"{value:,}")
    Console().print(shown)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def measure(table: SequenceTable) -> dict[str, float]:
    """Bytes a user of both, and how active the users are."""
    actions = pa.table(DeltaTable(table.uri, table.version).get_add_actions())
    size = sum(actions["size_bytes"].to_pylist())
    num_days, num_existing = 0, 0
    last = worlds.sampling().last_origin + worlds.sampling().horizon_days
    for users in table.users():
        num_days += len(users.days)
        num_existing += int((last - users.registered + 1).sum())
    exploded = exploded_bytes(table)
    return {
        "bytes_per_user": round(size / table.num_users, 1),
        "active_share": round(num_days / num_existing, 4),
        "active_days_per_user": round(num_days / table.num_users, 1),
        "exploded_bytes_per_window": round(exploded, 1),
        "exploded_windows_for_the_same": round(size / table.num_users / exploded, 2),
    }


def exploded_bytes(table: SequenceTable) -> float:
    """Bytes of one dense window in Parquet."""
    loader = Accio(table, worlds.sampling(), batch_size=_EXPLODED_USERS)
    batch = next(iter(loader))
    dense = batch.windows.dense
    columns = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(dense[:, :, number]).ravel()), dense.shape[1]
        )
        for number, name in enumerate(table.columns.activity)
    }
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        path = Path(name) / "windows.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")
        return path.stat().st_size / len(batch)


if __name__ == "__main__":
    sys.exit(main())
