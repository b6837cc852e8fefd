"""A picture of the health page as the demo leaves it, for the report."""

import datetime as dt
import shutil
import time

import httpx

from demo.airflow import LocalAirflow

PAGE = "/lumos/health"
_PATIENCE_SECONDS = 60


def take(airflow: LocalAirflow, recipe: str, date: dt.date) -> str:
    """Write ``health.png`` beside the report of a date; says why there is none.

    Args:
        airflow: It runs.
        recipe: Its own name, by which reports lie.
        date: Business date of the report.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return "there is no chromium on this host (apt-get install chromium)"
    # Only the demo of a checkout has it; it takes a while to import.
    from playwright.sync_api import Error, sync_playwright

    path = airflow.home / "reports" / recipe / date.isoformat() / "health.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    login = {"username": "admin", "password": airflow.password}
    try:
        token = httpx.post(f"{airflow.url}/auth/token", json=login, timeout=_PATIENCE_SECONDS)
        token.raise_for_status()
        cookie = {"name": "_token", "value": token.json()["access_token"], "url": airflow.url}
        _wait_for_the_registry(airflow, cookie["value"])
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"], timeout=1000 * _PATIENCE_SECONDS
            )
            page = browser.new_page(viewport={"width": 1100, "height": 800})
            page.context.add_cookies([cookie])
            page.goto(f"{airflow.url}{PAGE}", timeout=1000 * _PATIENCE_SECONDS)
            page.screenshot(path=path, full_page=True)
            browser.close()
    except (Error, httpx.HTTPError) as error:
        return f"the browser gave none: {str(error).splitlines()[0]}"
    return ""


def _wait_for_the_registry(airflow: LocalAirflow, token: str) -> None:
    """It is asked in the background; a picture that does not know the model yet is a poor one."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    until = time.monotonic() + _PATIENCE_SECONDS
    with httpx.Client(headers=headers, timeout=_PATIENCE_SECONDS) as client:
        while time.monotonic() < until:
            found = client.get(f"{airflow.url}{PAGE}").raise_for_status().json()
            if found["champion"]["read"]:
                return
            time.sleep(0.5)
