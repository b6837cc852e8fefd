"""The plan, for any shards, lanes, batches, ranks, workers and places to go on from."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.accio.plan import Plan, check_world, plan_epoch
from lumos.verbs import BadInput

Row = tuple[int, int]  # a shard, and a sample of it

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
LANES = st.integers(1, 9)
BATCHES = st.integers(1, 50)
EPOCHS = st.integers(0, 3)


def a_plan(counts: list[int], lanes: int, batch: int, epoch: int = 0) -> Plan:
    return plan_epoch(counts, seed=7, epoch=epoch, batch_size=batch, num_lanes=lanes)


def steps_of(
    plan: Plan, counts: list[int], world: int, rank: int, workers: int, first: int = 0
) -> list[dict[int, Row]]:
    """What a rank's workers read at each step from ``first`` on: place in the epoch -> row."""
    steps: list[dict[int, Row]] = [{} for _ in range(plan.num_steps - first)]
    for worker in range(workers):
        lanes = plan.lanes_of(rank, world, worker, workers)
        rows: dict[int, list[tuple[int, Row, int]]] = {lane: [] for lane in lanes}
        reads = plan.reads(lanes, first)
        assert (np.diff(reads["step"]) >= 0).all()
        for read in reads:
            order = plan.order_within(int(read["shard"]), counts[read["shard"]])
            own = order[read["start"] : read["stop"]].tolist()
            for place, row in zip(plan.numbers(read).tolist(), own, strict=True):
                rows[int(read["lane"])].append((place, (int(read["shard"]), row), read["step"]))
        for number in range(first, plan.num_steps):
            for lane, (start, stop) in zip(lanes, plan.slices(lanes, number), strict=True):
                for _ in range(start, stop):
                    place, row, needed = rows[lane].pop(0)
                    assert needed <= number
                    assert place not in steps[number - first]
                    steps[number - first][place] = row
        assert not any(rows.values())
    return steps


@given(COUNTS, LANES, BATCHES, EPOCHS, st.data())
def test_every_sample_is_given_once_in_equal_steps_and_the_same_global_batches(
    counts: list[int], lanes: int, batch: int, epoch: int, data: st.DataObject
) -> None:
    plan = a_plan(counts, lanes, batch, epoch)
    alone = steps_of(plan, counts, 1, 0, 1)
    everything = [row for step in alone for row in step.values()]
    assert sorted(everything) == [(s, n) for s, count in enumerate(counts) for n in range(count)]
    assert [len(step) for step in alone[:-1]] == [batch] * (len(alone) - 1)
    for number, step in enumerate(alone):
        assert set(step) == set(range(number * batch, number * batch + len(step)))

    world = data.draw(st.integers(1, lanes))
    workers = [data.draw(st.integers(1, 4)) for _ in range(world)]
    first = data.draw(st.integers(0, plan.num_steps))
    ranks = [steps_of(plan, counts, world, r, workers[r], first) for r in range(world)]
    for number, expected in enumerate(alone[first:]):
        parts = [rank[number] for rank in ranks]
        assert sum(map(len, parts)) == len(expected)
        assert {place: row for part in parts for place, row in part.items()} == expected
        assert max(map(len, parts)) <= plan.num_slots(world)


@given(LANES, BATCHES, st.data())
def test_no_more_slots_are_made_than_some_rank_fills(
    lanes: int, batch: int, data: st.DataObject
) -> None:
    world = data.draw(st.integers(1, lanes))
    counts = [lanes * batch]
    plan = a_plan(counts, lanes, batch)
    fullest = max(
        len(step) for rank in range(world) for step in steps_of(plan, counts, world, rank, 1)
    )
    assert plan.num_slots(world) == fullest
    if lanes % world == 0 and batch % world == 0:
        assert plan.num_slots(world) * world == batch


@pytest.mark.parametrize("counts", [[40, 40, 40], [40]])  # the shards' order, the samples' order
def test_an_epoch_has_an_order_of_its_own_and_the_same_one_again(counts: list[int]) -> None:
    first, again, later = (
        steps_of(a_plan(counts, 2, 8, epoch), counts, 1, 0, 1) for epoch in (0, 0, 1)
    )
    assert first == again
    assert [set(step.values()) for step in first] != [set(step.values()) for step in later]


def test_a_batch_mixes_as_many_shards_as_there_are_lanes() -> None:
    counts = [64] * 64
    steps = steps_of(a_plan(counts, 16, 32), counts, 1, 0, 1)
    mixed = [len({shard for shard, _ in step.values()}) for step in steps]
    assert min(mixed) >= 15
    assert np.mean(mixed) > 15.5


def test_more_ranks_than_lanes_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(BadInput, match=r"12 ranks cannot share 8 lanes; give num_lanes=12"):
        check_world(8, 12)
    check_world(8, 8)


def test_planning_does_not_grow_with_what_others_read() -> None:
    counts = np.full(200_000, 1_000)
    started = time.process_time()
    plan = plan_epoch(counts, seed=0, epoch=0, batch_size=65_536, num_lanes=512)
    reads = plan.reads(plan.lanes_of(63, 64, 7, 8))
    assert (reads["stop"] - reads["start"]).sum() == 200_000_000 // 512
    assert len(reads) <= 200_000 // 512 + 2
    assert time.process_time() - started < 2
