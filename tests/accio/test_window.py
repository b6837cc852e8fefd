from dataclasses import replace

import numpy as np

from lumos.accio.contract import event_calendar
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.dates import day_number
from tests.accio import small

T, F = 42, 10


def cut_literally(users: Users, origins: np.ndarray) -> dict[str, np.ndarray]:
    width = users.values.shape[1]
    history, targets = np.zeros((len(users), T, width)), np.zeros((len(users), F, width))
    is_registered = np.zeros((len(users), T), bool)
    for user, origin in enumerate(origins):
        for place, day in enumerate(range(origin - T + 1, origin + 1)):
            is_registered[user, place] = day >= users.registered[user]
        for row in range(users.splits[user], users.splits[user + 1]):
            day = users.days[row]
            if origin - T < day <= origin:
                history[user, day - origin + T - 1] = users.values[row]
            elif origin < day <= origin + F:
                targets[user, day - origin - 1] = users.values[row]
    return {"history": history, "is_registered": is_registered, "targets": targets}


def origins_of(users: Users) -> np.ndarray:
    # Some at the very start, where most of the history lies before the first record.
    random = np.random.default_rng(5)
    return users.registered + random.integers(0, 70, len(users)).astype(np.int32)


def after(users: Users, days: np.ndarray, value: float) -> Users:
    """The users with all activity after some days replaced."""
    is_future = users.days > days
    return replace(users, columns=tuple(np.where(is_future, value, c) for c in users.columns))


def test_windows_are_those_cut_day_by_day() -> None:
    users = small.users(40)
    fast, literal = cut(users, origins_of(users), T, F), cut_literally(users, origins_of(users))
    for name, expected in literal.items():
        np.testing.assert_array_equal(getattr(fast, name), expected, err_msg=name)
    assert fast.history.any()
    assert fast.targets.any()
    assert not fast.is_registered.all()


def test_nothing_after_the_origin_can_reach_an_input() -> None:
    users = small.users(40)
    origins = origins_of(users)
    owner = np.repeat(np.arange(len(users)), np.diff(users.splits))
    poisoned = after(users, origins[owner], np.nan)
    days, known_on, values = small.event_rows()
    recipe = small.recipe()
    for user in range(0, len(users), 7):
        at = origins[user]
        told_later = np.where((known_on > at)[:, None], np.nan, values)
        one = np.array([user])
        clean, dirty = (cut(whole.take(one), origins[one], T, F) for whole in (users, poisoned))
        np.testing.assert_array_equal(clean.history, dirty.history)
        np.testing.assert_array_equal(clean.is_registered, dirty.is_registered)
        told, untold = (
            event_calendar(recipe, days, known_on, rows).gather(origins[one], T, F)
            for rows in (values, told_later)
        )
        np.testing.assert_array_equal(told.index, untold.index)
        np.testing.assert_array_equal(told.rows, untold.rows)
    assert np.isnan(cut(poisoned, origins, T, F).targets).any()


def test_an_empty_batch_has_empty_windows() -> None:
    nobody = small.users(3).take(np.zeros(0, np.int64))
    windows = cut(nobody, np.zeros(0, np.int32), T, F)
    assert windows.history.shape == (0, T, 4)
    assert windows.targets.shape == (0, F, 4)
    events = small.calendar().gather(np.zeros(0, np.int32), T, F)
    assert events.index.shape == (0, T + F)


def test_a_user_seen_for_the_first_time_on_the_origin_has_one_registered_day() -> None:
    users = small.users(3)
    windows = cut(users, users.registered, T, F)
    assert windows.is_registered.sum(axis=1).tolist() == [1, 1, 1]
    assert windows.is_registered[:, -1].all()
    assert day_number(small.FIRST_DAY) == users.registered[0]
