"""Some processes that share a list of tasks, or none where that would only cost."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Protocol, TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


class Map(Protocol):
    """Results of a task for each item, in the order of the items."""

    def __call__(self, task: Callable[[_A], _B], items: Iterable[_A], /) -> Iterable[_B]:
        """Start all, give them one by one."""


@contextmanager
def workers(processes: int) -> Iterator[Map]:
    """Lend a ``map`` over this many processes; with one, it works right here.

    Tasks and items travel to other processes, so both must be picklable.
    """
    if processes == 1:
        yield map
        return
    # Not forked: threads of Arrow and of delta-rs would not survive it.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool.map
