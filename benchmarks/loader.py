"""How fast windows come out of a Delta table: Accio, Parquet's own limit, and other loaders.

    python -m benchmarks.loader [--users 1048576] [--rounds 3] [--seconds 20] [--without-peers]

A million users of four years are written once (two minutes). Everyone then delivers windows of
360 + 7 days x 13 columns to one main process. Ours and the *decode limit* (the same columns of the
same row groups, read by pyarrow on one thread and thrown away) take turns; ours has one worker. The
peers follow in the same minutes, in environments of their own, each in several settings; their
windows are compared with ours, byte by byte, before any figure counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks import _worlds as worlds
from benchmarks.peers.race import PeerResult, delivered, differences, our_digests, race
from benchmarks.peers.window import Spec
from lumos.accio.loader import Accio
from lumos.accio.stream import Sampling
from lumos.accio.table import SequenceTable
from lumos.progress import progress
from lumos.settings import Settings

BATCH_SIZE, SEED = 1_024, 7
_DECODED_FILES = 8


def main() -> int:
    """Print the table and, last, one JSON line; 1 if anybody's windows differ from ours."""
    made = argparse.ArgumentParser(prog="benchmarks.loader", description=__doc__.split("\n")[0])
    made.add_argument("--users", type=int, default=1 << 20)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seconds", type=float, default=20, help="of each peer, after its start")
    made.add_argument("--without-peers", action="store_true")
    arguments = made.parse_args()
    table, sampling = worlds.sequences(arguments.users), worlds.sampling()
    # As the peers read it: ids, registration and activity, without attributes.
    table = SequenceTable.open(table.uri, replace(table.columns, static=()), table.version)
    peers: list[PeerResult] = []
    wrong = ""
    found = measure(table, sampling, arguments.rounds)
    if not arguments.without_peers:
        windows = (sampling.history_days, sampling.horizon_days)
        spec = Spec(*windows, sampling.first_origin, sampling.last_origin, SEED)
        with tempfile.TemporaryDirectory(prefix="digests-") as name:
            peers = race(
                table.uri,
                table.version,
                spec,
                seconds=arguments.seconds,
                folder=Path(name),
                home=Settings.from_environment().home,
                batch_size=BATCH_SIZE,
            )
            wrong = compare(table, sampling, peers)
    figures = summary(found, peers, is_equal=not wrong)
    print_tables(figures, peers)
    if wrong:
        Console().print(f"[red]windows differ: {wrong}[/red]")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if wrong else 0


def measure(table: SequenceTable, sampling: Sampling, rounds: int) -> dict[str, float]:
    """Medians of rounds in which everyone takes a turn, windows a second."""
    several = replace(sampling, windows_per_user=4)
    runs: dict[str, list[float]] = {"decode_limit_per_s": [], "windows_per_s": [], "of_4": []}
    with progress("measuring", 3 * rounds) as advance:
        for _ in range(rounds):
            for name, run in (
                ("decode_limit_per_s", lambda: decode(table)),
                ("windows_per_s", lambda: stream(table, sampling)),
                ("of_4", lambda: stream(table, several)),
            ):
                runs[name].append(run())
                advance(note=f"{name} {runs[name][-1]:,.0f}")
    return {name: statistics.median(values) for name, values in runs.items()}


def decode(table: SequenceTable) -> float:
    """Users a second that pyarrow alone decodes on one thread: what no reader can pass."""
    names = table.columns
    wanted = [names.user, names.registered, names.days]
    num_users, started = 0, time.monotonic()
    for file in table.files[:_DECODED_FILES]:
        with pq.ParquetFile(file.path) as parquet:
            for group in range(parquet.num_row_groups):
                decoded = parquet.read_row_group(group, columns=wanted, use_threads=False)
                num_users += decoded.num_rows
    return num_users / (time.monotonic() - started)


def accio(table: SequenceTable, sampling: Sampling) -> Accio:
    """Ours, with one worker; more windows a read take lanes of the same memory."""
    lanes = 64 // sampling.windows_per_user
    return Accio(table, sampling, batch_size=BATCH_SIZE, seed=SEED, num_workers=1, num_lanes=lanes)


def stream(table: SequenceTable, sampling: Sampling) -> float:
    """Windows a second of an epoch, from the first batch on, in this process."""
    batches = iter(accio(table, sampling))
    next(batches)
    started = time.monotonic()
    num_windows = sum(int(batch.weight.sum()) for batch in batches)
    return num_windows / (time.monotonic() - started)


def compare(table: SequenceTable, sampling: Sampling, peers: Iterable[PeerResult]) -> str:
    """What differs between any peer's windows and those of our stream; empty if nothing does."""
    theirs = delivered(peers)
    users = {user for windows in theirs.values() for user in windows}
    ours = our_digests(accio(table, sampling), users)
    told = {name: differences(windows, ours) for name, windows in theirs.items()}
    return "; ".join(f"{name}: {what}" for name, what in told.items() if what)


def summary(
    found: Mapping[str, float], peers: Iterable[PeerResult], *, is_equal: bool
) -> dict[str, object]:
    """The last JSON line."""
    figures: dict[str, object] = {
        "windows_per_s": round(found["windows_per_s"]),
        "windows_per_s_of_4_a_read": round(found["of_4"]),
        "decode_limit_per_s": round(found["decode_limit_per_s"]),
        "share_of_decode_limit": round(found["windows_per_s"] / found["decode_limit_per_s"], 3),
    }
    ran = {f"{peer.name} ({peer.variant})": peer.windows_per_s for peer in peers}
    speeds = {name: speed for name, speed in ran.items() if speed}
    for key, names in (
        ("peer", list(speeds)),
        ("peer_by_rows", [name for name in speeds if "(arrow)" not in name]),
    ):
        if names:
            best = max(names, key=lambda name: speeds[name])
            times = found["windows_per_s"] / speeds[best]
            figures |= {f"best_{key}": best, f"best_{key}_per_s": speeds[best]}
            figures |= {f"times_best_{key}": round(times, 2)}
    return figures | {"results_equal": is_equal if speeds else None}


def print_tables(figures: Mapping[str, object], peers: Iterable[PeerResult]) -> None:
    """The figures for people."""
    console = Console()
    table = Table(title="360 + 7 days x 13 columns, one worker, delivered in one process")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    console.print(table)
    table = Table(title="Other loaders on the same table, two cores")
    for column in ("loader", "windows/s", "first batch s", "peak MiB", "settings"):
        table.add_column(column)
    for peer in peers:
        cells = (peer.windows_per_s, peer.first_batch_s, peer.peak_mib)
        shown = [f"{cell:,}" if cell is not None else "-" for cell in cells]
        name = f"{peer.name} {peer.version} ({peer.variant})"
        table.add_row(name, *shown, peer.error[-200:] or peer.settings)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
