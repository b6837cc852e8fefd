"""One loader with one worker, timed in a process of its own: what `benchmarks.scale` starts.

    python -m benchmarks._first_batch USERS

Prints seconds from opening the table to the first batch, imports not counted, and the worker's peak
of resident memory over an epoch, as one JSON line.
"""

import json
import re
import sys
import time
from pathlib import Path

import psutil

from benchmarks import _worlds as worlds
from lumos.accio.loader import Accio
from lumos.accio.table import SequenceTable


def main(num_users: int) -> None:
    """Measure."""
    table = worlds.sequences(num_users)
    started = time.monotonic()
    opened = SequenceTable.open(table.uri, table.columns, table.version)
    batches = Accio(opened, worlds.sampling(), batch_size=1_024, num_workers=1)
    first_batch_s, peak = 0.0, 0
    for number, _ in enumerate(batches):
        first_batch_s = first_batch_s or time.monotonic() - started
        if number % 50 == 0:
            children = psutil.Process().children(recursive=True)
            peak = max([peak, *(peak_kib(child.pid) for child in children)])
    found = {"first_batch_s": round(first_batch_s, 2), "worker_peak_mib": round(peak / 1024)}
    sys.stdout.write(json.dumps(found) + "\n")


def peak_kib(pid: int) -> int:
    """Most resident memory that a process ever had, shared pages counted as its own."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
