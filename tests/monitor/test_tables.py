"""The half `tables` through real Delta tables."""

import datetime as dt

import numpy as np
import pyarrow.compute as pc
import pytest

from lumos import ledger
from lumos.delta import read, replace
from lumos.monitor import MONITORS, runbook_link
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused
from tests.monitor.lake import DATE, FIRST, GYM, RAW, enter_day, metrics, write_day
from tests.study.html import Page

DAY = dt.timedelta(days=1)


def doubled(rows):
    return {**rows, "minutes": rows["minutes"] * 2}


def replant(world, change, day=DATE, **entered):
    enter_day(world, day, write_day(world, day, change), **entered)


def forget_days_before(world, first):
    """As if the ledger had begun on that day."""
    uri = table_uri(world.settings, GYM, "ledger")
    rows = read(uri)
    replace(uri, rows.filter(pc.greater_equal(rows["business_date"], first)), where=None)


def histograms(world):
    rows = read(table_uri(world.settings, GYM, "histograms"))
    return sorted(map(str, rows.to_pylist()))


def test_an_ordinary_day_is_quiet_and_leaves_a_row_for_each_monitor(gym):
    report = gym.run("monitor", of="tables")
    found = metrics(gym)
    assert {row["verdict"] for row in found.values()} == {"ok"}
    assert report.details["findings"] == []
    assert report.metrics == {
        "num_ok": len(found),
        "num_warnings": 0,
        "num_critical": 0,
        "num_unknown": 0,
    }
    assert {("drift_psi", "activity.minutes"), ("volume", "activity")} <= set(found)
    assert {("schema", "raw.checkins"), ("freshness", "event_context")} <= set(found)


def test_a_column_that_drifts_is_named_alone_and_the_task_is_red(gym):
    replant(gym, doubled)
    with pytest.raises(GateRefused, match=r"activity\.minutes: drift_.* usual is at most") as seen:
        gym.run("monitor", of="tables")
    assert "activity.spend" not in str(seen.value)
    found = metrics(gym)
    red = {segment for (_, segment), row in found.items() if row["verdict"] == "critical"}
    assert red == {"activity.minutes"}
    with pytest.raises(GateRefused, match=r"activity\.minutes"):
        gym.run("monitor", of="tables")
    entry = ledger.find(gym.settings, GYM, "monitor_tables", DATE)
    assert entry.verdict == ledger.REFUSED
    assert {f["segment"] for f in entry.report.details["findings"]} == {"activity.minutes"}


def test_half_of_the_users_missing_is_a_matter_of_volume_and_not_of_drift(gym):
    replant(gym, lambda rows: {name: values[::2] for name, values in rows.items()})
    with pytest.raises(GateRefused, match="volume is "):
        gym.run("monitor", of="tables")
    off = {name for (name, _), row in metrics(gym).items() if row["verdict"] != "ok"}
    assert off == {"volume"}


def test_a_day_without_a_row_is_stale_and_its_drift_unknown(gym):
    replant(gym, lambda rows: {name: values[:0] for name, values in rows.items()})
    with pytest.raises(GateRefused):
        gym.run("monitor", of="tables")
    found = metrics(gym)
    assert found["freshness", "activity"]["verdict"] == "warning"
    assert found["volume", "activity"]["verdict"] == "critical"
    assert found["drift_psi", "activity"]["verdict"] == "unknown"
    assert ("drift_psi", "activity.minutes") not in found


def test_more_rejected_rows_than_allowed_are_a_warning_with_their_reasons(gym):
    enter_day(gym, DATE, write_day(gym, DATE), rejected={"null user": 1})
    assert gym.run("monitor", of="tables").details["findings"] == []
    enter_day(gym, DATE, write_day(gym, DATE), rejected={"null user": 2}, late_rows=0)
    (found,) = gym.run("monitor", of="tables").details["findings"]
    assert (found["name"], found["segment"], found["verdict"]) == (
        "rejected_rows",
        "raw",
        "warning",
    )
    assert "2 of 100 rows (2.0%)" in found["message"]
    assert "2 null user" in found["message"]


def test_rows_too_late_for_their_days_are_a_warning_of_the_mornings_that_see_them(gym):
    enter_day(gym, DATE, write_day(gym, DATE), late_rows=3)
    gym.run("monitor", of="tables")  # never red: the day itself is whole
    (found,) = gym.run("monitor", of="tables").details["findings"]
    assert (found["name"], found["segment"], found["verdict"]) == ("late_rows", "raw", "warning")
    assert "3 rows" in found["message"]
    enter_day(gym, DATE, write_day(gym, DATE))  # aggregated again, further back
    assert gym.run("monitor", of="tables").details["findings"] == []


def test_columns_that_come_go_or_change_are_told_apart(gym):
    changed = {name: dict(columns) for name, columns in RAW.items()}
    changed["checkins"]["mood"] = "string"
    enter_day(gym, DATE, _version(gym), raw_schema=changed)
    gym.run("monitor", of="tables")
    new = metrics(gym)["schema", "raw.checkins"]
    assert (new["verdict"], new["value"]) == ("warning", 1.0)
    assert "column mood (string) is new" in new["message"]

    del changed["checkins"]["minutes"]
    changed["purchases"]["amount"] = "string"
    enter_day(gym, DATE, _version(gym), raw_schema=changed)
    with pytest.raises(GateRefused, match=r"column minutes \(double\) is gone"):
        gym.run("monitor", of="tables", force=True)
    retyped = metrics(gym)["schema", "raw.purchases"]
    assert retyped["verdict"] == "critical"
    assert "column amount is string and was double" in retyped["message"]


def test_too_little_history_is_unknown_and_never_ok(gym):
    forget_days_before(gym, DATE - 5 * DAY)
    report = gym.run("monitor", of="tables")
    verdicts = {name: row["verdict"] for (name, _), row in metrics(gym).items()}
    assert verdicts["drift_psi"] == verdicts["drift_ks"] == verdicts["volume"] == "unknown"
    assert metrics(gym)["freshness", "activity"]["verdict"] == "unknown"
    assert report.metrics["num_unknown"] == len(report.details["findings"]) > 8
    assert all(f["message"].endswith(".") for f in report.details["findings"])


def test_days_that_quality_refused_are_no_reference(gym):
    bad = [DATE - n * DAY for n in range(1, 8)]
    for day in bad:
        replant(gym, doubled, day)
    enter_day(gym, DATE, write_day(gym, DATE))
    gym.run("monitor", of="tables")
    usual = metrics(gym)["drift_psi", "activity.minutes"]["value"]
    for day in bad:
        request = gym.request("validate", date=day)
        report = request.report()
        ledger.record(
            request, report, inputs={}, verdict=ledger.REFUSED,
            tables_written=(ledger.TableWritten(table="quality", version=0, rows=0),),
        )  # fmt: skip
    gym.run("monitor", of="tables")
    assert metrics(gym)["drift_psi", "activity.minutes"]["value"] < usual * 0.9


def test_a_rerun_does_nothing_and_a_forced_one_the_same(gym):
    gym.run("monitor", of="tables")
    before = metrics(gym), histograms(gym)
    assert gym.run("monitor", of="tables").already_done
    assert not gym.run("monitor", of="tables", force=True).already_done
    assert (metrics(gym), histograms(gym)) == before


def test_a_backfill_gives_the_same_rows_in_any_order(gym, tmp_path):
    dates = [DATE - n * DAY for n in range(3)]
    other = gym.copy(tmp_path / "other")
    for date in reversed(dates):
        gym.run("monitor", of="tables", date=date)
    for date in dates:
        other.run("monitor", of="tables", date=date)
    assert [metrics(gym, date) for date in dates] == [metrics(other, date) for date in dates]
    assert histograms(gym) == histograms(other)


def test_what_happens_later_changes_nothing(gym):
    gym.run("monitor", of="tables", date=DATE - 3 * DAY)
    before = metrics(gym, DATE - 3 * DAY)
    for n in range(3):
        replant(gym, doubled, DATE - n * DAY)
    gym.run("monitor", of="tables", date=DATE - 3 * DAY, force=True)
    assert metrics(gym, DATE - 3 * DAY) == before


def test_a_day_that_was_written_again_is_counted_again(gym):
    gym.run("monitor", of="tables")
    replant(gym, doubled)
    with pytest.raises(GateRefused, match=r"activity\.minutes"):
        gym.run("monitor", of="tables")


def test_a_load_that_came_later_tells_nothing_of_the_days_before(gym):
    early = FIRST + 20 * DAY
    enter_day(gym, early, _version(gym))
    gym.run("monitor", of="tables", date=early)
    assert metrics(gym, early)["volume", "activity"]["verdict"] == "unknown"


def test_a_date_that_was_not_aggregated_is_bad_input(gym):
    with pytest.raises(BadInput, match="lumos aggregate"):
        gym.run("monitor", of="tables", date=DATE + DAY)
    with pytest.raises(BadInput, match="neither tables nor forecasts"):
        gym.run("monitor", of="moods")


def test_the_page_shows_both_halves_and_escapes_what_tables_hold(gym):
    evil = {name: dict(columns) for name, columns in RAW.items()}
    evil["checkins"]["<script>alert(1)</script>"] = "string"
    enter_day(gym, DATE, write_day(gym, DATE, doubled), raw_schema=evil)
    with pytest.raises(GateRefused, match=r"index\.html"):
        gym.run("monitor", of="tables")
    report = gym.run("monitor", of="forecasts")
    page = (gym.home / "reports/gym/monitor" / DATE.isoformat() / "index.html").read_text()
    assert report.details["page"].endswith(f"reports/gym/monitor/{DATE}/index.html")
    read_as_a_browser = Page(page)
    assert read_as_a_browser.unlabelled_figures == 0
    assert len(set(read_as_a_browser.ids)) == len(read_as_a_browser.ids)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert 'href="/lumos/runbook#monitor-drift-psi"' in page
    assert 'aria-label="activity.minutes: share of active users' in page
    assert "activity.spend: share of active users" not in page
    assert set(read_as_a_browser.links) >= {runbook_link(name) for name in MONITORS}
    assert {name for name, _ in metrics(gym)} <= set(MONITORS)
    assert {"drift_psi", "matured_auc"} <= {name for name, _ in metrics(gym)}
    assert np.isfinite(metrics(gym)["drift_psi", "activity.minutes"]["value"])


def _version(world):
    return ledger.find(world.settings, GYM, "activity", DATE).version
