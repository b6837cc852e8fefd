"""The pages as a tired person sees them at night: in a real browser, on a real Airflow."""

import datetime as dt
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks import _health_world as made
from demo.airflow import DAGS, LocalAirflow
from lumos.recipes import load
from tests.conftest import RECIPE, World
from tests.gym.gym_world import raw

pytestmark = pytest.mark.timeout(600)
expect.set_options(timeout=60_000)

DATED = [dag_id for dag_id in DAGS if dag_id != "retract_scores"]
TODAY = dt.datetime.now(dt.UTC).date()
LAST = TODAY - dt.timedelta(days=2)
BAD_NIGHT = {
    "score": "failed",
    **dict.fromkeys(("publish", "export", "shadow", "promote"), "upstream_failed"),
}
SIZES = {"desk": (1280, 800), "phone": (390, 844)}
PATIENCE = 60_000
# Text of this size and weight must stand out from what is behind it (WCAG 2.2, AA).
CONTRAST = 4.5
MEASURE = (Path(__file__).parent / "measure.js").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The gym's raw tables, a ledger of two months, and a bad night: no Spark is needed."""
    found = World(tmp_path_factory.mktemp("browser") / "home", RECIPE, raw.BUSINESS_DATE)
    raw.write_raw(found.home / "lake" / "raw" / "gym")
    settings, recipe = found.settings, load(RECIPE)
    days = [TODAY - dt.timedelta(days=back) for back in range(62, 1, -1)]
    made.write_days(settings, recipe, days)
    made.write_look(settings, recipe, days[-1], 1e-6, "look for users that were lost")
    made.write_publication(settings, recipe, days[-1])
    drifted = {
        **{"day": days[-1], "job": "monitor", "name": "drift_psi", "segment": "minutes"},
        **{"value": 0.31, "verdict": "warning", "message": "minutes are not as in training"},
    }
    entry = made.ledger_row("scores", days[-1], 4_000)
    made.write(settings, recipe, "ledger", [entry], business_date=days[-1], table="scores")
    whole = [
        drifted,
        *(
            {**drifted, "name": n, "segment": "all", "value": v, "verdict": "ok", "message": ""}
            for n, v in made.MONITOR.items()
        ),
    ]
    made.write(settings, recipe, "metrics", whole, day=days[-1], job="monitor")
    return found


@pytest.fixture(scope="module")
def airflow(world: World) -> Iterator[LocalAirflow]:
    environment = {**world.environment, "LUMOS_RETRY_SECONDS": "1", "LUMOS_TASK_RETRIES": "0"}
    with LocalAirflow(world.home, environment=environment) as running:
        engine = create_engine(running.postgres.url("airflow"))
        with Session(engine) as session:
            for dag_id in ("daily_aggregation", "data_quality", "batch_scoring", "ab_metrics"):
                mine = {k: v for k, v in BAD_NIGHT.items() if k in made.TASKS[dag_id]}
                made.add_runs(session, dag_id, [LAST], states=mine)
        engine.dispose()
        yield running


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
def state(browser: Browser, airflow: LocalAirflow) -> dict:
    """Cookies of who has logged in through the form."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(airflow.url, timeout=PATIENCE)
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(airflow.password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="LUMOS")).to_be_visible(timeout=PATIENCE)
    kept = context.storage_state()
    context.close()
    return kept


@pytest.fixture
def open_page(browser: Browser, airflow: LocalAirflow, state: dict) -> Iterator:
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
        page.goto(f"{airflow.url}{path}")
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
    frame.get_by_role("link", name="score", exact=True).click()
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
    page = open_page("/")
    for dag_id in DATED:
        page.goto(f"{airflow.url}/dags/{dag_id}")
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
