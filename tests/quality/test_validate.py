"""The gates: what is wrong stops the day with a sentence, what is odd is noted, all is recorded."""

import pytest

from lumos.delta import open_table
from lumos.ledger import READY, find
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused, TableWritten
from tests.conftest import World, enter
from tests.quality.conftest import (
    DATE,
    FIRST,
    GYM,
    active_row,
    activity_rows,
    user_rows,
)


def newest_metrics(lake):
    return open_table(table_uri(lake.world.settings, GYM, "metrics")).version()


def with_last_day(change):
    """The flawless activity, its business date changed row by row; None drops a row."""
    changed = [change(dict(row)) if row["day"] == DATE else row for row in activity_rows()]
    return [row for row in changed if row is not None]


def test_a_flawless_day_passes_and_every_check_is_a_row(lake, spark):
    lake.audit(spark)
    report = lake.world.run("validate")
    assert report.metrics == {
        "num_checks": report.tables[0].rows,
        "num_warnings": 0,
        "num_critical": 0,
    }
    found = lake.metrics("validate")
    assert {row["verdict"] for row in found.values()} == {"ok"}
    assert {"activity", "users", "event_context", "quarantine"} == {
        segment.split(".")[0] for segment, _ in found
    }
    entry = find(lake.world.settings, GYM, "quality", DATE)
    assert (entry.verdict, entry.version, entry.first_day) == (READY, newest_metrics(lake), FIRST)
    assert entry.inputs == lake.versions()

    again = lake.world.run("validate")
    assert again.already_done
    assert again.tables == report.tables
    assert newest_metrics(lake) == entry.version

    forced = lake.world.run("validate", force=True)
    assert not forced.already_done
    assert lake.metrics("validate") == found


def test_a_critical_fault_refuses_the_day_and_refuses_it_again(lake):
    lake.write("activity", [*activity_rows(), active_row("m-0é", DATE, minutes=-4.2)])
    with pytest.raises(GateRefused) as refused:
        lake.world.run("validate")
    message = str(refused.value)
    assert "minutes has 1 value below 0 or not finite (critical), e.g. user_id m-0é" in message
    assert "the key (user_id, day) is not unique in 2 rows" in message
    entry = find(lake.world.settings, GYM, "quality", DATE)
    assert entry.verdict == "refused"
    critical = [row for row in lake.metrics("validate").values() if row["verdict"] == "critical"]
    assert {row["segment"] for row in critical} == {"activity.minutes", "activity"}

    with pytest.raises(GateRefused) as again:
        lake.world.run("validate")
    assert str(again.value) == message
    assert newest_metrics(lake) == entry.version

    lake.write("activity", activity_rows())
    lake.world.run("validate")
    assert find(lake.world.settings, GYM, "quality", DATE).verdict == READY


def test_days_before_a_column_came_pass_and_a_hole_in_a_day_does_not(lake):
    def without_spend(is_empty):
        return [row | ({"spend": None} if is_empty(row) else {}) for row in activity_rows()]

    lake.write("activity", without_spend(lambda row: row["day"] < DATE))
    assert lake.world.run("validate").metrics["num_warnings"] == 0

    lake.write("activity", without_spend(lambda row: row["user_id"] == "m-0é"))
    with pytest.raises(GateRefused, match="spend is null in 40 rows"):
        lake.world.run("validate")


def test_what_is_odd_is_noted_and_stops_nothing(lake, spark):
    def halved(row):
        number = int(row["user_id"][2])
        return None if number > 1 else row | {"spend": 900.0}

    lake.write("activity", [*with_last_day(halved), active_row("stranger", DATE, spend=900.0)])
    counted = sum(row["num_raw_rows"] for row in lake.rows("activity"))
    rejected = {
        "job": "aggregate", "day": DATE, "reason": "negative amount",
        "raw_table": "purchases", "row": "{}", "num_rows": counted,
    }  # fmt: skip
    lake.write("quarantine", [rejected])
    lake.audit(spark, landed=2 * counted, quarantined=counted)
    report = lake.world.run("validate")
    assert find(lake.world.settings, GYM, "quality", DATE).verdict == READY
    warnings = report.details["warnings"]
    for said in (
        "3 rows, 70% below the median of 28 usual days (10)",
        "the mean of spend over active rows is 900",
        "1 users of activity have no row in users",
        f"{counted} raw rows (50.0%) that landed since {FIRST} were rejected; 1.0% is allowed",
    ):
        assert any(said in warning for warning in warnings), (said, warnings)
    assert report.metrics["num_warnings"] == len(warnings) == 4


def test_sequences_that_forgot_a_day_are_refused_unless_made_from_other_activity(lake):
    activity = lake.versions()["activity"]
    short = [
        {
            "user_id": user["user_id"],
            "registered_on": FIRST,
            "plan": None,
            "age": None,
            "days": [{"day": 1, "visited": 1.0}] * (39 if user["user_id"] == "m-0é" else 40),
            "bucket": 0,
        }
        for user in user_rows()
    ]
    version = lake.write("sequences", short)
    written = TableWritten(table="sequences", version=version, rows=10)
    lake.enter(written, inputs={"activity": activity + 1})
    lake.world.run("validate")
    lake.enter(written, inputs={"activity": activity})
    with pytest.raises(GateRefused, match="399 active days in all, but activity has 400 rows"):
        lake.world.run("validate")


def test_the_audit_notes_every_finding_and_where_the_raw_rows_went(lake, spark):
    found = lake.audit(spark)
    assert not [finding for finding in found if finding.verdict in ("warning", "critical")]
    noted = lake.metrics("aggregate")
    assert len(noted) == len(found)
    counts = {name: row["value"] for (segment, name), row in noted.items() if segment == "raw"}
    assert counts == {
        "window_days": 40, "rows_landed": 600, "rows_counted": 600, "rows_counted_earlier": 0,
        "rows_quarantined": 0, "conservation": 0,
    }  # fmt: skip
    version = newest_metrics(lake)
    lake.audit(spark)
    assert lake.metrics("aggregate") == noted
    assert newest_metrics(lake) > version


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"landed": 601},
            "601 rows landed, but 600 counted, 0 counted earlier, 0 quarantined (critical)",
        ),
        (
            {"landed": 599, "counted": 599},
            "num_raw_rows sums to 600 over the days written, but 599 raw rows were counted",
        ),
    ],
)
def test_a_raw_row_that_is_lost_or_doubled_refuses_the_day(lake, spark, changes, said):
    with pytest.raises(GateRefused) as refused:
        lake.audit(spark, **changes)
    assert said in str(refused.value)
    verdicts = {row["verdict"] for row in lake.metrics("aggregate").values()}
    assert "critical" in verdicts


def test_the_audit_refuses_bad_values_that_it_has_just_seen_written(lake, spark):
    lake.write("activity", with_last_day(lambda row: row | {"visited": 0.5}))
    with pytest.raises(GateRefused, match=r"activity 2024-05-10: visited has 10 values other"):
        lake.audit(spark)


def test_the_audit_looks_at_the_days_written_and_no_others(lake, spark):
    lake.write("activity", [row | {"minutes": -1.0} if row["day"] == FIRST else row
                            for row in activity_rows()])  # fmt: skip
    lake.audit(spark, first_day=DATE, landed=15, counted=15)


def test_a_table_that_changed_after_its_audit_is_refused(lake, spark):
    lake.audit(spark)
    lake.write("activity", with_last_day(lambda row: row | {"num_raw_rows": 9}))
    with pytest.raises(GateRefused, match="aggregate counted 600 raw rows: the table has changed"):
        lake.world.run("validate")


def test_a_date_that_was_not_aggregated_is_bad_input_with_the_remedy(tmp_path, monkeypatch):
    world = enter(World(tmp_path / "home"), monkeypatch)
    with pytest.raises(BadInput, match=r"not ready for 2024-05-10.*`lumos aggregate --date 2024"):
        world.run("validate")
