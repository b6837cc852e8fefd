"""A picture of the health page, taken by Debian's Chromium where there is one."""

import shutil
from pathlib import Path

from playwright.sync_api import Error, sync_playwright

from demo.airflow import LocalAirflow

PAGE = "/lumos/health"
_PATIENCE_MS = 60_000


def photograph(airflow: LocalAirflow, path: Path) -> str:
    """Save the page as a PNG at ``path``; returns why not, or an empty text.

    Args:
        airflow: Running; the page is seen as its admin sees it.
        path: Its folder is made; a picture that is there is replaced.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return "no picture of the health page: there is no chromium (apt-get install chromium)"
    path.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(_PATIENCE_MS)
            page.goto(airflow.url)
            page.locator("input[name=username]").fill("admin")
            page.locator("input[name=password]").fill(airflow.password)
            page.keyboard.press("Enter")
            page.wait_for_url(lambda url: "/login" not in url)
            page.goto(f"{airflow.url}{PAGE}")
            page.locator("main").wait_for()
            page.screenshot(path=path, full_page=True)
            browser.close()
        except Error as error:
            return f"no picture of the health page: {error.message.splitlines()[0]}"
    return ""
