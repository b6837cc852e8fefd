"""Pages behind Airflow's real login, and the buttons that lead to them."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow import settings
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.base import Base
from airflow.serialization.serialized_objects import OperatorSerialization
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lumos_airflow import jobs
from lumos_airflow.links.experiment import ExperimentPageLink

from lumos.recipes import load
from lumos.settings import Settings
from lumos.stored import store
from tests.conftest import RECIPE

PAGES = "/lumos/reports/gym/experiments"
PAGE = f"{PAGES}/towels/2024-05-10/index.html"
MONITOR = "/lumos/reports/gym/monitor/2024-05-10/index.html"
# What the login and the right to a DAG look into; all tables would take ten times as long.
NEEDED = ("revoked_token", "dag", "dag_bundle", "dag_bundle_team", "team")


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Airflow's server as far as plugins and logins go: its own parts, put together by itself."""
    found = FastAPI()
    airflow_app.init_plugins(found)
    airflow_app.init_auth_manager(found)
    airflow_app.init_middlewares(found)
    tables = [Base.metadata.tables[name] for name in NEEDED]
    Base.metadata.create_all(settings.get_engine(), tables=tables)
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of reports with one page, and what must never be served around it."""
    folder = tmp_path / "reports" / "gym"
    for path, text in (
        ("experiments/index.html", "all of them"),
        ("experiments/towels/2024-05-10/index.html", "the page"),
        ("experiments/towels/2024-05-10/secret.txt", "secret"),
        ("monitor/2024-05-10/index.html", "what is unusual"),
        ("monitor/index.html", "secret"),
        ("2024-05-10/index.html", "secret: the daily report"),
        ("index.html", "secret"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "index.html").write_text("secret")
    (folder / "experiments" / "linked").mkdir()
    (folder / "experiments" / "linked" / "2024-05-10").symlink_to(outside)
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    store(Settings.from_environment(), RECIPE, load(RECIPE))
    yield tmp_path
    monkeypatch.undo()


def visitor(app: FastAPI, role: str | None = None) -> TestClient:
    """A browser; with a role, one whose user has logged in to the UI."""
    client = TestClient(app, follow_redirects=False)
    if role is not None:
        user = SimpleAuthManagerUser(username="somebody", role=role or None)
        token = airflow_app.get_auth_manager().generate_jwt(user)
        client.cookies.set("_token", token)
    return client


def test_who_has_not_logged_in_sees_no_page(app, home):
    for page in (PAGE, f"{PAGES}/index.html"):
        answer = visitor(app).get(page)
        assert answer.status_code == 401
        assert "page" not in answer.text
        assert "all of them" not in answer.text
    assert visitor(app).get(MONITOR).status_code == 401
    forged = visitor(app)
    forged.cookies.set("_token", "e30.e30.e30")
    assert forged.get(PAGE).status_code in (401, 403)


def test_who_may_not_see_the_dag_sees_no_page(app, home):
    for page in (PAGE, f"{PAGES}/index.html", MONITOR):
        assert visitor(app, role="").get(page).status_code == 403


def test_who_may_see_the_dag_sees_the_page_and_it_can_run_nothing(app, home):
    client = visitor(app, role="viewer")
    answer = client.get(PAGE)
    assert (answer.status_code, answer.text) == (200, "the page")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert client.get(f"{PAGES}/index.html").text == "all of them"
    monitor = client.get(MONITOR)
    assert (monitor.status_code, monitor.text) == (200, "what is unusual")
    assert monitor.headers["content-security-policy"] == policy


@pytest.mark.parametrize(
    "path",
    [
        f"{PAGES}/towels/2024-05-11/index.html",
        f"{PAGES}/towels/2024-05-10/secret.txt",
        f"{PAGES}/towels/2024-05-10/",
        "/lumos/reports/gym/2024-05-10/index.html",
        "/lumos/reports/gym/index.html",
        "/lumos/reports/gym/monitor/index.html",
        "/lumos/reports/gym/monitor/2024-05-11/index.html",
        "/lumos/reports/gym/monitor/..%2f2024-05-10/index.html",
        "/lumos/reports/Gym/experiments/index.html",
        f"{PAGES}/linked/2024-05-10/index.html",
        f"{PAGES}/towels/today/index.html",
        f"{PAGES}/%2e%2e/2024-05-10/index.html",
        f"{PAGES}/..%2f..%2fgym/2024-05-10/index.html",
        f"{PAGES}/towels%00/2024-05-10/index.html",
        f"{PAGES}/towels%0a/2024-05-10/index.html",
        "/lumos/reports/%2e%2e/experiments/index.html",
        "/lumos/reports/..%2freports%2fgym/experiments/index.html",
        "/lumos/reports/openapi.json",
    ],
)
def test_nothing_but_pages_of_experiments_and_monitors_is_served(app, home, path):
    answer = visitor(app, role="admin").get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def button(**options: str) -> str:
    """The address under the button once the task has rendered its templates."""
    task = jobs.verb("review", options={})
    task.recipe, task.date, task.options = RECIPE, "2024-05-10", options
    (link,) = task.operator_extra_links
    return link.get_link(task, ti_key=SimpleNamespace())


def test_the_button_leads_to_what_the_server_serves(app, home):
    client = visitor(app, role="viewer")
    assert client.get(button(experiment="towels")).text == "the page"
    assert client.get(button(experiment="")).text == "all of them"


def test_the_button_keeps_the_path_under_which_the_server_lies(home, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://host.example/airflow/")
    assert button(experiment="towels") == f"/airflow{PAGE}"


def test_before_the_first_verb_of_its_recipe_a_button_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    assert button(experiment="towels") == ""


def test_the_button_stands_on_the_task_review_and_on_no_other():
    shown = OperatorSerialization.serialize_operator(jobs.verb("review"))
    assert shown["_operator_extra_links"] == {ExperimentPageLink.name: "_link_ExperimentPageLink"}
    assert jobs.verb("measure").operator_extra_links == ()


def test_the_button_on_the_task_monitor_leads_to_its_page(app, home):
    task = jobs.verb("monitor", options={"of": "tables"})
    task.recipe, task.date = RECIPE, "2024-05-10"
    (link,) = task.operator_extra_links
    address = link.get_link(task, ti_key=SimpleNamespace())
    assert visitor(app, role="viewer").get(address).text == "what is unusual"


def test_pages_are_written_where_they_are_served_in_the_cloud_too(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "is_cloud", lambda: True)
    assert type(jobs.verb("review")).__name__ == "LocalReviewOperator"
    assert type(jobs.verb("monitor")).__name__ == "LocalMonitorOperator"
    assert os.environ.get("LUMOS_PLATFORM", "local") == "local"
