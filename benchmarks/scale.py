"""What the platform costs at the size of a large one.

    python -m benchmarks.scale [PART ...] [--users 1000000] [--buckets 20] [--lake FOLDER]

Parts are ``plan``, ``loader`` and ``advance``; all of them if none is named. ``plan`` plans an
epoch of 100,000 files of 16 row groups for every worker of 64 ranks x 8 workers, one after another.
``loader`` starts a process with one worker on 100 thousand users and on all of them: seconds from
opening the table to the first batch, imports not counted, and the worker's peak of resident memory
over an epoch. ``advance`` writes the tables of a made-up platform of four years, builds
``sequences`` for the day before the last one, and then for the last day twice: from all of activity
(Spark) and from the day before. The two tables are compared user by user before their times are.
With ``--lake`` these tables are kept there and found again; otherwise they are temporary.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from benchmarks import _worlds as worlds
from lumos import ledger
from lumos.accio.plan import plan_epoch
from lumos.aggregate.sequences import sequences
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World, recipe
from lumos.datasets.fantasy_sports.write import write_tables
from lumos.delta import data_files
from lumos.overrides import override
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request

PARTS = ("plan", "loader", "advance")
_USERS_A_BUCKET = 50_000
_FILES, _ROW_GROUPS, _RANKS, _WORKERS = 100_000, 16, 64, 8
_FEW_USERS = 100_000


def main() -> int:
    """Print a table and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    made.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    made.add_argument("--users", type=int, default=1_000_000)
    made.add_argument("--buckets", type=int, help=f"default: {_USERS_A_BUCKET:,} users each")
    made.add_argument("--lake", type=Path)
    arguments = made.parse_args()
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        made.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found: dict[str, float] = {"users": arguments.users}
    if "plan" in parts:
        found |= plan()
    if "loader" in parts:
        found |= loader(arguments.users)
    if "advance" in parts:
        with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as scratch:
            lake = (arguments.lake or Path(scratch) / "lake").absolute()
            # The home is the user's own: there are Spark's JARs.
            settings = Settings.from_environment({**os.environ, "LUMOS_LAKE": str(lake)})
            buckets = arguments.buckets or max(2, arguments.users // _USERS_A_BUCKET)
            shaped = override(recipe(), {"num_buckets": buckets})
            found |= advance(settings, shaped, World(arguments.users), Path(scratch))
    table = Table(title=f"{arguments.users:,} users")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in found.items():
        table.add_row(figure, f"{value:,}")
    Console().print(table)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def plan() -> dict[str, float]:
    """Seconds to plan an epoch for every worker there is."""
    counts = np.full(_FILES * _ROW_GROUPS, 1_024)
    started = time.monotonic()
    epoch = plan_epoch(counts, seed=0, epoch=0, batch_size=65_536, num_lanes=_RANKS * _WORKERS)
    num_samples = 0
    for rank in range(_RANKS):
        for worker in range(_WORKERS):
            reads = epoch.reads(epoch.lanes_of(rank, _RANKS, worker, _WORKERS))
            num_samples += int((reads["stop"] - reads["start"]).sum())
    seconds = time.monotonic() - started
    if num_samples != counts.sum():
        raise RuntimeError(f"{num_samples} samples were planned of {counts.sum()}")
    return {"plan_s": round(seconds, 2)}


def loader(num_users: int) -> dict[str, float]:
    """First batch and worker memory at both sizes."""
    found: dict[str, float] = {}
    for size, name in ((_FEW_USERS, "100k"), (num_users, "1m")):
        worlds.write(size)
        command = [sys.executable, "-m", "benchmarks._first_batch", str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        found |= {f"{figure}_{name}": value for figure, value in figures.items()}
    return found | {"first_batch_s": found["first_batch_s_1m"]}


def advance(settings: Settings, shaped: Recipe, world: World, scratch: Path) -> dict[str, float]:
    """Seconds of both builders for the last day of a world, and whether their tables agree."""
    report = write_tables(
        settings,
        shaped,
        world,
        scratch=scratch / "world",
        names=["activity", "users"],
        processes=os.cpu_count() or 1,
    )
    before = world.last_day - dt.timedelta(days=1)
    for day in (before, world.last_day):
        # The world's own entry is of the verb that wrote it; both dates read the same tables.
        request = Request(verb="land", recipe=shaped, date=day, settings=settings)
        ledger.record(
            request,
            request.report(tables=report.tables),
            inputs={"world": repr(world)},
            first_day=world.first_day,
        )
    _timed(settings, shaped, before, force=True)
    # Advance first: it may not start from the other one's result.
    advanced, advance_s = _timed(settings, shaped, world.last_day, force=False)
    rebuilt, rebuild_s = _timed(settings, shaped, world.last_day, force=True)
    if advanced.details["builder"] != "advance":
        raise RuntimeError(f"sequences did not advance: {advanced.details['why']}")
    uri = table_uri(settings, shaped, "sequences")
    versions = [run.tables[0].version for run in (rebuilt, advanced)]
    declared = tables(shaped)["sequences"]
    columns = [name for name in declared.column_names if name not in declared.partition]
    return {
        "users": world.num_users,
        "buckets": shaped.num_buckets,
        "cores": os.cpu_count() or 1,
        "rebuild_s": round(rebuild_s, 1),
        "advance_s": round(advance_s, 1),
        "advance_share_of_rebuild": round(advance_s / rebuild_s, 4),
        "results_equal": are_equal(uri, *versions, columns),
    }


def _timed(
    settings: Settings, shaped: Recipe, date: dt.date, *, force: bool
) -> tuple[Report, float]:
    request = Request(verb="sequences", recipe=shaped, date=date, settings=settings, force=force)
    started = time.monotonic()
    report = sequences(request)
    return report, time.monotonic() - started


def are_equal(uri: str, one: int, other: int, columns: list[str]) -> bool:
    """Whether two versions of ``sequences`` hold the same users, in the same order, bit for bit."""
    files = [
        {file.partition["bucket"]: f"{uri}/{file.path}" for file in data_files(table)}
        for table in (DeltaTable(uri, version=version) for version in (one, other))
    ]
    if files[0].keys() != files[1].keys():
        return False
    for bucket in files[0]:
        # Spark keeps the bucket in the file too.
        first, second = (
            pq.ParquetFile(paths[bucket]).read(columns=columns).combine_chunks() for paths in files
        )
        if not first.equals(second.cast(first.schema)):
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
