"""Answers under an imagined calendar: right, harmless, and refused where nobody could know."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lumos.accio.contract import event_calendar, load_events
from lumos.dates import day_number
from lumos.delta import read
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.edits import Edits, announced, edited, read_edits, refuse_unseen
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.serve.lake import write_events
from tests.serve.models import crown, register

RECIPE_OBJECT = load(RECIPE)


def calendar_file(world: World, text: str) -> str:
    path = world.home / "calendar.csv"
    path.write_text(text)
    return str(path)


def tomorrow(world: World) -> dt.date:
    return world.date + dt.timedelta(days=1)


def known(world: World, day: dt.date) -> list[float]:
    """Classes, and whether it is an open day, as the calendar has it."""
    events = load_events(world.settings, RECIPE_OBJECT, None)
    return announced(RECIPE_OBJECT, events, world.date, day, 1)[0].tolist()


def moved(world: World) -> str:
    """Tomorrow has as many classes as a busy day, if it was a quiet one, and the other way."""
    other = 6 if known(world, tomorrow(world))[0] == 2 else 2
    return f"day,num_classes\n{tomorrow(world)},{other}\n"


def answers(world: World) -> pa.Table:
    rows = read(table_uri(world.settings, RECIPE_OBJECT, "what_ifs"))
    assert rows is not None
    return rows.sort_by("user_id")


def test_the_difference_is_that_of_scoring_under_either_calendar(scored: World) -> None:
    scored.run("publish")
    question = calendar_file(scored, moved(scored))

    report = scored.run("score", what_if=question)

    rows = answers(scored)
    scores = read(table_uri(scored.settings, RECIPE_OBJECT, "scores"))
    assert scores is not None
    published = scores.sort_by("user_id")
    assert rows["user_id"].to_pylist() == published["user_id"].to_pylist()
    # Now as if the calendar had said so: scored and published in a lake of its own.
    there = scored.copy(scored.home.parent / "imagined")
    said = read_edits(Path(question), RECIPE_OBJECT, scored.date)
    write_events(there, scored.date, said.cells)
    there.run("score", force=True)
    there.run("publish", force=True)
    imagined = read(table_uri(there.settings, RECIPE_OBJECT, "scores"))
    assert imagined is not None
    imagined = imagined.sort_by("user_id")
    changed = []
    for task in RECIPE_OBJECT.tasks:
        name = task.name
        np.testing.assert_allclose(rows[name], published[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows[f"{name}_if"], imagined[name], rtol=1e-5, atol=1e-6)
        change = rows[f"{name}_change"].to_numpy()
        changed.append(bool(np.abs(change).max() > 0))
        assert report.metrics[f"{name}.change"] == pytest.approx(change.sum(), abs=1e-6)
    # Not of every task: drawn weights that rank users upside down are calibrated to one rate.
    assert any(changed)


def test_a_question_asked_twice_has_one_answer_and_pacman_sees_nothing_of_it(
    scored: World,
) -> None:
    scored.run("publish")
    tables = ("scores", "forecasts", "manifests")
    uris = [Path(table_uri(scored.settings, RECIPE_OBJECT, table)) for table in tables]
    before = [sorted(p.name for p in uri.rglob("*.json")) for uri in uris]
    first = scored.run("score", what_if=calendar_file(scored, moved(scored)))
    rows = answers(scored)

    # The same said with an empty cell and a day that stays as it is.
    text = moved(scored).replace("num_classes\n", "num_classes,open_day\n").rstrip() + ",\n"
    again = scored.run("score", what_if=calendar_file(scored, text))

    assert again.details["question"] == first.details["question"]
    assert answers(scored).equals(rows)
    assert [sorted(p.name for p in uri.rglob("*.json")) for uri in uris] == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"has the columns nothing; expected day and some of .*num_classes"),
        ("day,num_classes\n", r"has the columns nothing; expected day"),
        ("day\n{tomorrow}\n", r"has the columns \['day'\]"),
        ("day,matches\n{tomorrow},2\n", r"\['day', 'matches'\]; expected day"),
        ("day,num_classes\n{today},2\n", r"line 2: .* is not among the days that are forecast"),
        ("day,num_classes\n{far},2\n", r"line 2: .* is not among the days that are forecast"),
        ("day,num_classes\nmonday,2\n", r"line 2: 'monday' is not a day written as YYYY-MM-DD"),
        ("day,num_classes\n{tomorrow},many\n", r"line 2, num_classes: 'many' is no number"),
        ("day,num_classes\n{tomorrow},nan\n", r"line 2, num_classes: 'nan' is no number"),
        ("day,num_classes\n{tomorrow},2\n{tomorrow},6\n", r"line 3: .* stands there twice"),
        ("day,num_classes\n{tomorrow},\n", r"changes nothing"),
    ],
)
def test_a_file_that_is_no_calendar_is_refused_with_its_line(
    crowned: World, text: str, says: str
) -> None:
    days = {
        "today": crowned.date,
        "tomorrow": tomorrow(crowned),
        "far": crowned.date + dt.timedelta(days=RECIPE_OBJECT.horizon_days + 1),
    }
    with pytest.raises(BadInput, match=says):
        crowned.run("score", what_if=calendar_file(crowned, text.format(**days)))


def test_a_file_that_is_not_there_is_said_so(crowned: World) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        crowned.run("score", what_if=str(crowned.home / "nowhere.csv"))


def test_a_value_outside_what_training_saw_is_refused_with_what_it_saw(crowned: World) -> None:
    text = f"day,num_classes\n{tomorrow(crowned)},40\n"
    with pytest.raises(BadInput, match=r"num_classes = 40 .* outside what training saw .* 2 to 6"):
        crowned.run("score", what_if=calendar_file(crowned, text))


def test_a_day_unlike_any_of_training_is_refused_though_each_value_was_seen() -> None:
    recipe = RECIPE_OBJECT
    start = dt.date(2024, 1, 1)
    days = day_number(start) + np.arange(100)
    # Many classes on ordinary days, few on open days; never many on an open day.
    is_open = (np.arange(100) % 10 == 0).astype(float)
    values = np.stack([np.where(is_open > 0, 2.0, 2.0 + np.arange(100) % 5), is_open], axis=1)
    nowhere = np.zeros(0, np.int64)
    events = event_calendar(recipe, nowhere, nowhere, np.zeros((0, 2))).with_rows(
        days, days - 20, values
    )
    date = start + dt.timedelta(days=89)
    target = start + dt.timedelta(days=90)
    seen = (start, start + dt.timedelta(days=80))
    for classes, is_refused in ((2.0, False), (6.0, True)):
        edits = Edits({target: {"num_classes": classes, "open_day": 1.0}})
        if not is_refused:
            refuse_unseen(recipe, events, edits, date=date, seen=seen)
            continue
        imagined = edited(recipe, events, edits, date)
        with pytest.raises(BadInput, match=r"no day from 2024-01-01 .* was like 2024-03-31"):
            refuse_unseen(recipe, imagined, edits, date=date, seen=seen)


def test_a_model_that_sees_no_future_calendar_is_not_asked(registered: World) -> None:
    blind = override(RECIPE_OBJECT, {"model.events": "no_future"})
    version = register(registered, seed=5, recipe=blind)
    crown(registered, version)

    with pytest.raises(BadInput, match="sees no future calendar"):
        registered.run("score", what_if=calendar_file(registered, moved(registered)))


@given(st.integers(0, 9), st.floats(0, 1e6, width=32))
def test_an_edit_changes_its_own_cell_alone(place: int, value: float) -> None:
    recipe, date = RECIPE_OBJECT, dt.date(2024, 3, 1)
    days = day_number(date) + np.arange(1, 1 + recipe.horizon_days)
    told = np.arange(2.0 * len(days)).reshape(-1, 2) - 0.5
    events = event_calendar(recipe, days, np.full_like(days, day_number(date)), told)
    assume(np.float32(value) != np.float32(told[place, 1]))  # Else it is refused: nothing changes.
    day = date + dt.timedelta(days=1 + place)
    imagined = edited(recipe, events, Edits({day: {"open_day": value}}), date)
    first = date + dt.timedelta(days=1)
    before = announced(recipe, events, date, first, recipe.horizon_days)
    after = announced(recipe, imagined, date, first, recipe.horizon_days)
    before[place, 1] = np.float32(value)
    np.testing.assert_array_equal(after, before)
