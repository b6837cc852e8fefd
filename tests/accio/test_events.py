import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from lumos.accio.contract import load_events
from lumos.dates import day_number, from_day_number
from lumos.overrides import override
from lumos.verbs import BadInput
from tests.accio import small

WITHOUT = "gym_world.recipe:recipe_without_events"


def known_literally(day: int, as_of: int) -> np.ndarray:
    days, known_on, values = small.event_rows()
    told = [
        (k, v) for d, k, v in zip(days, known_on, values, strict=True) if d == day and k <= as_of
    ]
    return max(told, key=lambda item: item[0])[1] if told else np.zeros(2)


def test_each_day_shows_what_was_known_of_it_on_the_day_of_the_forecast() -> None:
    calendar = small.calendar()
    first = day_number(small.FIRST_DAY)
    for as_of in (first + 40, first + 41, first + 70):
        window = calendar.window(as_of, as_of - 41, 70)
        assert window.shape == (70, calendar.num_columns) == (70, 7)
        for place, day in enumerate(range(as_of - 41, as_of + 29)):
            np.testing.assert_array_equal(window[place, 5:], known_literally(day, as_of))
    announced = small.calendar().window(first + 40, first + 60, 2)[:, 5:]
    assert announced[0].any()
    assert not announced[1].any()  # announced 20 days ahead: on the 41st, not on the 40th


def test_calendar_columns_come_first_and_are_known_for_all_time() -> None:
    as_of = day_number(dt.date(2024, 4, 1))
    far = small.calendar().window(as_of, as_of + 1000, 14)
    weekdays = [from_day_number(as_of + 1000 + n).weekday() for n in range(14)]
    # The gym's columns: monday, tuesday, saturday, sunday, holiday.
    for place, weekday in enumerate(weekdays):
        assert far[place, :4].tolist() == [float(weekday == n) for n in (0, 1, 5, 6)]
    assert not far[:, 5:].any()


def test_gathering_many_origins_gives_each_its_own_window() -> None:
    calendar = small.calendar()
    start = day_number(small.FIRST_DAY)
    origins = np.array([start + 50, start + 52, start + 50, start + 90], np.int32)
    rows = calendar.gather(origins, 42, 10)
    for number, origin in enumerate(origins.tolist()):
        expected = calendar.window(origin, origin - 41, 52)
        np.testing.assert_array_equal(rows.rows[rows.index[number]], expected)


def test_an_event_row_is_kept_once_however_many_users_share_it() -> None:
    start = day_number(small.FIRST_DAY)
    rows = small.calendar().gather(np.full(100, start + 60), 42, 10)
    assert len(rows.rows) == 52
    # The next day's forecast shares all days but those of which it was told more.
    both = small.calendar().gather(np.array([start + 60, start + 61]), 42, 10)
    assert 53 <= len(both.rows) <= 56


def test_a_platform_without_events_has_its_calendar_alone(tmp_path: Path) -> None:
    recipe = small.recipe(WITHOUT)
    calendar = load_events(small.settings(tmp_path), recipe, None)
    assert calendar.window(20_000, 20_000, 3).shape == (3, 5)
    bare = override(recipe, {"calendar": ()})
    nothing = load_events(small.settings(tmp_path), bare, None)
    assert nothing.window(20_000, 20_000, 3).shape == (3, 0)
    assert nothing.gather(np.array([20_000]), 42, 10).index.shape == (1, 52)


def test_events_are_read_from_the_pinned_version(tmp_path: Path) -> None:
    settings = small.write_lake(tmp_path, small.users(3))
    calendar = load_events(settings, small.recipe(), small.version(settings, "event_context"))
    first = day_number(small.FIRST_DAY)
    np.testing.assert_array_equal(
        calendar.window(first + 60, first, 80), small.calendar().window(first + 60, first, 80)
    )
    with pytest.raises(BadInput, match="no event_context at"):
        load_events(small.settings(tmp_path / "other"), small.recipe(), 0)
