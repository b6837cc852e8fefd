"""What a computation loses to one busy process on the same machine."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that wants one core all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def alone_and_beside(speed: Callable[[], float], rounds: int, *, unit: str) -> dict[str, object]:
    """Medians of a speed alone and beside a busy process, measured in turn, and their ratio."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(speed())
        with busy_process():
            beside.append(speed())
    found = {"alone": statistics.median(alone), "beside": statistics.median(beside)}
    return {
        **{f"{unit}_{name}": round(value, 1) for name, value in found.items()},
        "beside_share": round(found["beside"] / found["alone"], 3),
    }
