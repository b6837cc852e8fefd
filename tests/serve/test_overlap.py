"""Stages that overlap: in order, bounded, and over at once when one of them fails."""

import itertools
import threading
import traceback
from collections.abc import Iterator

import pytest

from lumos.serve.overlap import Overlap


class Broken(Exception):
    """What a stage fails with."""


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(is_on: bool, workers: int) -> None:
    with Overlap(is_on=is_on) as overlap:
        doubled = overlap.map(lambda n: 2 * n, range(50), ahead=4, workers=workers)
        found = list(overlap.map(lambda n: n + 1, doubled, ahead=2))

    assert found == [2 * n + 1 for n in range(50)]


def test_a_consumer_that_rests_stops_the_stages_before_it() -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for number in itertools.count():
            drawn = number
            yield number

    with Overlap() as overlap:
        first = overlap.map(lambda n: n, source(), ahead=3)
        second = overlap.map(lambda n: n, first, ahead=2, workers=2)
        taken = [next(second) for _ in range(10)]

    assert taken == list(range(10))
    assert drawn <= 9 + 3 + 2


def test_stages_work_at_the_same_time() -> None:
    """While the second has an item the first has the next: else they would wait in vain."""
    meeting = threading.Barrier(2)

    def first(number: int) -> int:
        if number:
            meeting.wait(timeout=60)
        return number

    def second(number: int) -> int:
        if number < 19:
            meeting.wait(timeout=60)
        return number

    with Overlap() as overlap:
        found = overlap.map(second, overlap.map(first, range(20), ahead=2), ahead=2)
        assert list(found) == list(range(20))


@pytest.mark.parametrize("faulty", [0, 1, 2, "source"])
@pytest.mark.parametrize("is_on", [True, False])
def test_a_fault_in_any_stage_ends_all_with_its_own_traceback(
    faulty: int | str, is_on: bool
) -> None:
    def break_at_thirty(number: int) -> int:
        if number == 30:
            raise Broken(number)
        return number

    def source() -> Iterator[int]:
        for number in itertools.count():
            yield break_at_thirty(number) if faulty == "source" else number

    def run() -> None:
        with Overlap(is_on=is_on) as overlap:
            items: Iterator[int] = source()
            for stage in range(3):
                function = break_at_thirty if stage == faulty else int
                items = overlap.map(function, items, ahead=5, workers=2)
            for _ in items:
                pass

    before = threading.active_count()
    with pytest.raises(Broken) as caught:
        run()

    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "break_at_thirty"
    assert threading.active_count() == before


def test_a_fault_of_the_consumer_ends_stages_that_have_work_waiting() -> None:
    def run() -> None:
        with Overlap() as overlap:
            for number in overlap.map(int, itertools.count(), ahead=8, workers=2):
                if number == 3:
                    raise Broken

    before = threading.active_count()
    with pytest.raises(Broken):
        run()

    assert threading.active_count() == before
