import datetime as dt
import re

import numpy as np
import pyarrow as pa
import pytest

from lumos.config import Recipe
from lumos.delta import replace
from lumos.recipes import load
from lumos.study import pages
from lumos.tables import table_uri, tables
from lumos.tasks import Days, task
from lumos.verbs import BadInput
from tests.study.conftest import EVIL, activity_rows, evaluation_rows
from tests.study.html import Page, section
from tests.study.trial import DATE, DAY, HIDDEN, TOWELS, Told, effect_row, effect_rows

SECTIONS = (
    "accuracy",
    "calibration",
    "gain",
    "users",
    "calendar",
    "experiments",
    "quality",
    "ledger",
)


def test_the_page_is_whole_and_asks_no_server_for_anything(page: str) -> None:
    parsed = Page(page)
    assert set(SECTIONS) <= set(parsed.ids)
    assert all(link.startswith(("#", "../experiments/")) for link in parsed.links)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe|<img", page)


def test_the_page_can_be_read_by_ear_and_in_the_dark(page: str) -> None:
    parsed = Page(page)
    assert '<html lang="en">' in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert parsed.headings[0] == 1
    steps = zip(parsed.headings, parsed.headings[1:], strict=False)
    assert all(later <= earlier + 1 for earlier, later in steps)
    assert parsed.unlabelled_figures == 0
    assert len(parsed.ids) == len(set(parsed.ids))
    # A fixed colour would vanish in one of the two schemes.
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawings)) == set()


def test_every_section_says_what_the_tables_say(page: str) -> None:
    text = {name: Page(section(page, name)).text for name in SECTIONS}
    assert "0.81" in text["accuracy"]
    assert "0.811" in text["accuracy"]  # held-out users
    assert page.count("<figure") == 3 + 3 + 5
    assert "2 origins" in text["calibration"]
    assert "Day 21 of 28" in text["experiments"]
    assert "dau of target is +3.5% against control" in text["experiments"]
    assert "negative minutes" in text["quality"]
    assert "fewer rows than on other Fridays & <b>bold</b>" in text["quality"]
    assert "evaluations" in text["ledger"]
    assert "c0ffee00" in page
    assert "checksum -1234567890" in text["ledger"]


def test_the_best_of_each_row_is_marked_by_the_measures_own_direction(page: str) -> None:
    rows = re.findall(r"<tr><th scope=\"row\">(\w[\w ]*)</th>(.*?)</tr>", page, re.DOTALL)
    best = {name: re.findall(r"<b>(.*?)</b>", cells) for name, cells in reversed(rows)}
    assert best["auc"] == ["0.81"]
    assert best["log loss"] == ["0.79"]
    assert best["bias"] == ["0.81"]


def test_what_users_and_checks_are_called_cannot_become_markup(told: Told, page: str) -> None:
    assert EVIL not in page
    rare = [row for row in activity_rows(told.recipe) if row["user_id"] == EVIL]
    told.put("activity", rare)
    shown = told.page()
    assert EVIL not in shown
    assert "&lt;script&gt;" in shown


@task(answer="binary", window_days=7)
def stays_away(days: Days) -> np.ndarray:
    return 1 - days.any("visited")


@task(answer="amount", window_days=7, metric="wape", has_head=True)
def usual_minutes(days: Days) -> np.ndarray:
    return days.sum("minutes")


def test_questions_of_a_platforms_own_are_drawn_like_any_other(empty: Told) -> None:
    asked = [vars(stays_away), vars(usual_minutes)]
    recipe = Recipe.model_validate(empty.recipe.model_dump() | {"tasks": asked})
    lake = Told(empty.settings.home, recipe)
    lake.put("activity", activity_rows(recipe))
    lake.put("evaluations", evaluation_rows(recipe), challenger="3")
    page = lake.page()
    calibration = section(page, "calibration")
    assert re.search(r"stays_away: base rate .* \(probability\)", calibration)
    assert re.search(r"usual_minutes: median outcome .* \(amount\)", calibration)
    assert "Gain of usual_minutes" in section(page, "gain")


def test_the_calendar_shows_what_was_known_on_the_day_and_nothing_else(page: str) -> None:
    calendar = section(page, "calendar")
    (row,) = re.findall(r"<tr><th scope=\"row\">num_classes</th>(.*?)</tr>", calendar, re.DOTALL)
    cells = re.findall(r"<td.*?>(.*?)</td>", row)
    assert len(cells) == 7 + 10
    announced = [f"{10 + n}" for n in range(-6, 5)]
    announced[8] = "77"  # a correction that was known on the day
    assert cells[:11] == announced  # and not 88, which came a day later
    assert all("not announced" in cell for cell in cells[11:])


def test_the_same_tables_give_the_same_bytes(told: Told, page: str) -> None:
    assert told.page() == page


def test_the_page_stays_what_it_was_when_later_dates_write_their_rows(
    told: Told, page: str
) -> None:
    schema = tables(told.recipe)["activity"].arrow_schema(told.recipe)
    uri = table_uri(told.settings, told.recipe, "activity")
    replace(uri, schema.empty_table(), where=None)
    uri = table_uri(told.settings, told.recipe, "effects")
    later = pa.Table.from_pylist(
        [effect_row("dau", "primary", 9.0, 0.1)],
        schema=tables(told.recipe)["effects"].arrow_schema(told.recipe),
    )
    replace(uri, later, where=None)
    assert told.page() == page


def test_a_broken_split_hides_the_effect_behind_a_warning(told: Told) -> None:
    rows = [row | HIDDEN | {"srm_p_value": 1e-9} for row in effect_rows()]
    told.put("effects", rows)
    text = Page(section(told.page(), "experiments")).text
    assert "The split is broken" in text
    assert "+3.5%" not in text


def test_the_report_leads_to_the_page_of_each_experiment_once_it_is_written(
    told: Told, page: str
) -> None:
    assert "lumos review --recipe gym --date 2024-05-10" in section(page, "experiments")
    written = told.experiments / "towels" / "2024-05-10" / "index.html"
    pages.write(written, "<!doctype html>")
    (link,) = Page(section(told.page(), "experiments")).links
    folder = told.settings.home / "reports" / "gym" / "2024-05-10"
    assert (folder / link).resolve() == written


def test_sections_without_a_table_say_which_verb_makes_it(empty: Told) -> None:
    empty.declare(TOWELS)
    empty.put("activity", activity_rows(empty.recipe))
    page = empty.page()
    for name, verb in (
        ("accuracy", "evaluate"),
        ("calibration", "evaluate"),
        ("gain", "evaluate"),
        ("experiments", "measure"),
        ("quality", "validate"),
    ):
        assert f"lumos {verb} --recipe gym --date {DATE}" in section(page, name)
    assert f"lumos publish --recipe gym --date {DATE}" in page
    assert "<figure" in section(page, "users")


def test_a_date_of_which_nothing_is_recorded_is_bad_input(told: Told) -> None:
    with pytest.raises(BadInput, match=r"on 2024-05-09; activity is ready for 2024-05-10. Run"):
        told.run("report", DATE - DAY)


def test_a_recipe_without_events_calendar_or_experiments_has_a_report(empty: Told) -> None:
    plain = load("gym_world.recipe:recipe_without_events").model_dump()
    columns = [column for column in plain["activity"] if column["kind"] == "binary"]
    tasks = [task for task in plain["tasks"] if task["kind"] == "any"]
    changes = {
        "calendar": (),
        "static": (),
        "activity": columns,
        "tasks": tasks,
    }
    empty.recipe = type(empty.recipe).model_validate(plain | changes)
    empty.put("activity", activity_rows(empty.recipe))
    page = empty.page()
    assert "no calendar and no event columns" in section(page, "calendar")
    assert "No experiment runs on this date" in section(page, "experiments")


def test_a_killed_run_leaves_the_old_page(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    path = told.run("report", DATE).details["path"]
    folder = told.settings.home / "reports" / "gym" / "2024-05-10"
    assert [file.name for file in folder.iterdir()] == ["index.html"]
    assert path == str(folder / "index.html")
    before = (folder / "index.html").read_text(encoding="utf-8")

    def fails(template: str, context: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "render", fails)
    with pytest.raises(KeyboardInterrupt):
        told.run("report", DATE)
    assert (folder / "index.html").read_text(encoding="utf-8") == before


def test_days_that_have_matured_stand_beside_what_was_forecast(told: Told) -> None:
    users = section(told.page(), "users")
    assert re.search(r"Forecast and what happened: .*\d% *, (came|did not come)", users)
    assert "chance on the day" in users
    assert isinstance(DATE, dt.date)
