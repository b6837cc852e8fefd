"""How fast the made-up platform is written, and how much room it takes.

    python -m benchmarks.fantasy_sports [--users 50000] [--buckets 4] [--lake FOLDER]

Times playing alone (users to activity in memory) on a few blocks, then writes all contract tables
of a world of four years. With ``--lake`` they are kept there, ready for ``lumos train``; otherwise
they go to a temporary folder.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lumos.datasets.fantasy_sports import World, recipe
from lumos.datasets.fantasy_sports.activity import activity_of
from lumos.datasets.fantasy_sports.context import context_of
from lumos.datasets.fantasy_sports.users import users_of
from lumos.datasets.fantasy_sports.write import TABLES, write_tables
from lumos.overrides import override
from lumos.settings import Settings
from lumos.verbs import Report

_PLAYED_BLOCKS = 8


def main() -> int:
    """Print the table and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.fantasy_sports", description=__doc__)
    made.add_argument("--users", type=int, default=50_000)
    made.add_argument("--buckets", type=int, default=4)
    made.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    made.add_argument("--processes", type=int, default=1)
    made.add_argument("--lake", type=Path)
    arguments = made.parse_args()
    world = World(arguments.users)
    found = play(world)
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        lake = arguments.lake or Path(name)
        settings = Settings.from_environment({"LUMOS_HOME": name, "LUMOS_LAKE": str(lake)})
        shaped = override(recipe(), {"num_buckets": arguments.buckets})
        started = time.monotonic()
        report = write_tables(
            settings,
            shaped,
            world,
            scratch=Path(name),
            names=arguments.tables,
            processes=arguments.processes,
        )
        seconds = time.monotonic() - started
    found |= {"processes": arguments.processes, **written(report, world, seconds)}
    table = Table(title=f"{world.num_users:,} users, {world.num_days:,} days")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in found.items():
        table.add_row(figure, f"{value:,}")
    Console().print(table)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def play(world: World) -> dict[str, float]:
    """Users a second, and the share of the days since registration that are active."""
    context_of(world)
    activity_of(world, users_of(world, 0))  # a warm-up: holidays are looked up once
    num_users = num_active = num_days = 0
    started = time.process_time()
    for block in range(min(_PLAYED_BLOCKS, world.num_blocks)):
        users = users_of(world, block)
        num_users += len(users)
        num_active += len(activity_of(world, users).days)
        num_days += int((world.first + world.num_days - users.registered).sum())
    seconds = time.process_time() - started
    return {
        "users_played_per_s": round(num_users / seconds),
        "active_share": round(num_active / num_days, 4),
        "active_days_per_user": round(num_active / num_users, 1),
    }


def written(report: Report, world: World, seconds: float) -> dict[str, float]:
    """Users a second of the whole writer, bytes a user of each table, and peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "users_written_per_s": round(world.num_users / seconds),
        **{
            f"{name}_bytes_per_user": round(size / world.num_users, 1)
            for name, size in report.details["bytes"].items()
        },
        "peak_mb": round(peak),
    }


if __name__ == "__main__":
    sys.exit(main())
