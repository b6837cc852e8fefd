"""Alerts of a real Airflow: whichever of its processes notices, each trouble is told once."""

import json
from pathlib import Path

from lumos.delta import read
from tests.airflow.sinks import PASSWORD, TOKEN
from tests.cloud.waiting import eventually
from tests.live.night import ALERTED_DAY as DAY
from tests.live.night import LIVE, PATIENCE_SECONDS

pytestmark = LIVE


def about_that_day(texts: list[str]) -> list[str]:
    return [text for text in texts if f"business date {DAY}" in text]


def told(sink, name: str) -> list[str]:
    """Slack's messages about the day that lead to a section of the runbook."""
    seen = about_that_day([json.dumps(message) for message in sink.slack])
    return [text for text in seen if f"/lumos/runbook#{name}|" in text]


def test_each_trouble_is_told_once_whichever_process_notices_it(airflow, sink, begun):
    names = ("retract", "late-aa-calibration", "killed", "lost")

    def all_told() -> bool:
        airflow.check_alive()
        return all(told(sink, name) for name in names)

    eventually(all_told, PATIENCE_SECONDS, explain=lambda: history(airflow))
    failed = [begun[name] for name in ("retract_scores", "dies", "vanishes")]
    states = airflow.wait([*failed, begun["recovers"]], timeout_seconds=PATIENCE_SECONDS)
    assert states[begun["recovers"]] == "success"
    assert {states[run] for run in failed} == {"failed"}
    # The callbacks of the runs find it told; that of `dies` is the only one that could tell.
    for echo in (f"retract_scores/{DAY}/retract", f"vanishes/{DAY}/lost"):
        eventually(
            lambda echo=echo: f"{echo} was sent already" in logged(airflow),
            PATIENCE_SECONDS,
            explain=lambda: history(airflow),
        )
    assert {name: len(told(sink, name)) for name in names} == dict.fromkeys(names, 1)
    assert len(about_that_day([json.dumps(message) for message in sink.slack])) == len(names)
    assert len(about_that_day([str(mail["Subject"]) for mail in sink.mails])) == len(names)
    assert sink.pagerduty == []  # manual runs page no one

    (refused,) = told(sink, "retract")
    assert "bad input, which a retry cannot mend" in refused
    assert f"{airflow.url}/dags/retract_scores/runs/" in refused
    assert "try_number=1" in refused  # at once, no retry
    (late,) = told(sink, "late-aa-calibration")
    assert "not done by" in late
    for dead in ("killed", "lost"):
        assert "without a word" in told(sink, dead)[0]

    rows = read(f"{airflow.home}/lake/alerts").to_pylist()
    kept = [(row["name"], row["count"]) for row in rows if row["business_date"] == str(DAY)]
    assert sorted(kept) == sorted((name, 1) for name in names)


def logged(airflow) -> str:
    """All logs of tasks and components."""
    return "".join(
        path.read_text(errors="replace")
        for path in Path(airflow.airflow_home).rglob("*.log")
        if path.is_file()
    )


def history(airflow) -> str:
    """The lines of all logs from which it can be told where an alert was lost."""
    about = ("ALERT", "allback", "told ", "did not take", "was sent already", "imeout", "deadline")
    lines = [line[:400] for line in logged(airflow).splitlines() if any(a in line for a in about)]
    return "\n".join(lines[-200:])


def test_nothing_secret_stands_in_any_log(airflow, sink):
    text = logged(airflow)
    assert "told slack" in text
    assert TOKEN not in text
    assert PASSWORD not in text
