"""The health page behind Airflow's real login: who may read and act, what it says of trouble."""

import datetime as dt
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lumos_airflow.health import due, latest, look, page, runbook, runs, state
from lumos_airflow.health.latest import Latest, Reading
from sqlalchemy import delete, select

from benchmarks import _health_world as made
from lumos.recipes import load
from lumos.settings import REPOSITORY, Settings
from lumos.stored import store
from lumos.tables import table_uri
from tests.conftest import RECIPE, WHERE_WE_WORK

PAGE = "/lumos/health"
TODAY = dt.datetime.now(dt.UTC).date()
YESTERDAY = TODAY - dt.timedelta(days=1)
DAILY = ("daily_aggregation", "data_quality", "batch_scoring", "ab_metrics")
JSON = {"accept": "application/json"}
HERE = {"sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def database() -> None:
    made.make_database()


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An empty lake, and people who start every run by hand."""
    places = {
        "LUMOS_HOME": str(tmp_path),
        "LUMOS_LAKE": str(tmp_path / "lake"),
        "LUMOS_RECIPE": RECIPE,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    assert set(places) == set(WHERE_WE_WORK)
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LUMOS_SCHEDULE", "off")
    # MLflow has tests of its own below; it takes seconds each time.
    version = look.Version(version="7", registered=dt.datetime.now(dt.UTC), as_of="2024-05-10")
    found = look.Found(champion=version)
    monkeypatch.setattr(look, "look", lambda _name: found)
    (tmp_path / "lake").mkdir()
    store(Settings.from_environment(), RECIPE, load(RECIPE))
    yield Settings.from_environment()
    monkeypatch.undo()


@pytest.fixture
def app(database, lake) -> Iterator[FastAPI]:
    """Airflow's login and rights, and the pages."""
    found = FastAPI()
    found.mount(page.PREFIX, page.pages())
    airflow_app.init_auth_manager(found)
    airflow_app.init_middlewares(found)
    yield found
    with create_session() as session:
        for model in (TaskInstance, DagRun, Log):
            session.execute(delete(model))


@pytest.fixture
def days(lake) -> None:
    """A lake of five weeks that are as usual."""
    five_weeks = [YESTERDAY - dt.timedelta(days=back) for back in range(35)]
    made.write_days(lake, load(RECIPE), five_weeks)
    made.write_look(lake, load(RECIPE), YESTERDAY, 0.4)
    made.write_publication(lake, load(RECIPE), YESTERDAY)


def visitor(app: FastAPI, role: str | None = None, seconds: int = 600) -> TestClient:
    """A browser; with a role, one whose user has logged in."""
    client = TestClient(app, follow_redirects=False)
    if role is not None:
        user = SimpleAuthManagerUser(username="somebody", role=role or None)
        manager = airflow_app.get_auth_manager()
        token = manager.generate_jwt(user, expiration_time_in_seconds=seconds)
        client.cookies.set("_token", token)
    return client


def seen(app: FastAPI, **query: str) -> dict:
    """The page as JSON, once the registry has answered."""
    client = visitor(app, "viewer")
    client.get(PAGE, params=query)
    return client.get(PAGE, params=query, headers=JSON).json()


def all_done(**states: str) -> None:
    with create_session() as session:
        for dag_id in DAILY:
            mine = {k: v for k, v in states.items() if k in made.TASKS[dag_id]}
            made.add_runs(session, dag_id, [YESTERDAY], states=mine)


class Words(HTMLParser):
    """What a reader sees of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.tags, self._hidden = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag if tag in ("script", "style") else self._hidden

    def handle_endtag(self, tag):
        self._hidden = "" if tag == self._hidden else self._hidden

    def handle_data(self, data):
        self.words += "" if self._hidden else data


def test_only_who_has_logged_in_sees_anything(app, days):
    forged = visitor(app)
    forged.cookies.set("_token", "e30.e30.e30")
    for address in (PAGE, f"{PAGE}/tables/scores", "/lumos/runbook"):
        assert visitor(app).get(address).status_code == 401
        assert forged.get(address).status_code in (401, 403)
        assert visitor(app, "admin", seconds=-10).get(address).status_code == 401
    assert visitor(app, role="").get(PAGE).status_code == 403


def test_who_may_not_read_one_dag_of_the_chain_sees_nothing_of_the_others(app, days, monkeypatch):
    viewer, manager = visitor(app, "viewer"), airflow_app.get_auth_manager()
    may_read = manager.is_authorized_dag
    for hidden in page.DAGS:

        def all_but_one(*, details=None, hidden=hidden, **asked) -> bool:
            return details.id != hidden and may_read(details=details, **asked)

        monkeypatch.setattr(manager, "is_authorized_dag", all_but_one)
        assert viewer.get(PAGE).status_code == 403, hidden


def test_a_viewer_reads_and_only_an_operator_acts(app, days):
    all_done(score="failed", publish="upstream_failed")
    viewer, operator = visitor(app, "viewer"), visitor(app, "op")
    shown = viewer.get(PAGE)
    assert shown.status_code == 200
    assert "Run again" not in shown.text
    act = re.search(r'action="(health/retry[^"]+)"', operator.get(PAGE).text)
    address = "/lumos/" + act[1].replace("&amp;", "&")
    assert visitor(app).post(address, headers=HERE).status_code == 401
    assert viewer.post(address, headers=HERE).status_code == 403
    assert operator.post(address).status_code == 403
    assert operator.post(address, headers={"sec-fetch-site": "same-site"}).status_code == 403
    assert state_of("score") == "failed"
    answer = operator.post(address, headers=HERE)
    assert (answer.status_code, answer.headers["location"]) == (303, "../health")
    assert (state_of("score"), state_of("publish"), state_of("resolve")) == (None, None, "success")
    with create_session() as session:
        (entry,) = session.scalars(select(Log).where(Log.event == "lumos_health_retry"))
        assert (entry.owner, entry.dag_id, entry.task_id) == ("somebody", "batch_scoring", "score")
    # What was done is seen at once, not when the cache has grown old.
    assert not any(p["task_id"] for p in operator.get(PAGE, headers=JSON).json()["problems"])


@pytest.mark.parametrize(
    "query",
    [
        "dag_id=batch_scoring&run_id=none&task_id=score",
        "dag_id=../etc&run_id=a&task_id=score",
        "dag_id=no_such_dag&run_id=a&task_id=score",
    ],
)
def test_what_is_not_there_cannot_be_run_again(app, query):
    assert visitor(app, "op").post(f"{PAGE}/retry?{query}", headers=HERE).status_code == 404


def state_of(task_id: str) -> str | None:
    with create_session() as session:
        return session.scalar(
            select(TaskInstance.state).where(
                TaskInstance.task_id == task_id, TaskInstance.dag_id == "batch_scoring"
            )
        )


def test_html_and_json_say_the_same(app, days):
    all_done(score="failed", publish="upstream_failed")
    told = seen(app)
    words = Words(visitor(app, "viewer").get(PAGE).text).words
    assert told["status"] == "critical"
    assert told["headline"] in words
    for problem in told["problems"]:
        assert problem["title"] in words
    for run in told["chain"]["runs"]:
        for step in run["steps"]:
            assert step["task_id"] in words
            assert step["state"] in words
    for table in told["tables"]["tables"]:
        assert f"{table['rows']:,}" in words
    assert visitor(app, "viewer").get(f"{PAGE}?format=json").json()["problems"] == told["problems"]


def test_a_red_task_leads_to_its_page_and_to_its_section_of_the_runbook(app, days):
    all_done(wait_sequences="failed", score="upstream_failed")
    (problem,) = [p for p in seen(app)["problems"] if p["task_id"]]
    assert problem["runbook"] == "wait-sequences"
    links = [
        a.get("href") for t, a in Words(visitor(app, "viewer").get(PAGE).text).tags if t == "a"
    ]
    assert "runbook#wait-sequences" in links
    (task,) = {x for x in links if x and x.endswith("/tasks/wait_sequences")}
    run = made.run_id(YESTERDAY).replace(":", "%3A").replace("+", "%2B")
    assert task == f"../dags/batch_scoring/runs/{run}/tasks/wait_sequences"


def test_a_healthy_day_lacks_nothing_but_what_nobody_has_measured(app, days):
    all_done()
    told = seen(app)
    assert told["problems"] == []
    assert {name: told[name]["status"] for name in ("chain", "tables", "quality", "drift")} == {
        "chain": "ok",
        "tables": "ok",
        "quality": "ok",
        "drift": "ok",
    }
    assert told["status"] == "ok"
    assert told["champion"]["scores_by"] == "7"
    (variant,) = told["experiments"]["variants"]
    assert (variant["experiment"], variant["status"]) == ("towels", "ok")


@pytest.mark.parametrize(
    "path",
    [
        f"{PAGE}/tables/..%2f..%2fetc%2fpasswd",
        f"{PAGE}/tables/%2e%2e",
        f"{PAGE}/tables/ledger%00",
        f"{PAGE}/tables/Scores",
        f"{PAGE}/tables/manifests",
        f"{PAGE}/tables/scores?recipe=../../etc",
        f"{PAGE}?recipe=no.such:recipe",
        f"{PAGE}?recipe=os:abort",
        f"{PAGE}?recipe=../secret",
        f"{PAGE}?recipe=%3Cscript%3E",
        "/lumos/health.js",
        "/lumos/openapi.json",
    ],
)
def test_what_is_not_there_is_not_found(app, days, path):
    answer = visitor(app, "admin").get(path)
    assert answer.status_code == 404
    assert str(Settings.from_environment().home) not in answer.text


def test_the_history_of_a_table_is_shown(app, days):
    client = visitor(app, "viewer")
    told = client.get(f"{PAGE}/tables/scores", headers=JSON).json()
    assert len(told["entries"]) == 35
    text = client.get(f"{PAGE}/tables/scores").text
    assert f"{told['entries'][-1]['rows']:,}" in Words(text).words
    assert text.count("<rect") == 35


def test_html_in_a_message_is_shown_and_not_obeyed(app, lake, days):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    row = {"day": YESTERDAY, "job": "monitor", "name": "drift_psi", "segment": evil}
    bad = {**row, "value": 0.9, "verdict": "critical", "message": evil}
    made.write(lake, load(RECIPE), "metrics", [bad], day=YESTERDAY, job="monitor")
    details = {"critical": [evil], "warnings": []}
    entry = made.ledger_row("quality", YESTERDAY, 1, verdict="refused", details=details)
    made.write(lake, load(RECIPE), "ledger", [entry], business_date=YESTERDAY, table="quality")
    answer = visitor(app, "viewer").get(PAGE)
    assert evil in Words(answer.text).words
    assert "<img" not in answer.text
    assert answer.text.count("<script>") == 1
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    told = {problem["runbook"] for problem in seen(app)["problems"]}
    assert told >= {"monitor-drift-psi", "validate"}


def test_a_broken_split_and_odd_rows_are_told(app, lake, days):
    made.write_look(lake, load(RECIPE), YESTERDAY, 1e-6)
    entry = made.ledger_row("scores", YESTERDAY, 100)
    made.write(lake, load(RECIPE), "ledger", [entry], business_date=YESTERDAY, table="scores")
    told = {problem["title"]: problem for problem in seen(app)["problems"]}
    assert told["towels: the split is broken"]["runbook"] == "review"
    (rows,) = [problem for title, problem in told.items() if title.startswith("scores")]
    assert (rows["status"], rows["runbook"]) == ("warning", "publish")


def test_an_open_alert_is_shown_with_whatever_columns_the_table_has(app, lake, days):
    import pyarrow as pa

    from lumos import delta

    rows = [
        {"name": "publish", "severity": "critical", "state": "open", "message": "<b>no</b>"},
        {"name": "score", "severity": "critical", "state": "resolved", "message": "was"},
    ]
    delta.replace(f"{lake.lake}/alerts", pa.Table.from_pylist(rows), where=None)
    told = seen(app)
    assert [alert["name"] for alert in told["alerts"]["open"]] == ["publish"]
    assert told["status"] == "critical"


def test_a_red_monitor_is_told_as_drift_and_refuses_no_table(app, lake, days):
    all_done()
    row = made.ledger_row("monitor_tables", YESTERDAY, 5, verdict="refused")
    made.write(lake, load(RECIPE), "ledger", [row], business_date=YESTERDAY, table="monitor_tables")
    told = seen(app)
    assert told["tables"]["status"] == "ok"
    assert "monitor_tables" not in {table["name"] for table in told["tables"]["tables"]}
    assert told["problems"] == []


@pytest.mark.parametrize("where", ["/proc/nowhere", "s3://bucket/lake", "empty"])
def test_a_lake_that_is_empty_or_away_is_unknown_and_all_else_is_shown(
    app, monkeypatch, where, caplog
):
    all_done(score="failed")
    if where != "empty":
        monkeypatch.setenv("LUMOS_LAKE", where)
        for name, value in {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "secret-key",
            "AWS_SECRET_ACCESS_KEY": "secret-word",
            "AWS_REGION": "eu-central-1",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
    began = time.monotonic()
    answer = visitor(app, "viewer").get(PAGE)
    assert time.monotonic() - began < 8
    assert answer.status_code == 200
    told = seen(app)
    for name in ("tables", "quality", "drift"):
        assert told[name]["status"] == "unknown"
        assert told[name]["note"]
    assert "score failed" in answer.text
    assert told["status"] == "critical"
    for leaked in (
        "Traceback",
        "/proc",
        "127.0.0.1",
        "secret",
        str(Settings.from_environment().home),
    ):
        assert leaked not in answer.text
        assert leaked not in json.dumps(told)
    history = visitor(app, "viewer").get(f"{PAGE}/tables/scores")
    assert history.status_code == 503
    assert "/proc" not in history.text


def test_a_recipe_without_a_verb_yet_is_unknown_while_its_runs_are_shown(app, days, monkeypatch):
    with create_session() as session:
        conf = {"recipe": "gone_world.recipe:recipe"}
        made.add_runs(session, "batch_scoring", [YESTERDAY], conf=conf)
    monkeypatch.setattr(look, "look", lambda _name: look.Found(trouble="recipe"))
    told = seen(app, recipe="gone_world.recipe:recipe")
    assert told["status"] == "unknown"
    assert "No verb has run yet" in told["tables"]["note"]
    (shown,) = [run for run in told["chain"]["runs"] if run["run_id"]]
    assert shown["state"] == "success"
    assert "gone_world.recipe:recipe" in told["recipes"]


def test_a_recipe_of_the_deployment_without_a_verb_yet_is_unknown(app, monkeypatch):
    monkeypatch.setenv("LUMOS_RECIPE", "gone_world.recipe:recipe")
    all_done()
    told = seen(app)
    assert told["status"] == "unknown"
    assert "No verb has run yet" in told["quality"]["note"]


def test_mlflow_is_asked_in_a_process_of_its_own_and_no_recipe_imported(lake, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("LUMOS_LAKE", lake.lake)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = look.look(RECIPE)
    assert (found.trouble, found.champion) == ("registry", None)
    for name in ("gone_world.recipe:recipe", "os:abort"):
        assert look.look(name).trouble == "recipe"


def test_the_process_that_asks_mlflow_sees_nothing_of_airflows_own(lake, monkeypatch):
    asked = []
    monkeypatch.undo()
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret")
    monkeypatch.setattr(look.subprocess, "run", lambda *_, env, **__: asked.append(env))
    with pytest.raises(AttributeError):
        look.look(RECIPE)
    assert not [name for name in asked[0] if "AIRFLOW" in name]


def test_the_server_never_loads_spark_torch_or_mlflow(tmp_path):
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import tests.airflow_home, sys, datetime as dt\n"
            "from lumos_airflow.health import board, lake, page, state\n"
            "from benchmarks._health_world import write_days\n"
            "from lumos import stored\nfrom lumos.recipes import load\n"
            "from lumos.settings import Settings\n"
            "settings = Settings.from_environment()\n"
            "stored.store(settings, settings.recipe, load(settings.recipe))\n"
            "write_days(settings, load(settings.recipe), [dt.date(2024, 5, 10)])\n"
            "told = board.Board()\n"
            "found = told.health(None)\n"
            "assert found.tables.tables, found\n"
            "print([m for m in ('pyspark', 'torch', 'mlflow', 'boto3') if m in sys.modules])",
        ],
        cwd=REPOSITORY,
        env={**environment_of_a_process(), "LUMOS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert told.stdout.splitlines()[-1] == "[]"


def environment_of_a_process() -> dict[str, str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "plugins"), str(REPOSITORY / "tests" / "gym")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def test_scores_are_due_at_a_time_of_day_of_the_deployment(monkeypatch):
    monkeypatch.setenv("LUMOS_SCHEDULE", "on")
    assert due.due(dt.date(2024, 5, 10)) == moment("2024-05-11 06:00")
    assert due.expected(moment("2024-05-11 05:59")) == dt.date(2024, 5, 9)
    assert due.expected(moment("2024-05-11 06:00")) == dt.date(2024, 5, 10)
    monkeypatch.setenv("LUMOS_TIMEZONE", "America/New_York")
    monkeypatch.setenv("LUMOS_SCORES_BY", "07:30")
    assert due.due(dt.date(2024, 5, 10)) == moment("2024-05-11 11:30")
    # The night in which clocks go forward.
    assert due.due(dt.date(2024, 3, 9)) == moment("2024-03-10 11:30")
    monkeypatch.setenv("LUMOS_SCHEDULE", "off")
    assert due.expected(moment("2024-05-11 06:00")) is None


@pytest.mark.parametrize(
    ("state_then", "ended", "date", "now", "problems", "late"),
    [
        ("success", "2024-05-11 05:00", 10, "2024-05-11 09:00", 0, 0),
        ("success", "2024-05-11 07:00", 10, "2024-05-11 09:00", 0, 3600),
        ("running", None, 10, "2024-05-11 05:59", 0, 0),
        ("running", None, 10, "2024-05-11 06:30", 1, 1800),
        ("success", "2024-05-10 05:00", 9, "2024-05-11 05:59", 0, 0),
        ("success", "2024-05-10 05:00", 9, "2024-05-11 08:00", 1, 7200),
    ],
)
def test_a_run_is_late_when_it_is_due_and_not_done(
    monkeypatch, state_then, ended, date, now, problems, late
):
    monkeypatch.setenv("LUMOS_SCHEDULE", "on")
    run = runs.Run(
        *("batch_scoring", "r", "x", dt.date(2024, 5, date), state_then),
        *(moment("2024-05-11 02:00"), moment(ended) if ended else None),
    )
    reading = Reading(runs.Runs({("x", "batch_scoring"): run}, ("x",)), moment(now))
    told, wrong = state.chain.judge(reading, "x", moment(now))
    (scores,) = [each for each in told.runs if each.dag_id == "batch_scoring"]
    assert scores.late_seconds == late
    assert [p.runbook for p in wrong if "batch" in p.runbook] == ["late-batch-scoring"] * problems


def test_the_business_date_is_what_tasks_take_for_it():
    start = moment("2024-05-10 00:00")
    assert runs.business_date({}, start) == dt.date(2024, 5, 10)
    assert runs.business_date({"business_date": "2024-05-01"}, start) == dt.date(2024, 5, 1)
    assert runs.business_date(None, None) is None
    assert runs.business_date({"business_date": "soon"}, start) is None


def test_many_who_ask_at_once_make_it_once_and_nobody_waits_for_ever():
    made_times, gate = [], threading.Event()

    def slow() -> int:
        made_times.append(1)
        gate.wait(60)
        return 7

    value = Latest("It", slow, fresh_seconds=60, wait_seconds=0.1)
    with_trouble: list = []
    threads = [threading.Thread(target=lambda: with_trouble.append(value.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made_times == [1]
    assert {reading.trouble for reading in with_trouble} == {
        "It did not answer within 0.1 seconds."
    }
    gate.set()
    until = time.monotonic() + 60
    while value.get().value != 7 and time.monotonic() < until:
        time.sleep(0.01)
    assert value.get() == Reading(7, value.get().at, "")


def test_the_last_value_is_told_beside_the_trouble_and_why_only_in_the_log():
    answers = iter([7])

    def once() -> int:
        try:
            return next(answers)
        except StopIteration:
            raise RuntimeError("password=secret") from None

    value = Latest("It", once, fresh_seconds=0, wait_seconds=5)
    assert value.get().value == 7
    again = value.get()
    assert again.value == 7
    assert again.trouble == "It cannot be read; the log of the API server says why."
    assert latest.log.name == "lumos_airflow.health.latest"


def test_the_runbook_is_shown_with_anchors_and_without_anybody_elses_html(
    app, tmp_path, monkeypatch
):
    text = tmp_path / "runbook.md"
    monkeypatch.setattr(runbook, "RUNBOOK", text)
    client = visitor(app, "viewer")
    missing = client.get("/lumos/runbook")
    assert missing.status_code == 404
    assert str(tmp_path) not in missing.text
    text.write_text(
        "# Runbook\n\n## late-batch-scoring\n\n<script>alert(1)</script>\n\n"
        "[a](javascript:alert) [b](operate.md) [c](#publish)\n\n"
        "## `publish`: What now?\n\n## publish\n"
    )
    shown = Words(client.get("/lumos/runbook").text)
    ids = [attrs["id"] for tag, attrs in shown.tags if tag in ("h1", "h2")]
    assert ids == ["runbook", "late-batch-scoring", "publish-what-now", "publish"]
    assert "<script>alert(1)</script>" in shown.words
    links = {attrs.get("href") for tag, attrs in shown.tags if tag == "a"}
    assert "#publish" in links
    assert not {x for x in links if x and ("javascript" in x or "operate" in x)}


def test_the_lake_lies_where_the_contract_says(lake):
    from lumos_airflow.health import lake as reader

    assert reader.uri(lake, "gym", "ledger") == table_uri(lake, load(RECIPE), "ledger")


def test_the_plugin_shows_the_page_inside_the_ui():
    from lumos_plugin import LumosPlugin

    prefixes = [each["url_prefix"] for each in LumosPlugin().fastapi_apps]
    assert prefixes == ["/lumos/reports", page.PREFIX]
    (view,) = LumosPlugin.external_views
    assert f"/{view['href']}" == PAGE
