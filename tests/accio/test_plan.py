from itertools import pairwise

import numpy as np
import pytest

from lumos.accio.plan import (
    Plan,
    draw_origins,
    first_origins,
    hash_users,
    is_held_out,
    plan_epoch,
    uniform,
)

# Written down once: a change would move users between training and hold-out.
PINNED_DIGESTS = ["f6fc42039fba3776", "49d8111260e57e43", "e4a6a0577479b2b4"]
PINNED_UNIFORM = [0.745672, 0.618622, 0.776644]
SIZES = ([5], [3, 0, 4], [64, 7, 31], [1])
WORLDS = (1, 2, 3, 5)
BATCHES = (1, 4, 7, 64)


def rows_of(sizes: list[int]) -> list[np.ndarray]:
    # Not 0, 1, 2 ...: held-out rows leave gaps.
    return [np.arange(size) * 2 + 1 for size in sizes]


def plans(sizes: list[int], world: int, batch: int, epoch: int = 0) -> list[Plan]:
    return [
        plan_epoch(
            rows_of(sizes), seed=3, epoch=epoch, batch_size=batch, rank=rank, world_size=world
        )
        for rank in range(world)
    ]


def read(plan: Plan, step: int | slice = slice(None)) -> list[tuple[int, int]]:
    is_real = plan.weight[step] > 0
    return list(
        zip(plan.file[step][is_real].tolist(), plan.row[step][is_real].tolist(), strict=True)
    )


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("batch", BATCHES)
def test_every_row_is_dealt_exactly_once_in_equal_steps(
    sizes: list[int], world: int, batch: int
) -> None:
    dealt = plans(sizes, world, batch)
    everyone = [pair for plan in dealt for pair in read(plan)]
    expected = [(file, row) for file, rows in enumerate(rows_of(sizes)) for row in rows.tolist()]
    assert sorted(everyone) == expected
    assert {plan.file.shape for plan in dealt} == {(-(-sum(sizes) // batch), -(-batch // world))}


@pytest.mark.parametrize("batch", BATCHES)
def test_global_batches_do_not_depend_on_the_number_of_processes(batch: int) -> None:
    alone = plans([64, 7, 31], 1, batch)[0]
    for world in WORLDS[1:]:
        together = plans([64, 7, 31], world, batch)
        for step in range(alone.num_steps):
            assert sorted(pair for plan in together for pair in read(plan, step)) == sorted(
                read(alone, step)
            )


def test_a_repeat_that_fills_the_last_batch_has_no_weight_and_opens_no_other_file() -> None:
    for plan in plans([5, 6], 3, 4):
        for file, weight in zip(plan.file, plan.weight, strict=True):
            is_real = weight > 0
            assert set(weight.tolist()) <= {0.0, 1.0}
            if is_real.any() and not is_real.all():
                assert len(set(file[~is_real].tolist())) == 1


def test_users_come_file_by_file_in_another_order_each_epoch() -> None:
    first, again, later = (plans([40, 40, 40], 1, 8, epoch)[0] for epoch in (0, 0, 1))
    assert read(first) == read(again)
    assert read(first) != read(later)
    files = [file for file, _ in read(first)]
    assert sum(a != b for a, b in pairwise(files)) == 2


def test_hashes_are_the_same_on_every_machine() -> None:
    users = np.array(["1", "member/é", ""], object)
    assert hash_users(users).tolist() == [
        int.from_bytes(bytes.fromhex(text), "little") for text in PINNED_DIGESTS
    ]
    assert uniform(hash_users(users), 1, 0).round(6).tolist() == PINNED_UNIFORM


def test_the_held_out_share_is_kept_and_depends_on_the_seed_alone() -> None:
    users = np.array([str(n) for n in range(20_000)], object)
    out = is_held_out(users, 0.1, 0)
    assert out.mean() == pytest.approx(0.1, abs=0.01)
    assert (is_held_out(users[::-1], 0.1, 0)[::-1] == out).all()
    assert (is_held_out(users, 0.1, 1) & out).mean() == pytest.approx(0.01, abs=0.004)


def test_origins_spread_evenly_over_what_each_user_allows() -> None:
    hashes = hash_users(np.array([str(n) for n in range(20_000)], object))
    registered = np.where(np.arange(20_000) % 2, 5, 18)
    first = first_origins(registered, 10)
    drawn = draw_origins(hashes, first, 19, seed=0, epoch=0)
    assert ((drawn >= first) & (drawn <= 19)).all()
    early = np.bincount(drawn[first == 10], minlength=20)[10:] / (first == 10).sum()
    assert early == pytest.approx(np.full(10, 0.1), abs=0.012)
    assert set(drawn[first == 18].tolist()) == {18, 19}
    other = draw_origins(hashes, first, 19, seed=0, epoch=1)
    assert (drawn != other).mean() > 0.6
