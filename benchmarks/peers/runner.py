"""What every peer's script does alike: read its arguments, count windows, report one JSON line."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from benchmarks.peers.window import Spec, Windows, digests

CORES = 2
_USERS_COMPARED = 5_000


def parser() -> argparse.ArgumentParser:
    """The command line that :mod:`benchmarks.peers.race` writes."""
    made = argparse.ArgumentParser()
    made.add_argument("--uri", required=True)
    made.add_argument("--version", type=int, required=True)
    made.add_argument("--history", type=int, required=True)
    made.add_argument("--horizon", type=int, required=True)
    made.add_argument("--first-origin", type=int, required=True, help="day number")
    made.add_argument("--last-origin", type=int, required=True, help="day number")
    made.add_argument("--seed", type=int, required=True)
    made.add_argument("--batch-size", type=int, default=1024)
    made.add_argument("--seconds", type=float, required=True, help="limit after the first batch")
    made.add_argument("--digests", type=Path, required=True, help="JSON file to write")
    made.add_argument("--variant", default="", help="other settings, for those who doubt ours")
    return made


def spec_of(arguments: argparse.Namespace) -> Spec:
    """The windows asked for."""
    return Spec(
        history_days=arguments.history,
        horizon_days=arguments.horizon,
        first_origin=arguments.first_origin,
        last_origin=arguments.last_origin,
        seed=arguments.seed,
    )


def main(
    package: str,
    variants: dict[str, str],
    batches: Callable[[argparse.Namespace, Spec], Iterator[Windows]],
) -> int:
    """Time ``batches`` and print the report; the first variant is the one that counts.

    Windows are counted from the first batch on, so that no peer pays for its start; the digests
    are made after the clock has stopped.
    """
    arguments = parser().parse_args()
    arguments.variant = arguments.variant or next(iter(variants))
    if arguments.variant not in variants:
        sys.exit(f"no variant {arguments.variant!r} of {package}; there are {', '.join(variants)}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    spec = spec_of(arguments)
    started = time.monotonic()
    stream = batches(arguments, spec)
    kept, num_windows, last = [], 0, 0.0
    first = next(stream)
    first_at = time.monotonic()
    for batch in chain([first], stream):
        last = time.monotonic()
        num_windows += len(batch)
        if sum(map(len, kept)) < _USERS_COMPARED:
            kept.append(batch)
        if last - first_at > arguments.seconds:
            break
    seconds = last - first_at
    report = {
        "name": package,
        "version": version(package),
        "settings": variants[arguments.variant],
        "variant": arguments.variant,
        "windows": num_windows,
        "seconds": round(seconds, 3),
        "windows_per_s": round((num_windows - len(first)) / seconds) if seconds else None,
        "first_batch_s": round(first_at - started, 2),
    }
    found: dict[str, str] = {}
    for batch in kept:
        found |= digests(batch, spec.num_days)
    arguments.digests.write_text(json.dumps(found))
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    return 0
