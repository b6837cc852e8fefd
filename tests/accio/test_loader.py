"""The loader on real tables: every user once, the same batches for everyone, exact to resume."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from lumos.accio.batch import NOBODY, RaggedBatch
from lumos.accio.chance import Chance, draw_origins, hash_users, is_held_out
from lumos.accio.loader import Accio
from lumos.accio.split import Split
from lumos.accio.stream import Sampling
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.accio.worker import WorkerDied
from lumos.dates import day_number
from lumos.verbs import BadInput
from tests.accio import small

FIRST = day_number(small.FIRST_DAY) + 27
LAST = FIRST + 29
T, F = 42, 10
SAMPLING = Sampling(T, F, FIRST, LAST)
EVERYONE = small.users(40)
LANES = 6
# More windows than a pipe takes, so that no worker is done before the training has asked for them.
MANY = replace(SAMPLING, windows_per_user=100)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SequenceTable:
    at = small.write_lake(tmp_path_factory.mktemp("lake"), EVERYONE, row_group_size=4)
    found = small.table(at)
    assert len(found.shards) == 10
    return found


def keep_most(users: Users) -> np.ndarray:
    return np.asarray(~is_held_out(users.user_id, 0.2, 0))


def accio(table: SequenceTable, sampling: Sampling = SAMPLING, **options: Any) -> Accio:
    return Accio(table, sampling, **{"batch_size": 7, "num_lanes": LANES, "seed": 3} | options)


def real(batches: Iterable[RaggedBatch]) -> list[str]:
    """Ids of the windows that count."""
    return [user for batch in batches for user in batch.user_id[batch.number != NOBODY]]


def in_order(parts: list[RaggedBatch]) -> RaggedBatch:
    """One global batch of all ranks' parts, by place in the epoch, without empty slots."""
    whole = RaggedBatch.concat(parts)
    order = np.argsort(whole.number, kind="stable")
    places = order[whole.number[order] != NOBODY]
    return RaggedBatch.concat([whole.part(place, place + 1) for place in places.tolist()])


def assert_same(a: RaggedBatch, b: RaggedBatch) -> None:
    assert a.number.tolist() == b.number.tolist()
    assert a.user_id.tolist() == b.user_id.tolist()
    assert a.static.equals(b.static)
    for name in ("values", "offsets", "splits", "origins", "registered"):
        ours, theirs = getattr(a.windows, name), getattr(b.windows, name)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert ours.dtype == theirs.dtype, name


def test_an_epoch_gives_every_user_that_qualifies_exactly_once(table: SequenceTable) -> None:
    in_time = EVERYONE.registered <= LAST
    assert LAST in EVERYONE.registered  # their only origin
    assert 0 < in_time.sum() < len(EVERYONE)
    for keep, kept in ((None, in_time), (keep_most, in_time & keep_most(EVERYONE))):
        for world in (1, 2, 3):
            ranks = [accio(table, keep=keep, rank=r, world_size=world) for r in range(world)]
            assert {loader.num_users for loader in ranks} == {kept.sum()}
            given = [user for loader in ranks for user in real(loader)]
            assert sorted(given) == sorted(EVERYONE.user_id[kept])


def test_all_ranks_take_equal_steps_of_equal_shape(table: SequenceTable) -> None:
    lengths = [[len(batch) for batch in accio(table, rank=rank, world_size=5)] for rank in range(5)]
    assert {tuple(each) for each in lengths} == {tuple(lengths[0])}
    assert len(set(lengths[0])) == 1


def test_a_window_is_that_of_its_user_at_its_hashed_origin(table: SequenceTable) -> None:
    place = {user: number for number, user in enumerate(EVERYONE.user_id)}
    loader = accio(table)
    for epoch in (0, 1):
        for batch in loader:
            batch = batch.part(0, int(batch.weight.sum()))
            rows = np.array([place[user] for user in batch.user_id])
            own = EVERYONE.take(rows)
            first = np.maximum(own.registered, FIRST)
            drawn = draw_origins(hash_users(own.user_id), first, LAST, Chance(3, epoch))
            assert batch.windows.origins[:, 0].tolist() == drawn.tolist()
            np.testing.assert_array_equal(batch.windows.dense, cut(own, drawn, T, F).dense)
            assert batch.static.equals(own.static)
        assert (loader.epoch, loader.step) == (epoch + 1, 0)


def test_global_batches_are_the_same_for_any_ranks_and_workers(table: SequenceTable) -> None:
    alone = [in_order([batch]) for batch in accio(table)]
    for world, workers in ((2, 0), (4, 0), (2, 2)):
        ranks = [
            list(accio(table, rank=rank, world_size=world, num_workers=workers))
            for rank in range(world)
        ]
        for expected, *parts in zip(alone, *ranks, strict=True):
            assert_same(in_order(parts), expected)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_rank_gets_the_same_tensors_from_any_number_of_workers(
    table: SequenceTable, workers: int
) -> None:
    sampling = replace(SAMPLING, windows_per_user=2)
    options = {"rank": 1, "world_size": 2}
    one, other = (accio(table, sampling, num_workers=n, **options) for n in (1, workers))
    for a, b in zip(one, other, strict=True):
        assert_same(a, b)


def test_an_epoch_left_in_the_middle_goes_on_anywhere_with_the_rest(table: SequenceTable) -> None:
    whole = [in_order([batch]) for batch in accio(table)]
    later = [in_order([batch]) for batch in _second_epoch(accio(table))]
    for stop in range(len(whole)):
        first = accio(table, rank=1, world_size=2)
        for _, _batch in zip(range(stop), first, strict=False):
            pass
        state = first.state_dict()
        assert (state["epoch"], state["step"]) == (0, stop)
        ranks = [accio(table, rank=rank, world_size=3) for rank in range(3)]
        for loader in ranks:
            loader.load_state_dict(state)
            assert len(loader) == len(whole) - stop
        # The rest of this epoch, and all of the next.
        for epoch in (whole[stop:], later):
            for expected, *parts in zip(epoch, *ranks, strict=True):
                assert_same(in_order(parts), expected)


def _second_epoch(loader: Accio) -> Accio:
    for _ in loader:
        pass
    return loader


def test_a_state_does_not_grow_and_fits_no_other_batches(table: SequenceTable) -> None:
    loader = accio(table)
    before = len(repr(loader.state_dict()))
    for _ in loader:
        assert len(repr(loader.state_dict())) <= before + 2
    for change in ({"seed": 4}, {"batch_size": 8}, {"num_lanes": 5}, {"keep": keep_most}):
        with pytest.raises(BadInput, match="state belongs to other batches"):
            accio(table, **change).load_state_dict(loader.state_dict())
    other = accio(table, replace(SAMPLING, history_days=7))
    with pytest.raises(BadInput, match=r"history_days \(now 7, then 42\)"):
        other.load_state_dict(loader.state_dict())


def test_several_windows_a_user_have_origins_of_their_own(table: SequenceTable) -> None:
    batches = list(accio(table, replace(SAMPLING, windows_per_user=3)))
    users = np.array(real(batches))
    origins = np.concatenate([b.windows.origins[b.number != NOBODY, 0] for b in batches])
    assert set(np.unique(users, return_counts=True)[1]) == {3}
    drawn = [set(origins[users == user]) for user in np.unique(users)]
    assert np.mean([len(each) for each in drawn]) > 2.5


def test_a_long_span_holds_many_origins_each_with_its_own_calendar(table: SequenceTable) -> None:
    calendar = small.calendar()
    seen = 0
    for batch in accio(table, replace(SAMPLING, origins_per_window=4)):
        windows = batch.part(0, int(batch.weight.sum())).windows
        rows = calendar.gather(windows.origins, T, F)
        assert rows.index.shape == (len(windows), T + 4 * F)
        context = rows.rows[rows.index]
        for window in range(len(windows)):
            origins = windows.origins[window].tolist()
            assert FIRST <= origins[0] <= origins[-1] <= LAST
            assert origins[0] > origins[-1] - T
            for number, origin in enumerate(origins):
                ahead = context[window, T + number * F : T + (number + 1) * F]
                np.testing.assert_array_equal(ahead, calendar.window(origin, origin + 1, F))
                offset = windows.target_days[window, number]
                days = windows.first_day[window] + offset
                assert days.tolist() == list(range(origin + 1, origin + 1 + F))
                assert offset.max() < T + F
            for place in range(T):
                day = origins[-1] - T + 1 + place
                np.testing.assert_array_equal(
                    context[window, place], calendar.window(day, day, 1)[0]
                )
            seen += 1
    assert seen == (EVERYONE.registered <= LAST).sum()


@pytest.mark.parametrize(("history", "least"), [(T, 14), (14, 7), (14, 99)])
def test_a_span_ends_where_a_whole_history_was_recorded_in_any_phase(
    table: SequenceTable, history: int, least: int
) -> None:
    sampling = replace(
        SAMPLING,
        history_days=history,
        windows_per_user=4,
        origins_per_window=3,
        days_between_origins=7,
        min_history_days=least,
    )
    registered = dict(zip(EVERYONE.user_id, EVERYONE.registered.tolist(), strict=True))
    # As far as there is one, and with room for ends on each weekday.
    whole = min(FIRST + history - 1, LAST - 6)
    phases, has_inner, num_windows = set(), False, 0
    for batch in accio(table, sampling):
        batch = batch.part(0, int(batch.weight.sum()))
        num_windows += len(batch)
        for user, origins in zip(batch.user_id, batch.windows.origins.tolist(), strict=True):
            end, allowed = origins[-1], max(FIRST, registered[user])
            assert max(whole, allowed) <= end <= LAST
            # The first origin sees so many days of the window; the last sees all of it.
            assert origins[0] >= min(end, max(allowed, end - history + min(least, history)))
            assert origins == sorted(origins)
            assert {(end - origin) % 7 for origin in origins} == {0}
            has_inner |= origins[0] < end
            phases.add(end % 7)
    assert num_windows == 4 * (EVERYONE.registered <= LAST).sum()
    assert phases == set(range(7))
    assert has_inner == (least <= history)


def test_one_origin_a_window_is_drawn_from_all_days_whatever_the_rest_says(
    table: SequenceTable,
) -> None:
    plain = accio(table)
    other = accio(table, replace(SAMPLING, days_between_origins=7, min_history_days=20))
    for ours, theirs in zip(plain, other, strict=True):
        assert_same(ours, theirs)


def test_a_poisoned_future_leaves_every_input_unchanged(
    table: SequenceTable, tmp_path: Path
) -> None:
    poisoned = replace(
        EVERYONE,
        columns=tuple(np.where(EVERYONE.days > LAST, np.nan, c) for c in EVERYONE.columns),
    )
    other = small.table(small.write_lake(tmp_path, poisoned, row_group_size=4))
    found_poison = False
    for clean, dirty in zip(accio(table), accio(other), strict=True):
        assert clean.user_id.tolist() == dirty.user_id.tolist()
        np.testing.assert_array_equal(clean.windows.history, dirty.windows.history)
        np.testing.assert_array_equal(clean.windows.is_registered, dirty.windows.is_registered)
        found_poison |= bool(np.isnan(dirty.windows.targets).any())
    assert found_poison


def test_a_worker_of_a_training_holds_no_torch(table: SequenceTable) -> None:
    def has_torch(process: psutil.Process) -> bool:
        return any("libtorch" in region.path for region in process.memory_maps())

    ours = psutil.Process()
    before = set(ours.children())
    batches = iter(accio(table, MANY, keep=Split(0.2, 0, LAST), num_workers=1, batch_size=1))
    next(batches)
    (worker,) = set(ours.children()) - before
    assert has_torch(ours)
    assert not has_torch(worker)


def test_what_stops_a_worker_stops_the_training_with_its_reason(
    table: SequenceTable, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(table.uri, copy)
    loader = accio(SequenceTable.open(str(copy), table.columns), num_workers=1)
    for file in copy.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(BadInput, match="vacuumed") as raised:
        next(iter(loader))
    assert "in a loader worker" in raised.value.__notes__[0]
    with pytest.raises(BadInput, match=r"workers cannot import keep=.*module of its own"):
        next(iter(accio(table, keep=lambda users: users.registered > 0, num_workers=1)))


def test_a_worker_that_is_killed_is_missed_and_one_that_is_left_ends(table: SequenceTable) -> None:
    ours = psutil.Process()
    before = set(ours.children())
    batches = iter(accio(table, MANY, num_workers=1, batch_size=1))
    next(batches)
    (worker,) = set(ours.children()) - before
    worker.kill()
    with pytest.raises(WorkerDied, match="exit code -9; -9 mostly means that memory ran out"):
        list(batches)
    left = iter(accio(table, MANY, num_workers=2, batch_size=1))
    next(left)
    workers = set(ours.children()) - before
    assert len(workers) == 2
    del left
    assert psutil.wait_procs(workers, timeout=60)[1] == []


def test_a_worker_does_not_outlive_a_training_that_was_killed(table: SequenceTable) -> None:
    script = (
        "from tests.accio.test_loader import MANY, SequenceTable, accio, psutil\n"
        "from lumos.accio import Columns\n"
        f"loader = accio(SequenceTable.open({table.uri!r}, Columns(('minutes',))), "
        "MANY, num_workers=1, batch_size=1)\n"
        "batches = iter(loader); next(batches)\n"
        "print(psutil.Process().children()[0].pid, flush=True); input()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as training:
        assert training.stdout is not None
        worker = psutil.Process(int(training.stdout.readline()))
        training.kill()
    assert psutil.wait_procs([worker], timeout=60)[1] == []


def test_a_dataloader_may_wrap_it_but_not_multiply_it(table: SequenceTable) -> None:
    alone = list(accio(table))
    for workers in (0, 1):
        context = "forkserver" if workers else None
        wrapped = DataLoader(
            accio(table), batch_size=None, num_workers=workers, multiprocessing_context=context
        )
        for ours, theirs in zip(alone, wrapped, strict=True):
            assert_same(ours, theirs)
    multiplied = DataLoader(
        accio(table), batch_size=None, num_workers=2, multiprocessing_context="forkserver"
    )
    with pytest.raises(BadInput, match="starts its own workers"):
        next(iter(multiplied))


def test_what_cannot_work_is_refused_with_the_remedy(table: SequenceTable) -> None:
    with pytest.raises(BadInput, match=r"9 ranks cannot share 6 lanes"):
        accio(table, world_size=9)
    with pytest.raises(BadInput, match=r"nobody who is registered by last_origin=5"):
        accio(table, Sampling(T, F, 1, 5))
    with pytest.raises(BadInput, match=r"smaller row groups"):
        accio(table, max_worker_bytes=1000)
    with pytest.raises(BadInput, match=r"first_origin=9 is after last_origin=5"):
        Sampling(T, F, 9, 5)
    with pytest.raises(BadInput, match="history_days=0, expected at least 1"):
        Sampling(0, F, 1, 5)
    others = ("windows_per_user", "origins_per_window", "days_between_origins", "min_history_days")
    for name in others:
        with pytest.raises(BadInput, match=f"{name}=0, expected at least 1"):
            replace(SAMPLING, **{name: 0})


def test_a_choice_that_changes_its_mind_is_found_out(table: SequenceTable) -> None:
    calls = []

    def fickle(users: Users) -> np.ndarray:
        calls.append(len(users))
        return np.arange(len(users)) < (2 if len(calls) <= 10 else 3)

    with pytest.raises(BadInput, match="depend on nothing but the user"):
        list(accio(table, keep=fickle))


def test_a_worker_holds_no_more_than_it_says(table: SequenceTable) -> None:
    most = int(table.shards["num_days"].max()) * 5 * 4
    assert accio(table).worker_bytes == (LANES + 5) * most
    assert accio(table, num_workers=3).worker_bytes == (2 + 5) * most
    assert (
        accio(table, replace(SAMPLING, windows_per_user=2)).worker_bytes == (LANES + 5) * most * 2
    )
    held = [piece for piece in table.users()]
    assert max(len(users.days) for users in held) * 5 * 4 <= most
    assert isinstance(table.types["plan"], pa.DataType)
