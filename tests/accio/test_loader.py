import numpy as np
import pytest

from lumos.accio.batch import RawBatch
from lumos.accio.loader import OriginRange, TrainingWindows, split_users
from lumos.accio.plan import draw_origins, hash_users, is_held_out, plan_epoch
from lumos.accio.window import cut
from lumos.dates import day_number
from tests.accio import small

FIRST = day_number(small.FIRST_DAY) + 27
LAST = FIRST + 30


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> TrainingWindows:
    settings = small.write_lake(tmp_path_factory.mktemp("lake"), small.users(40))
    origins = OriginRange(FIRST, LAST)
    corpus = split_users(small.files(settings), origins, share=0.2, seed=0)
    return TrainingWindows(corpus, small.recipe(), small.calendar(), origins)


def batches(
    windows: TrainingWindows, *, rank: int = 0, world: int = 1, epoch: int = 0, start: int = 0
) -> list[RawBatch]:
    plan = plan_epoch(
        windows.corpus.training,
        seed=0,
        epoch=epoch,
        batch_size=7,
        rank=rank,
        world_size=world,
    )
    return list(windows.batches(plan, epoch, start_step=start))


def test_every_training_user_is_read_exactly_once_by_some_process(
    windows: TrainingWindows,
) -> None:
    users = small.users(40)
    is_out = is_held_out(users.user_id, 0.2, 0)
    in_time = users.registered <= LAST
    assert 0 < is_out.sum() < len(users)
    assert windows.corpus.num_late == (~in_time).sum() > 0
    assert windows.corpus.num_held_out == (is_out & in_time).sum()
    for world in (1, 2, 3):
        read = [
            user
            for rank in range(world)
            for batch in batches(windows, rank=rank, world=world)
            for user in batch.users.user_id[batch.weight > 0]
        ]
        assert sorted(read) == sorted(users.user_id[~is_out & in_time])


def test_all_processes_take_equal_steps_of_equal_shape(windows: TrainingWindows) -> None:
    shapes = [
        [batch.windows.history.shape for batch in batches(windows, rank=rank, world=3)]
        for rank in range(3)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(set(shapes[0])) == 1


def test_a_window_is_that_of_its_user_at_its_hashed_origin(windows: TrainingWindows) -> None:
    users = small.users(40)
    place = {user: number for number, user in enumerate(users.user_id)}
    for batch in batches(windows, epoch=3):
        own = users.take(np.array([place[user] for user in batch.users.user_id]))
        first = np.maximum(own.registered, FIRST)
        origins = draw_origins(hash_users(own.user_id), first, LAST, seed=0, epoch=3)
        np.testing.assert_array_equal(batch.origins, origins)
        np.testing.assert_array_equal(batch.windows.history, cut(own, origins, 42, 10).history)


def test_an_epoch_taken_up_in_the_middle_goes_on_with_the_same_batches(
    windows: TrainingWindows,
) -> None:
    whole, rest = batches(windows), batches(windows, start=2)
    assert len(rest) == len(whole) - 2
    for before, after in zip(whole[2:], rest, strict=True):
        assert before.users.user_id.tolist() == after.users.user_id.tolist()
        np.testing.assert_array_equal(before.windows.targets, after.windows.targets)
        np.testing.assert_array_equal(before.events.rows, after.events.rows)
