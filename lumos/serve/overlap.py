"""Stages of one pass that work at the same time, each a few items ahead of the next.

A stage is a function in threads of its own: Parquet, Delta and PyTorch let go of Python's lock
while they work. Results come in order, and never more than ``ahead`` of them wait, so memory does
not grow with what is passed through. No stage waits for another: the consumer's thread alone hands
items on, so nothing can deadlock, and an error is raised where the consumer asks for the result.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

_T = TypeVar("_T")
_U = TypeVar("_U")


class Overlap:
    """Lends threads to stages; on leaving, whatever has not begun is dropped.

    With ``is_on=False`` every stage works in the consumer's thread, one item at a time.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._pools: list[ThreadPoolExecutor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.shutdown(wait=True)

    def map(
        self, stage: Callable[[_T], _U], items: Iterable[_T], *, ahead: int, workers: int = 1
    ) -> Iterator[_U]:
        """``stage`` of each item, in order.

        Args:
            stage: Called in ``workers`` threads; must be safe there.
            items: Drawn in the consumer's thread; may be another stage's results.
            ahead: Results that may wait to be taken, in work or done.
            workers: Threads.
        """
        if not self._is_on:
            return map(stage, items)
        pool = ThreadPoolExecutor(workers, thread_name_prefix=getattr(stage, "__name__", "stage"))
        self._pools.append(pool)
        return _in_order(pool, stage, items, ahead)


def _in_order(
    pool: ThreadPoolExecutor, stage: Callable[[_T], _U], items: Iterable[_T], ahead: int
) -> Iterator[_U]:
    waiting: deque[Future[_U]] = deque()
    for item in items:
        waiting.append(pool.submit(stage, item))
        del item  # the stage alone decides how long it lives
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
