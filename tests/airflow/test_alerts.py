import asyncio
import dataclasses
import datetime as dt
import html
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from hypothesis import given
from hypothesis import strategies as st
from lumos_airflow import alerts, claims, deadlines, notify
from lumos_airflow.alerts import CRITICAL, WARNING, Alert, Occasion, Pages
from lumos_airflow.deadlines import Due
from lumos_airflow.notifiers import pagerduty, slack, smtp
from lumos_airflow.timetables import WholeDays

from lumos.delta import read, rewrite
from lumos.recipes import load
from lumos.schedule import end_of
from lumos.settings import REPOSITORY, Settings
from lumos.stored import store
from lumos.tables import ALERTS, alerts_uri, table_uri, tables
from tests.airflow.sinks import KEY, PASSWORD, TOKEN, Sinks, sinks

DAY = dt.date(2017, 12, 10)
NIGHT = dt.datetime(2017, 12, 11, 2, 30, tzinfo=dt.UTC)
FOUR_HOURS = dt.timedelta(hours=4)
PAGES = Pages("https://airflow.example", "https://airflow.example/lumos/runbook")
NASTY = "<!channel> x < y & z > *bold* <https://evil.example|click>\r\nBcc: all@example.com"


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    bag = DagBag()
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture
def lake(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    monkeypatch.delenv("LUMOS_LAKE", raising=False)
    monkeypatch.setattr(notify, "_ECHO_SECONDS", 0)
    return Settings.from_environment()


@pytest.fixture
def sink(lake, tmp_path_factory, monkeypatch) -> Iterator[Sinks]:
    with sinks(tmp_path_factory.mktemp("sink")) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def context(
    dag_id: str = "batch_scoring",
    task_id: str = "publish",
    run_type: str = "scheduled",
    error: Exception | None = None,
    report: dict | None = None,
    try_number: int = 3,
    **params: str,
) -> dict:
    """What Airflow gives to a callback, as far as an alert looks at it."""
    return {
        "ti": SimpleNamespace(
            dag_id=dag_id,
            task_id=task_id,
            run_id=f"{run_type}__2017-12-11T00:00:00+00:00",
            try_number=try_number,
            xcom_pull=lambda task_ids: report,
        ),
        "task": SimpleNamespace(owner="lumos"),
        "dag_run": SimpleNamespace(run_type=run_type),
        "params": {"recipe": "complete_journey", "business_date": None, **params},
        "data_interval_start": dt.datetime(2017, 12, 10, tzinfo=dt.UTC),
        "exception": error or ValueError("the gate of lumos publish refused: too few users"),
    }


def alert(**own: str) -> Alert:
    return dataclasses.replace(alerts.of_failure(context(), PAGES), **own)


def missed(dag_id: str = "batch_scoring", run_type: str = "scheduled", conf: dict | None = None):
    """What the scheduler gives to a deadline's callback."""
    return {
        "dag_run": {
            "dag_id": dag_id,
            "dag_run_id": f"{run_type}__2017-12-11T02:00:00+00:00",
            "data_interval_start": "2017-12-10T00:00:00Z",
            "run_type": run_type,
            "state": "running",
            "conf": conf,
        },
        "deadline": {"id": "1", "deadline_time": dt.datetime(2017, 12, 11, 6, tzinfo=dt.UTC)},
    }


def told(sink: Sinks) -> tuple[int, int, int]:
    return len(sink.slack), len(sink.pagerduty), len(sink.mails)


def rows() -> list[dict]:
    found = read(alerts_uri(Settings.from_environment()))
    return [] if found is None else found.to_pylist()


def text_of(mail) -> str:
    (part,) = mail.get_payload()
    return part.get_payload(decode=True).decode()


# --- the catalogue


def test_every_task_of_every_dag_says_who_is_affected_and_alerts(dags):
    listed = set(alerts.EFFECTS)
    there = {(dag.dag_id, task.task_id) for dag in dags.values() for task in dag.tasks}
    assert there <= listed
    # Of a DAG that is there only in the cloud.
    assert {task_id for _, task_id in listed - there} <= {"reap"}
    for dag in dags.values():
        assert [type(each) for each in dag.on_failure_callback] == [notify.RunFailed]
        for task in dag.tasks:
            assert [type(each) for each in task.on_failure_callback] == [notify.TaskFailed]
            assert [type(each) for each in task.on_success_callback] == [notify.TaskDone]
            assert not task.on_retry_callback


def test_every_dag_that_runs_by_the_clock_has_a_deadline(dags):
    dated = {dag.dag_id for dag in dags.values() if isinstance(dag.timetable, WholeDays)}
    assert dated == set(alerts.DEADLINES)
    for dag_id in dated:
        (deadline,) = dags[dag_id].deadline
        assert deadline.name == f"late-{dag_id.replace('_', '-')}"
        assert alerts.DEADLINES[dag_id].ends_with in dags[dag_id].task_ids


def test_names_are_headings_of_the_runbook():
    assert {"publish", "wait-sequences", "prepare-machine"} <= set(alerts.names())
    assert "late-batch-scoring" in alerts.names()
    for name in alerts.names():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)


def test_what_keeps_scores_from_pacman_is_critical_and_nothing_else():
    critical = {key for key, effect in alerts.EFFECTS.items() if effect.severity == CRITICAL}
    assert critical == {
        ("daily_aggregation", "aggregate"),
        ("daily_aggregation", "sequences"),
        ("data_quality", "wait_activity"),
        ("data_quality", "validate"),
        *(
            ("batch_scoring", task)
            for task in ("wait_sequences", "wait_quality", "prepare_machine", "resolve")
        ),
        *(("batch_scoring", task) for task in ("score", "publish", "export")),
    }
    late = {dag for dag, each in alerts.DEADLINES.items() if each.effect.severity == CRITICAL}
    assert late == {"batch_scoring"}


def test_a_task_that_nobody_listed_is_alerted_all_the_same():
    assert alerts.of_failure(context(task_id="brand_new"), PAGES).severity == WARNING


# --- what an alert says


def test_an_alert_says_everything_that_on_call_needs():
    found = alert()
    assert (found.name, found.severity, found.owner) == ("publish", CRITICAL, "lumos")
    assert (found.business_date, found.recipe) == ("2017-12-10", "complete_journey")
    assert "too few users" in found.message
    assert "Pacman" in found.affects
    assert found.runbook_url == "https://airflow.example/lumos/runbook#publish"
    assert found.log_url == (
        "https://airflow.example/dags/batch_scoring/runs/"
        "scheduled__2017-12-11T00%3A00%3A00%2B00%3A00/tasks/publish?try_number=3"
    )


@pytest.mark.parametrize("run_type", ["manual", "backfill", "asset_triggered"])
def test_a_run_that_a_person_started_pages_nobody_and_says_so(run_type):
    found = alerts.of_failure(context(run_type=run_type), PAGES)
    assert found.severity == WARNING
    assert f"a {run_type} run: it pages nobody" in found.message
    late = Occasion.of_deadline(missed(run_type=run_type), "complete_journey")
    assert alerts.of_lateness(late, PAGES, "late").severity == WARNING


def test_retries_and_reruns_of_a_date_are_one_trouble_and_other_dates_and_recipes_are_not():
    key = alert().dedup_key
    assert key == "complete_journey/batch_scoring/2017-12-10/publish"
    assert alerts.of_failure(context(run_type="backfill"), PAGES).dedup_key == key
    for other in (
        context(task_id="score"),
        context(business_date="2017-12-09"),
        context(recipe="a.b:c"),
    ):
        assert alerts.of_failure(other, PAGES).dedup_key != key


@given(st.text(max_size=400), st.text(max_size=40), st.text(max_size=40))
def test_a_key_is_short_enough_and_still_of_its_own(recipe, when, other):
    key = alerts.dedup_key(recipe, "batch_scoring", when, "publish")
    assert len(key) <= 255
    if "/" not in recipe + when + other and when != other:
        assert key != alerts.dedup_key(recipe, "batch_scoring", other, "publish")


def test_what_the_dag_processor_knows_of_a_lost_task_is_enough():
    bare = context()
    for name in ("dag_run", "params", "data_interval_start", "exception"):
        del bare[name]
    found = alerts.of_failure(bare, PAGES)
    assert (found.business_date, found.recipe, found.severity) == ("unknown", "-", CRITICAL)
    assert "without a word" in found.message
    # Two runs without a date are not one trouble.
    assert found.run_id in found.dedup_key


def test_a_date_that_is_the_fault_does_not_keep_the_alert_back():
    assert alerts.of_failure(context(business_date="soon"), PAGES).business_date == "unknown"


# --- at the channels


def test_a_failure_arrives_everywhere_whole(sink):
    notify.TaskFailed()(context())
    assert told(sink) == (1, 1, 1)
    seen = json.dumps(sink.slack[0])
    event, mail = sink.pagerduty[0], text_of(sink.mails[0])
    for fact in ("2017-12-10", "complete_journey", "too few users", "Pacman", "runbook#publish"):
        assert fact in seen
        assert fact in json.dumps(event)
        assert fact in mail
    assert event["event_action"] == "trigger"
    assert event["routing_key"] == KEY
    assert event["dedup_key"] == "complete_journey/batch_scoring/2017-12-10/publish"
    assert (event["payload"]["severity"], event["payload"]["class"]) == (CRITICAL, "publish")
    assert [link["text"] for link in event["links"]] == ["What to do", "Log"]
    assert sink.mails[0]["To"] == "oncall@example.com"
    assert sink.mails[0]["Subject"].startswith("[critical] batch_scoring.publish")


def test_pagerduty_hears_of_nothing_that_can_wait(sink):
    notify.TaskFailed()(context(dag_id="embedding", task_id="embed"))
    assert told(sink) == (1, 0, 1)


def test_text_of_others_stays_text(sink):
    notify.TaskFailed()(context(error=ValueError(NASTY), recipe="<b>&amp;"))
    seen = json.dumps(sink.slack[0], ensure_ascii=False)
    assert "<!channel>" not in seen
    assert "<https://evil" not in seen
    assert "&lt;!channel&gt; x &lt; y &amp; z" in seen
    mail = text_of(sink.mails[0])
    assert "<!channel>" not in mail
    assert html.escape(NASTY.split("\r\n")[0]) in mail
    assert sink.mails[0]["Bcc"] is None


@given(st.text(alphabet="<>&ab \n", max_size=7000))
def test_slack_and_mail_take_any_text_of_any_length(text):
    found = alert(message=text, recipe=text[:80], run_id=text, task_id=f"a\n{text}")
    for block in slack.blocks(found):
        for part in (block.get("text"), *block.get("fields", ())):
            if part and "|What to do>" not in part["text"]:
                assert len(part["text"]) <= 3000
                assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", part["text"])
    assert len(smtp.subject(found)) <= 200
    assert "\n" not in smtp.subject(found)


def test_one_channel_that_is_down_does_not_keep_the_others_from_hearing(sink, caplog):
    for broken in ("slack", "pagerduty", "email"):
        sink.broken = {broken}
        before = told(sink)
        notify.deliver(alert(business_date=broken))
        after = told(sink)
        assert sum(after) - sum(before) == 2
        assert f"{broken} (connection" in caplog.text


def test_an_alert_that_reached_nobody_fails_aloud_and_is_sent_next_time(sink, caplog):
    sink.broken = {"slack", "pagerduty", "email"}
    with pytest.raises(notify.AlertNotSent, match="reached nobody"):
        notify.deliver(alert())
    sink.broken = set()
    assert notify.deliver(alert())
    assert told(sink) == (1, 1, 1)


def test_a_connection_that_is_missing_is_named_and_the_others_hear(sink, monkeypatch, caplog):
    monkeypatch.delenv("AIRFLOW_CONN_SLACK_TEST")
    notify.deliver(alert())
    assert told(sink) == (0, 1, 1)
    assert "slack (connection slack_test) did not take it" in caplog.text


def test_nothing_secret_is_logged_whatever_fails(sink, caplog):
    caplog.set_level(logging.DEBUG)
    notify.deliver(alert())
    sink.broken = {"slack", "pagerduty", "email"}
    with pytest.raises(notify.AlertNotSent):
        notify.deliver(alert(business_date="2017-12-09"))
    for secret in (TOKEN, TOKEN.split("/")[-1], KEY, PASSWORD):
        assert secret not in caplog.text


def test_a_connection_whose_password_is_not_encoded_is_named_and_no_part_of_it_looked_up(
    sink, caplog, monkeypatch
):
    asked = []
    monkeypatch.setitem(notify._SENDERS, "email", lambda *_, **__: asked.append("email"))
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_TEST", "smtp://lumos:top@secretpart#rest@127.0.0.1:25")
    notify.deliver(alert())
    assert told(sink) == (1, 1, 0)
    assert asked == []
    assert "AIRFLOW_CONN_SMTP_TEST is not a URL: percent-encode" in caplog.text
    assert "secretpart" not in caplog.text


def test_what_a_library_quotes_is_masked(sink, caplog, monkeypatch):
    def quotes(*_, **__) -> None:
        raise OSError(f"POST https://hooks.example/{TOKEN} timed out")

    notify.deliver(alert())  # the connections are known to the masker from here on
    monkeypatch.setitem(notify._SENDERS, "slack", quotes)
    notify.deliver(alert(business_date="2017-12-09"))
    assert "timed out" in caplog.text
    assert TOKEN not in caplog.text


def test_without_channels_an_alert_is_logged_and_entered(lake, caplog, monkeypatch):
    monkeypatch.delenv("LUMOS_ALERTS", raising=False)
    assert notify.deliver(alert())
    assert "ALERT [critical] batch_scoring.publish" in caplog.text
    assert [row["state"] for row in rows()] == ["open"]


@pytest.mark.parametrize(
    "text", ["slack", "slack=", "sms=a", "email=smtp_lumos", "slack=a:b", "slack=a;pagerduty=b"]
)
def test_channels_that_are_mistyped_fail_at_parse_with_a_sentence(monkeypatch, text):
    monkeypatch.setenv("LUMOS_ALERTS", text)
    with pytest.raises(ValueError, match=r"LUMOS_ALERTS has .*expected slack=CONNECTION"):
        notify.channels()


# --- once


def test_the_same_trouble_is_sent_once_and_counted(sink):
    for try_number in (3, 6, 9):  # cleared twice
        notify.TaskFailed()(context(try_number=try_number))
    notify.TaskFailed()(context(run_type="backfill"))
    assert told(sink) == (1, 1, 1)
    (row,) = rows()
    assert (row["count"], row["state"], row["severity"]) == (4, "open", CRITICAL)


def test_it_is_sent_again_after_some_hours(lake):
    found = alert()
    times = [NIGHT + dt.timedelta(hours=hours) for hours in (0, 3.9, 4, 5, 8)]
    sent = [claims.claim(found, now=now, repeat=FOUR_HOURS) for now in times]
    assert sent == [True, False, True, False, True]
    (row,) = rows()
    assert (row["first_sent"], row["last_sent"], row["last_seen"]) == (
        times[0],
        times[4],
        times[4],
    )


def test_what_was_a_warning_and_becomes_critical_is_sent_at_once(sink):
    notify.TaskFailed()(context(run_type="manual"))
    assert told(sink) == (1, 0, 1)
    notify.TaskFailed()(context())
    assert told(sink) == (2, 1, 2)
    # And stays so: the next one by hand does not make it mild again.
    notify.TaskFailed()(context(run_type="manual"))
    assert told(sink) == (2, 1, 2)
    assert rows()[0]["severity"] == CRITICAL


def test_the_run_s_own_callback_repeats_nothing_but_tells_what_nobody_told(sink):
    notify.TaskFailed()(context())
    notify.RunFailed()(context())
    assert (told(sink), rows()[0]["count"]) == ((1, 1, 1), 1)
    notify.RunFailed()({**context(task_id="score"), "exception": None})
    assert told(sink) == (2, 2, 2)
    assert "without a word" in json.dumps(sink.slack[1])


def test_a_run_without_a_task_to_blame_is_logged(sink, caplog):
    notify.RunFailed()({"run_id": "scheduled__1", "reason": "timed_out"})
    assert "run scheduled__1 failed" in caplog.text


def test_a_task_that_succeeds_closes_its_incident_and_its_next_failure_is_new(sink):
    notify.TaskDone()(context())  # nothing is open, not even a table
    assert rows() == []
    notify.TaskFailed()(context())
    asyncio.run(notify.late(context=missed()))
    notify.TaskDone()(context(task_id="score"))  # of another task
    assert [event["event_action"] for event in sink.pagerduty] == ["trigger", "trigger"]
    notify.TaskDone()(context())
    ended = [event["dedup_key"] for event in sink.pagerduty if event["event_action"] == "resolve"]
    assert sorted(key.split("/")[-1] for key in ended) == ["late-batch-scoring", "publish"]
    assert {row["state"] for row in rows()} == {"resolved"}
    notify.TaskDone()(context())
    assert len(sink.pagerduty) == 4
    notify.TaskFailed()(context())
    assert len(sink.pagerduty) == 5


def test_a_lake_that_is_broken_keeps_no_alert_back(sink, lake, caplog):
    alerts_uri_path = lake.home / "lake"
    alerts_uri_path.write_text("not a folder")
    notify.deliver(alert())
    notify.deliver(alert())
    assert told(sink) == (2, 2, 2)
    assert "could not see whether it was sent" in caplog.text


def test_two_threads_send_once(sink):
    barrier = threading.Barrier(4)

    def tell() -> None:
        barrier.wait()
        notify.deliver(alert())

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(sink) == (1, 1, 1)
    assert rows()[0]["count"] == 1


def test_two_processes_send_once(sink):
    code = (
        "import sys\n"
        "from tests.airflow.test_alerts import alert, notify\n"
        "print('ready', flush=True); sys.stdin.readline(); notify.deliver(alert())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0, 0]
    assert told(sink) == (1, 1, 1)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 9), st.booleans()), max_size=12))
def test_within_some_hours_nothing_is_sent_twice_unless_it_was_mended_in_between(steps):
    now, state, sent_at = NIGHT, {}, {}
    for name, hours, is_mended in steps:
        now += dt.timedelta(hours=hours)
        found = alert(name=name)
        known = state.get(name)
        is_ours = known is None or claims._is_due(known, found, now, FOUR_HOURS)
        if is_ours and name in sent_at:
            assert now - sent_at[name] >= FOUR_HOURS
        assert is_ours or now - sent_at[name] < FOUR_HOURS
        state[name] = claims._row(found, known, now, is_sent=is_ours)
        if is_ours:
            sent_at[name] = now
        if is_mended:
            state[name]["state"] = claims.RESOLVED
            sent_at.pop(name, None)


def test_old_rows_go(lake):
    claims.claim(alert(business_date="2017-09-01"), now=NIGHT, repeat=FOUR_HOURS)
    later = NIGHT + dt.timedelta(days=91)
    claims.claim(alert(), now=later, repeat=FOUR_HOURS)
    assert [row["business_date"] for row in rows()] == ["2017-12-10"]


# --- monitors


def finding(verdict: str, name: str = "psi") -> dict:
    return {"name": name, "segment": "all", "verdict": verdict, "message": f"{name} is {verdict}"}


def test_a_monitor_that_ends_green_with_findings_warns_and_a_clean_one_closes_it(sink):
    for report in (None, {}, {"details": {"findings": []}}):
        notify.TaskDone()(context("data_quality", "monitor", report=report))
    ok = {"details": {"findings": [finding("ok"), finding("info")]}}
    notify.TaskDone()(context("data_quality", "monitor", report=ok))
    assert told(sink) == (0, 0, 0)
    bad = {"details": {"findings": [finding("warning"), finding("unknown", "decay")]}}
    notify.TaskDone()(context("data_quality", "monitor", report=bad))
    assert told(sink) == (1, 0, 1)
    assert "decay is unknown" in json.dumps(sink.slack[0])
    assert rows()[0]["name"] == "monitor"
    notify.TaskDone()(context("data_quality", "monitor", report=ok))
    assert rows()[0]["state"] == "resolved"


# --- deadlines


def test_late_scores_page_once_and_name_the_local_time(sink, monkeypatch):
    monkeypatch.setenv("LUMOS_TIMEZONE", "Europe/Berlin")
    for _ in range(2):
        asyncio.run(notify.late(context=missed()))
    assert told(sink) == (1, 1, 1)
    assert "not done by 2017-12-11 07:00 (Europe/Berlin)" in json.dumps(sink.slack[0])
    assert sink.pagerduty[0]["payload"]["class"] == "late-batch-scoring"


def publish(lake: Settings, state: str, as_of: dt.date = DAY) -> None:
    """A manifest as `lumos publish` would leave it."""
    import pyarrow as pa

    recipe = load("complete_journey")
    declared = tables(recipe)["manifests"].arrow_schema(recipe)
    row = {
        name: {"as_of": as_of, "state": state, "valid_until": as_of, "created": NIGHT}.get(
            name, 1 if kind in (pa.int64(),) else "1"
        )
        for name, kind in zip(declared.names, declared.types, strict=True)
    } | {"retracted": None, "reason": None}
    uri = table_uri(lake, recipe, "manifests")
    rewrite(uri, declared, lambda _: pa.Table.from_pylist([row], schema=declared))


def test_scores_that_are_published_are_not_late_though_the_run_goes_on_or_failed(sink, lake):
    store(lake, "complete_journey", load("complete_journey"))
    publish(lake, "live")
    asyncio.run(notify.late(context=missed()))
    assert told(sink) == (0, 0, 0)
    publish(lake, "retracted")
    asyncio.run(notify.late(context=missed()))
    assert told(sink) == (1, 1, 1)


@pytest.mark.parametrize("recipe", ["no_such_recipe", "gone.recipe:recipe", "os:abort"])
def test_a_lateness_that_cannot_be_checked_is_told_and_no_recipe_imported(sink, recipe):
    asyncio.run(notify.late(context=missed(conf={"recipe": recipe})))
    assert told(sink) == (1, 1, 1)


@given(
    st.dates(dt.date(2000, 1, 1), dt.date(2100, 1, 1)),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo", "America/Los_Angeles", "Asia/Kolkata"]),
    st.times(),
)
def test_scores_are_due_at_the_first_such_time_after_their_day(day, zone, by):
    end = dt.datetime.combine(day, dt.time(), dt.UTC)
    due = Due(by=f"{by:%H:%M}", zone=zone).due("scheduled", end, end)
    assert due is not None
    # A day of summer time's beginning or end is an hour shorter or longer.
    over = end_of(day - dt.timedelta(days=1), zone)
    assert over <= due <= over + dt.timedelta(hours=25)
    local = due.astimezone(ZoneInfo(zone))
    assert f"{local:%H:%M}" == f"{by:%H:%M}" or local.dst() != (local - dt.timedelta(hours=3)).dst()


def test_a_run_by_hand_has_hours_and_a_backfill_no_deadline():
    now = dt.datetime(2026, 1, 1, 9, tzinfo=dt.UTC)
    old = dt.datetime(2017, 12, 11, tzinfo=dt.UTC)
    due = Due(hours=12, by="06:00")
    assert due.due("manual", now, old) == now + dt.timedelta(hours=12)
    assert due.due("backfill", now, old) is None
    assert due.due("scheduled", now, old) == dt.datetime(2017, 12, 11, 6, tzinfo=dt.UTC)
    assert Due(hours=3).due("scheduled", now, old) == now + dt.timedelta(hours=3)


def test_a_deadline_survives_being_stored_by_airflow(dags):
    from airflow.serialization.decoders import decode_deadline_alert
    from airflow.serialization.encoders import encode_deadline_alert

    for dag_id in alerts.DEADLINES:
        (deadline,) = dags[dag_id].deadline
        stored = json.loads(json.dumps(encode_deadline_alert(deadline)))
        again = decode_deadline_alert(stored)
        assert again.reference.inner_ref == deadline.reference
        assert again.callback.path == "lumos_airflow.notify.late"


def test_deadlines_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("LUMOS_SCORES_BY", "05:30")
    monkeypatch.setenv("LUMOS_TIMEZONE", "Europe/Berlin")
    monkeypatch.setenv("LUMOS_DEADLINES", "retraining=40.5, batch_scoring=2")
    assert deadlines.reference("batch_scoring") == Due(2, "05:30", "Europe/Berlin")
    assert deadlines.reference("retraining") == Due(40.5, "", "Europe/Berlin")
    assert deadlines.reference("embedding").hours == 8


@pytest.mark.parametrize(
    ("name", "value", "ask"),
    [
        ("LUMOS_SCORES_BY", "6:00", lambda: deadlines.reference("batch_scoring")),
        ("LUMOS_SCORES_BY", "24:00", lambda: deadlines.reference("batch_scoring")),
        ("LUMOS_TIMEZONE", "Mars/Phobos", lambda: deadlines.reference("embedding")),
        ("LUMOS_TIMEZONE", "../etc/passwd", lambda: deadlines.reference("embedding")),
        ("LUMOS_DEADLINES", "retraining", lambda: deadlines.reference("embedding")),
        ("LUMOS_DEADLINES", "nothing=3", lambda: deadlines.reference("embedding")),
        ("LUMOS_DEADLINES", "embedding=nan", lambda: deadlines.reference("embedding")),
        ("LUMOS_ALERT_REPEAT_HOURS", "often", notify.repeat_after),
        ("LUMOS_ALERT_REPEAT_HOURS", "nan", notify.repeat_after),
    ],
)
def test_a_variable_that_is_mistyped_is_named(monkeypatch, name, value, ask: Callable[[], object]):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        ask()


def test_the_table_is_declared_as_it_is_written(lake):
    claims.claim(alert(), now=NIGHT, repeat=FOUR_HOURS)
    found = read(alerts_uri(lake))
    assert found.schema.names == list(ALERTS.column_names)
    assert found.schema.types == ALERTS.arrow_schema().types


def test_links_follow_the_environment(monkeypatch):
    monkeypatch.setenv("LUMOS_RUNBOOK_URL", "https://wiki.example/runbook")
    assert notify.pages().runbook == "https://wiki.example/runbook"
    monkeypatch.delenv("LUMOS_RUNBOOK_URL")
    assert notify.pages().runbook == f"{notify.pages().airflow}/lumos/runbook"


def test_pagerduty_is_not_waited_for_without_end(sink, monkeypatch):
    sink.broken = {"pagerduty"}
    started = dt.datetime.now(dt.UTC)
    with pytest.raises(Exception, match="500"):
        pagerduty.send("pagerduty_test", "", alert(), seconds=2)
    monkeypatch.setenv(
        "AIRFLOW_CONN_PAGERDUTY_TEST",
        json.dumps(
            {"conn_type": "pagerduty_events", "host": "https://127.0.0.1:9", "password": "x"}
        ),
    )
    with pytest.raises(Exception, match="network error"):
        pagerduty.send("pagerduty_test", "", alert(), seconds=2)
    assert dt.datetime.now(dt.UTC) - started < dt.timedelta(seconds=5)
