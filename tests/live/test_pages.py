"""The pages as a tired person sees them at night: in a real browser, on a real Airflow."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from benchmarks import _health_world as made
from demo.airflow import DAGS, LocalAirflow
from demo.client import Run
from lumos.recipes import load
from tests.conftest import World
from tests.live.night import LIVE, NEXT_DAY, PATIENCE_SECONDS, finish

pytestmark = LIVE
expect.set_options(timeout=60_000)

DATED = [dag_id for dag_id in DAGS if dag_id != "retract_scores"]
SIZES = {"desk": (1280, 800), "phone": (390, 844)}
PATIENCE = 60_000
# Text of this size and weight must stand out from what is behind it (WCAG 2.2, AA).
CONTRAST = 4.5
MEASURE = (Path(__file__).parent / "measure.js").read_text()


@pytest.fixture(scope="module")
def served(airflow: LocalAirflow, live_world: World, next_day: list[Run]) -> LocalAirflow:
    """The day that the scheduler made, and then troubles: every mark of the page is to be seen."""
    finish(airflow, next_day)
    settings, recipe = live_world.settings, load(live_world.recipe_name)
    made.write_look(settings, recipe, NEXT_DAY, 1e-6, "look for users that were lost")
    drifted = {
        **{"day": NEXT_DAY, "job": "monitor", "name": "drift_psi", "segment": "minutes"},
        **{"value": 0.31, "verdict": "warning", "message": "minutes are not as in training"},
    }
    where = {name: drifted[name] for name in ("day", "job", "segment")}
    made.write(settings, recipe, "metrics", [drifted], **where)
    run = airflow.trigger("batch_scoring", date=NEXT_DAY, conf={"model": "99"})
    assert airflow.wait([run], timeout_seconds=PATIENCE_SECONDS) == {run: "failed"}
    return airflow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; without one there is nothing to look at."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"chromium does not start here: {error.message.splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def state(browser: Browser, served: LocalAirflow) -> dict:
    """Cookies of who has logged in through the form."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.url, timeout=PATIENCE)
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(served.password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="LUMOS")).to_be_visible(timeout=PATIENCE)
    kept = context.storage_state()
    context.close()
    return kept


@pytest.fixture
def open_page(browser: Browser, served: LocalAirflow, state: dict) -> Iterator:
    """A window of a size and a colour scheme, logged in."""
    contexts = []

    def opened(path: str, size: str = "desk", scheme: str = "light") -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            storage_state=state,
            viewport={"width": width, "height": height},
            color_scheme=scheme,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"{served.url}{path}")
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_health_page_is_readable_and_fits(open_page, tmp_path, size, scheme):
    page = open_page("/lumos/health", size, scheme)
    expect(page.get_by_role("status")).to_contain_text("Critical")
    expect(page.get_by_role("main")).to_contain_text("the split is broken")
    page.screenshot(path=tmp_path / f"health-{size}-{scheme}.png", full_page=True)
    found = page.evaluate(MEASURE)
    assert found["overflow"] == 0
    assert found["texts"] > 50
    assert found["faint"] == [], f"below {CONTRAST}"
    headings = page.locator("h1, h2").all_inner_texts()
    assert len(headings) == 9


def test_every_link_is_reached_by_the_keyboard_and_seen_to_be(open_page):
    page = open_page("/lumos/health")
    wanted = page.locator("a:visible, button:visible").count()
    reached = set()
    for _ in range(3 * wanted):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            "() => { const e = document.activeElement; const all = [...document.querySelectorAll("
            "'a, button')]; const s = getComputedStyle(e); return [all.indexOf(e), "
            "s.outlineStyle === 'none' ? 0 : parseFloat(s.outlineWidth)] }"
        )
        if place >= 0:
            assert outline >= 2
            reached.add(place)
        if len(reached) >= wanted:
            break
    assert len(reached) >= wanted
    page = open_page("/lumos/health")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#main$"))


def test_the_page_stands_inside_the_ui_and_its_links_lead_the_ui(open_page, tmp_path):
    page = open_page("/")
    page.get_by_role("link", name="LUMOS").click()
    frame = page.frame_locator("iframe[title='LUMOS']")
    expect(frame.get_by_role("status")).to_contain_text("Critical")
    page.screenshot(path=tmp_path / "inside.png")
    chain = frame.get_by_role("region", name="The day's chain")
    chain.get_by_role("link", name="score", exact=True).click()
    expect(page).to_have_url(re.compile(r"/dags/batch_scoring/runs/[^/]+/tasks/score"))
    expect(page.locator("iframe")).to_have_count(0)
    expect(page.get_by_text("batch_scoring").first).to_be_visible()


def test_a_table_leads_to_its_history(open_page, tmp_path):
    page = open_page("/lumos/health", "phone")
    page.get_by_role("link", name="scores", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Table scores")
    assert page.evaluate(MEASURE)["overflow"] == 0
    page.screenshot(path=tmp_path / "table.png", full_page=True)
    page.get_by_role("link", name="Health of").click()
    expect(page.get_by_role("status")).to_be_visible()


def test_the_form_of_every_dated_dag_asks_for_a_business_date(open_page, airflow):
    for dag_id in DATED:
        asked = airflow.call("GET", f"/dags/{dag_id}/details")["params"]["business_date"]
        assert asked["schema"]["format"] == "date", dag_id
    # The form is drawn from these alone, so one is enough to look at.
    page = open_page("/dags/batch_scoring")
    page.get_by_role("button", name="Trigger").first.click()
    field = page.locator("[name=element_business_date]")
    expect(field).to_be_visible()
    assert field.get_attribute("type") == "date"


def test_a_backfill_made_in_the_ui_is_seen_in_the_grid(open_page, tmp_path):
    page = open_page("/dags/data_quality")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_text("Run this Dag for a range of dates").click()
    # Days whose tables do not exist: the runs wait for them, which costs this test nothing.
    for place, day in enumerate(("2024/02/01", "2024/02/02")):
        page.get_by_test_id("datetime-input").nth(place).click()
        date = page.get_by_placeholder("YYYY/MM/DD").locator("visible=true")
        date.fill(day)
        date.press("Enter")
        page.keyboard.press("Escape")
        expect(date).to_have_count(0)
    expect(page.get_by_text("2 runs will be triggered")).to_be_visible()
    page.get_by_role("button", name="Run Backfill").click()
    expect(page.get_by_text("Backfill in progress")).to_be_visible()
    # A grid in which nothing ran is not drawn anew by itself.
    page.reload()
    # Run ids carry the day after.
    for day in ("2024-02-02", "2024-02-03"):
        expect(page.locator(f"a[href*='/runs/backfill__{day}']").first).to_be_visible()
    page.screenshot(path=tmp_path / "grid.png")
