import datetime as dt
import math
import re
from pathlib import Path

import pytest

from lumos.study import pages
from lumos.verbs import BadInput, GateRefused
from tests.study.html import Page, section
from tests.study.trial import (
    DATE,
    DAY,
    HIDDEN,
    LATE,
    NO_DATA,
    NO_LOOK,
    START,
    TOWELS,
    Told,
    check_row,
    check_rows,
    effect_row,
    effect_rows,
    look_rows,
    outcome_rows,
)

SECTIONS = (
    *("split", "course", "metrics", "guardrails", "daily", "data"),
    *("precision", "segments", "declaration"),
)
EFFECTS = ("+3.5%", "+0.0110", "0.3127", "0.3237", "0.0318", "0.01225", "0.01435")
MINUS = "\N{MINUS SIGN}"
EVIL = "<script>alert('m')</script>"


def text_of(page: str, name: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", " ", section(page, name)))


def verdict_of(page: str) -> str:
    found = re.search(r'<div class="verdict-card.*?</div>', page, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", "", found.group()))


def reviewed(lake: Told, date: dt.date = DATE) -> str:
    lake.run("review", date)
    return lake.experiment_page(date)


def test_the_page_is_whole_asks_no_server_and_leads_back_to_the_list(trial_page: str) -> None:
    parsed = Page(trial_page)
    assert set(SECTIONS) <= set(parsed.ids)
    assert {link for link in parsed.links if not link.startswith("#")} == {"../../index.html"}
    assert {link[1:] for link in parsed.links if link.startswith("#")} >= set(SECTIONS)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe|<img|<form", trial_page)


def test_the_page_can_be_read_by_ear_in_the_dark_and_on_paper(trial_page: str) -> None:
    parsed = Page(trial_page)
    assert '<html lang="en">' in trial_page
    assert "@media screen and (prefers-color-scheme: dark)" in trial_page
    assert "@media print" in trial_page
    steps = zip(parsed.headings, parsed.headings[1:], strict=False)
    assert parsed.headings[0] == 1
    assert all(later <= earlier + 1 for earlier, later in steps)
    assert parsed.unlabelled_figures == 0
    assert len(parsed.ids) == len(set(parsed.ids))
    drawings = "".join(re.findall(r"<svg.*?</svg>", trial_page, re.DOTALL))
    assert trial_page.count("<svg") == 10
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawings)) == set()


def test_the_verdict_is_the_advice_the_effect_and_that_it_is_preliminary(trial_page: str) -> None:
    verdict = verdict_of(trial_page)
    assert "Go on: nothing is decided yet; 7 of 28 days are left." in verdict
    assert f"dau of target is +3.5% against control (95% interval {MINUS}0.3% to" in verdict
    assert "This is preliminary. What decides is dau: its bound at a planned look" in verdict
    assert "days 22 to 28" in verdict
    assert "Fri 17 May 2024" in verdict


def test_what_a_table_says_is_where_a_reader_looks_for_it(trial_page: str) -> None:
    split, metrics = text_of(trial_page, "split"), text_of(trial_page, "metrics")
    assert "10,043" in split
    assert "10,012.5" in split
    assert "0.6663" in split
    for shown in ("0.3127", "+3.5%", f"{MINUS}0.3% to +7.4%", "0.0318", "group_sequential"):
        assert shown in metrics
    assert "always_valid" in metrics
    assert "Active days per user since exposure." in metrics
    assert text_of(trial_page, "guardrails").count("holds") == 2
    precision = text_of(trial_page, "precision")
    assert "pre_period declared +0.0110 0.005118 31.0% 1.45 &times;" in precision
    assert "both 42%" in section(trial_page, "precision")
    assert "Exploratory" in text_of(trial_page, "segments")
    assert "plan=monthly" in text_of(trial_page, "segments")
    declaration = text_of(trial_page, "declaration")
    for declared in ("control 50%, target 50%", "today is day 21", "every day", "4% or more"):
        assert declared in declaration
    assert "17 users do not count: two_variants" in trial_page


def test_what_was_shown_stays_and_late_data_stands_beside_it(trial: Told, trial_page: str) -> None:
    course = text_of(trial_page, "course")
    assert f"Day {LATE}, target: shown then +0.0122524; with late data +0.01435." in course
    assert course.count("shown then") == 1
    rows = effect_rows()
    rows[LATE - 1]["effect"] = look_rows()[LATE - 1]["effect"]
    trial.put("effects", rows)
    assert "with late data" not in reviewed(trial)


def test_a_morning_without_a_look_is_a_gap_and_is_said(trial: Told, trial_page: str) -> None:
    assert f"No look was taken on day {NO_LOOK}, though one was planned" in trial_page
    trial.declare(TOWELS.replace("minimum_effect", "looks = [8, 14, 21, 28]\nminimum_effect"))
    page = reviewed(trial)
    assert "though one was planned" not in page
    assert "on days 28" not in page
    assert "planned look (on day 28)" in page


def test_a_day_on_which_nobody_at_all_was_active_is_missing_data(trial: Told) -> None:
    page = reviewed(trial)
    assert f"on day {NO_DATA} (2024-05-02)." in text_of(page, "data")
    rows = outcome_rows()
    rows[2 * NO_DATA - 1]["num_active"] = 3
    for row in rows[:2]:  # nobody was there yet who could have been active
        row |= {"num_users": 0, "num_new": 0, "num_active": 0}
    trial.put("outcomes", rows)
    assert "Missing data" not in reviewed(trial)
    trial.put("outcomes", rows[:6] + rows[8:])
    assert "on day 4 (2024-04-23)." in text_of(reviewed(trial), "data")


def test_the_effect_early_and_late_stand_side_by_side(trial_page: str) -> None:
    found = re.search(r"target: (.\d\.\d+) points in the first half, (.\d\.\d+) in", trial_page)
    assert found is not None
    early, late = (float(text) for text in found.groups())
    rows = {(row["day"], row["variant"]): row for row in outcome_rows()}
    days = [START + n * DAY for n in range(10)]
    apart = [
        rows[day, "target"]["num_active"] / rows[day, "target"]["num_users"]
        - rows[day, "control"]["num_active"] / rows[day, "control"]["num_users"]
        for day in days
    ]
    assert early == pytest.approx(100 * sum(apart) / 10, abs=0.01)
    assert early > late


def test_a_broken_split_turns_the_task_red_and_leaves_no_effect_on_the_page(drawn: Told) -> None:
    broken = {"srm_p_value": 3.1e-5, "num_treatment": 9_482}
    # Not even where the table has them: the page must hide them by itself.
    drawn.put("effects", [row | broken for row in effect_rows()])
    drawn.put("metrics", [check_row("srm_p_value", "sample ratio broken: so many", "critical")])
    with pytest.raises(GateRefused, match=r"towels: sample ratio broken: so many \(see .*html\)"):
        drawn.run("review")
    page = drawn.experiment_page()
    assert "The split is broken" in verdict_of(page)
    assert 'role="alert"' in page
    assert "3.1e-05" in text_of(page, "split")
    assert set(Page(page).ids) & {"course", "metrics", "guardrails", "daily", "precision"} == set()
    for effect in EFFECTS:
        assert effect not in page
    assert "active" not in "".join(re.findall(r"<figure.*?</figure>", page, re.DOTALL))
    listed = (drawn.experiments / "index.html").read_text(encoding="utf-8")
    assert "The split is broken" in listed


def test_a_split_is_broken_by_the_declared_limit_whatever_else_was_written(trial: Told) -> None:
    trial.put("effects", [row | HIDDEN | {"srm_p_value": 0.0009} for row in effect_rows()])
    with pytest.raises(GateRefused, match="the split is broken"):
        trial.run("review")


def test_a_crossed_guardrail_turns_the_task_red_and_the_page_says_which(trial: Told) -> None:
    message = "guardrail offer_cost is crossed: target - control = 2"
    alarm = check_row("offer_cost.target.effect", message, "critical")
    trial.put("metrics", [*check_rows(), alarm])
    with pytest.raises(GateRefused, match=f"towels: {message}"):
        trial.run("review")
    page = trial.experiment_page()
    assert f"Alarm: {message}" in verdict_of(page)
    assert "tone-bad" in page
    guardrails = text_of(page, "guardrails")
    assert re.search(r"offer_cost target less [^a-z]*% to [^a-z]*always_valid crossed ", guardrails)
    assert guardrails.count("holds") == 1
    assert "+3.5%" in text_of(page, "metrics")


def test_another_experiments_alarm_is_not_this_ones(trial: Told) -> None:
    other = check_row("srm_p_value", "broken", "critical", segment="socks")
    earlier = check_row("srm_p_value", "broken", "critical", day=DATE - DAY)
    trial.put("metrics", [*check_rows(), other, earlier])
    assert "broken" not in reviewed(trial)


def test_a_crossed_bound_is_said_with_its_direction(trial: Told) -> None:
    looks = look_rows()
    advice = "Stop: target is better than control in dau; the bound is crossed."
    looks[-1] |= {"is_crossed": True, "advice": advice}
    trial.put("looks", looks)
    page = reviewed(trial)
    assert advice in verdict_of(page)
    assert "The bound was crossed on day 21, which is enough to stop." in verdict_of(page)
    assert "tone-good" in page
    looks[-1] |= {"effect": -0.02}
    trial.put("looks", looks)
    assert "tone-bad" in reviewed(trial)


def test_on_the_last_day_nothing_is_preliminary_any_more(trial: Told) -> None:
    end = START + 27 * DAY
    rows = [row | {"as_of": end} for row in effect_rows()[-11:]]
    fixed = {"rule": "fixed", "p_adjusted": 0.0322}
    rows = [row | fixed if row["role"] == "secondary" else row for row in rows]
    trial.put("effects", rows, end)
    trial.put("looks", look_rows(end), end)
    page = reviewed(trial, end)
    assert "preliminary" not in page
    assert "adjusted p" in page
    assert "0.0322" in text_of(page, "metrics")


def test_who_stops_an_experiment_gets_a_page_that_says_so(trial: Told) -> None:
    trial.declare(TOWELS.replace("planned_days", "stopped_on = 2024-05-10\nplanned_days"))
    assert "preliminary and stays so" in verdict_of(reviewed(trial))


def test_every_treatment_has_its_rows_and_its_line(drawn: Told) -> None:
    drawn.declare(TOWELS.replace("weight = 0.5", "weight = 0.25") + third("robe", 0.5))
    effects = effect_rows()
    drawn.put("effects", effects + [row | {"variant": "robe"} for row in effects])
    drawn.put("looks", look_rows() + [row | {"variant": "robe"} for row in look_rows()])
    page = reviewed(drawn)
    assert "dau of robe is +3.5%" in verdict_of(page)
    assert "dau of target is +3.5%" in verdict_of(page)
    assert text_of(page, "course").count(" robe ") >= len(look_rows())


def third(name: str, weight: float) -> str:
    return f'\n[[variants]]\nname = "{name}"\nweight = {weight}\n'


def test_an_effect_without_variance_control_or_look_is_shown_as_unknown(tmp_path: Path) -> None:
    lake = Told(tmp_path / "home")
    lake.declare(TOWELS)
    nothing = dict.fromkeys(
        ("error", "relative", "low", "high", "relative_low", "relative_high", "p_value",
         "variance_reduction")
    )  # fmt: skip
    known = {"rule": "none", "control": 0.0, "effect": 0.2, "as_of": START}
    lake.put("effects", [effect_row("dau", "primary", 0.1, 0.1) | nothing | known], START)
    page = reviewed(lake, START)
    assert "No look has been taken yet. dau of target is +0.200 against control" in page
    assert "with no interval yet" in verdict_of(page)
    assert "no interval can be given" in text_of(page, "metrics")


def test_what_is_declared_or_measured_cannot_become_markup(trial: Told) -> None:
    trial.declare(TOWELS.replace("A free towel", EVIL))
    looks = look_rows()
    looks[-1]["advice"] = EVIL
    trial.put("looks", looks)
    trial.put("metrics", [check_row("excluded.x", EVIL, "warning")])
    trial.put("effects", [*effect_rows(), effect_row("dau", "primary", 0.1, 0.01, segment=EVIL)])
    page = reviewed(trial)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    assert "<script" not in (trial.experiments / "index.html").read_text(encoding="utf-8")


def test_a_page_made_again_later_says_the_same(drawn: Told, trial_page: str) -> None:
    later = DATE + DAY
    for name, rows in (
        ("effects", [effect_row("dau", "primary", 9.0, 0.1, as_of=later)]),
        ("looks", look_rows(later)[-1:]),
        ("outcomes", outcome_rows(later)[-2:]),
    ):
        drawn.put(name, rows, later)
    assert reviewed(drawn) == trial_page


def test_the_list_has_every_experiment_with_its_newest_page(trial: Told) -> None:
    trial.declare(
        TOWELS.replace('"towels"', '"socks"').replace("2024-04-20", "2025-01-01"), "socks"
    )
    later = DATE + DAY
    trial.put("effects", [row | {"as_of": later} for row in effect_rows()[-11:]], later)
    trial.run("review", later)
    trial.run("review", DATE)
    listed = (trial.experiments / "index.html").read_text(encoding="utf-8")
    assert Page(listed).links == ["towels/2024-05-11/index.html"]
    assert (trial.experiments / Page(listed).links[0]).is_file()
    assert "dau of target is +3.5%" in listed
    assert "Sat 11 May 2024" in listed
    assert listed.index("socks") < listed.index("towels")
    assert "No page yet. It runs from Wed 1 Jan 2025" in listed


def test_the_report_of_the_verb_says_where_the_pages_lie(trial: Told) -> None:
    details = trial.run("review", experiment="towels").details
    assert details["pages"] == {"towels": str(trial.experiments / "towels/2024-05-10/index.html")}
    assert details["index"] == str(trial.experiments / "index.html")


def test_a_date_without_an_experiment_ends_well_and_says_so(trial: Told) -> None:
    details = trial.run("review", START - DAY).details
    assert details["pages"] == {}
    assert "none of towels runs on 2024-04-19" in details["note"]


def test_an_experiment_that_was_not_measured_is_bad_input(trial: Told) -> None:
    with pytest.raises(BadInput, match=r"not measured on 2024-05-11. Run lumos measure"):
        trial.run("review", DATE + DAY)


def test_a_killed_run_leaves_the_old_page(trial: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trial.experiment_page()

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    trial.put("metrics", [])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.raises(KeyboardInterrupt):
            trial.run("review")
    assert trial.experiment_page() == before


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0170, "+0.0170"),
        (-12.3456, f"{MINUS}12.3"),
        (1234.0, "+1.23e+03"),
        (150.0, "+150"),
    ],
)
def test_numbers_of_a_column_are_of_one_precision(value: float | None, shown: str) -> None:
    assert pages.signed(value) == shown


def test_a_p_value_too_small_to_tell_is_not_called_zero() -> None:
    assert pages.probability(1e-9) == "< 0.0001"
    assert pages.probability(0.04112) == "0.0411"
    assert math.isclose(float(pages.probability(1.0)), 1.0)
