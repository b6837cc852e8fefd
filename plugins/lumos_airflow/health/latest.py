"""A value that costs time to make: once for all who ask, kept a while, never waited for long.

What cannot be made is a named trouble beside the last value that could; the reason goes to the
log, for it may name paths and hosts that a page must not.
"""

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What is known: the last good value and when it was made; ``trouble`` if that is too old."""

    value: T | None
    at: dt.datetime | None
    trouble: str = ""


class Latest(Generic[T]):
    """The last value that ``make`` gave.

    Args:
        what: Its name at the beginning of a sentence, such as ``The lake``.
        make: Gives a new value, in a thread of its own.
        fresh_seconds: So old it may be without waiting for a new one, a fault as well. When half
            of that has passed, a new one is made beside whoever asks.
        wait_seconds: How long one who asks waits for a new one.
        stale_seconds: Up to this age the last one does while the next is being made.
    """

    def __init__(
        self,
        what: str,
        make: Callable[[], T],
        *,
        fresh_seconds: float,
        wait_seconds: float,
        stale_seconds: float = 0,
    ) -> None:
        self._what, self._make = what, make
        self._fresh, self._wait, self._stale = fresh_seconds, wait_seconds, stale_seconds
        self._lock = threading.Lock()
        self._flight: threading.Event | None = None
        self._began = self._made = self._tried = float("-inf")
        self._value: T | None = None
        self._at: dt.datetime | None = None
        self._trouble = ""

    def get(self) -> Reading[T]:
        """The value, made anew if it is too old and that does not take too long."""
        with self._lock:
            now = time.monotonic()
            age = now - self._tried
            if age >= self._fresh / 2 and self._flight is None:
                self._flight, self._began = threading.Event(), now
                # A daemon: a store that never answers must not keep the server from ending.
                threading.Thread(target=self._fly, args=(self._flight,), daemon=True).start()
            if age < self._fresh or self._flight is None:
                return Reading(self._value, self._at, self._trouble)
            flight, left = self._flight, self._began + self._wait - now
        landed = flight.wait(max(0.0, left))
        with self._lock:
            if landed or time.monotonic() - self._made < self._stale:
                return Reading(self._value, self._at, self._trouble)
            if self._wait:
                trouble = f"{self._what} did not answer within {self._wait:g} seconds."
            else:
                trouble = f"{self._what} is being asked; look again in some seconds."
            return Reading(self._value, self._at, trouble)

    def forget(self) -> None:
        """Make it anew at the next call."""
        with self._lock:
            self._tried = self._made = float("-inf")

    def _fly(self, flight: threading.Event) -> None:
        trouble, value = "", None
        try:
            value = self._make()
        except Exception:
            log.exception("health page: %s cannot be read", self._what)
            trouble = f"{self._what} cannot be read; the log of the API server says why."
        with self._lock:
            self._tried, self._trouble, self._flight = time.monotonic(), trouble, None
            if not trouble:
                self._value, self._made, self._at = value, self._tried, dt.datetime.now(dt.UTC)
        flight.set()
