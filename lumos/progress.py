"""Progress of long work: a bar for people at a terminal, a line now and then in a task's log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import Progress

log = logging.getLogger("lumos")
_LOG_EVERY_SECONDS = 10.0


class Advance(Protocol):
    """Call it when ``steps`` more are done; ``note`` says what is worth seeing beside them."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Report the steps."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show how far ``total`` steps are, on stderr."""
    if sys.stderr.isatty():
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps=1, note="": bar.update(
                task, advance=steps, description=f"{description} {note}".strip()
            )
        return
    started = last = time.monotonic()
    done = 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS or done >= total:
            last = now
            left = (now - started) / max(done, 1) * (total - done)
            log.info("%s %d/%d, about %.0f s left %s", description, done, total, left, note)

    yield advance
