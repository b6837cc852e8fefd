"""Wait for what takes its time, and say what was waited for when it does not come."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T],
    seconds: float = 60.0,
    *,
    explain: Callable[[], object] = lambda: "",
) -> T:
    """The first true answer.

    Args:
        predicate: Asked until its answer is true.
        seconds: For so long.
        explain: What else to show when there was none in time.

    Raises:
        AssertionError: There was none in time; shows the last answer.
    """
    deadline = time.monotonic() + seconds
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            msg = f"not within {seconds} s, the last answer was {answer!r} {explain()}"
            raise AssertionError(msg)
        time.sleep(0.05)
    return answer
