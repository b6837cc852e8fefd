"""Great Expectations finds every fault, counts it, and names it for a person on call."""

import datetime as dt

import pytest

from lumos.quality import measure
from lumos.quality.measure import check_numbers, check_rows
from lumos.quality.suites import checks, flags
from lumos.quality.usual import measured
from lumos.tables import tables
from tests.quality.conftest import DATE, FIRST, GYM, active_row, event_rows, user_rows

NAN, INFINITY = float("nan"), float("inf")


def examine(spark, table, rows):
    ddl = tables(GYM)[table].ddl()
    columns = tables(GYM)[table].column_names
    frame = spark.createDataFrame([tuple(row[name] for name in columns) for row in rows], ddl)
    found = check_rows(
        frame.coalesce(1).cache(),
        checks(GYM, table, last_day=DATE),
        flags=flags(GYM, table),
        key=tables(GYM)[table].key,
        date=DATE,
    )
    return {(finding.name, finding.segment): finding for finding in found}


def verdicts(found, verdict):
    return {key for key, finding in found.items() if finding.verdict == verdict}


@pytest.fixture(scope="module", params=["held here", "left to Spark"])
def faulty(spark, request):
    """Both ways must find the same."""
    good = [active_row(f"u{n}", DATE) for n in range(20)]
    bad = [
        active_row("a", DATE, visited=2.0),
        active_row("b", DATE, took_class=None),
        active_row("c", DATE, minutes=-4.2),
        active_row("d", DATE, minutes=-1.0),
        active_row("e", DATE, spend=NAN),
        active_row("f", DATE, spend=INFINITY),
        active_row("g", DATE, num_raw_rows=0),
        active_row("h", DATE),
        active_row("h", DATE),
        active_row("i", DATE, visited=0.0),
        active_row("j", DATE, visited=0.0, minutes=0.0),
        active_row(None, DATE),
    ]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "left to Spark":
            patch.setattr(measure, "_MOST_ROWS_HERE", 0)
        return examine(spark, "activity", good + bad)


@pytest.mark.parametrize(
    ("name", "segment", "verdict", "count", "said"),
    [
        ("unique", "activity", "critical", 2, "the key (user_id, day) is not unique in 2 rows"),
        ("not_null", "activity.user_id", "critical", 1, "user_id is null in 1 row"),
        ("not_null", "activity.took_class", "critical", 1, "took_class is null in 1 row"),
        ("in_set", "activity.visited", "critical", 1, "has 1 value other than 0 and 1"),
        ("between", "activity.minutes", "critical", 2, "minutes has 2 values below 0"),
        ("between", "activity.spend", "critical", 2, "spend has 2 values below 0 or not finite"),
        ("between", "activity.num_raw_rows", "critical", 1, "num_raw_rows is below 1 in 1 row"),
        ("inactive", "activity", "warning", 1, "although visited is 0 in 1 row"),
        ("empty", "activity", "warning", 1, "nothing was done in 1 row"),
    ],
)
def test_each_fault_is_found_counted_and_said(faulty, name, segment, verdict, count, said):
    finding = faulty[name, segment]
    assert (finding.verdict, finding.value) == (verdict, count)
    assert finding.message.startswith("activity 2024-05-10: ")
    assert said in finding.message
    assert f"({verdict})" in finding.message


def test_an_example_names_the_row_and_the_value(faulty):
    message = faulty["between", "activity.minutes"].message
    assert "(critical), e.g. user_id c, day 2024-05-10: -4.2; user_id d, day" in message


def test_what_is_not_at_fault_is_not_accused(faulty):
    accused = verdicts(faulty, "critical") | verdicts(faulty, "warning")
    assert len(accused) == 9
    assert all(finding.value == 0 for key, finding in faulty.items() if key not in accused)


def test_flawless_rows_pass_every_check(spark):
    found = examine(spark, "activity", [active_row(f"u{n}", DATE) for n in range(5)])
    assert verdicts(found, "ok") == set(found)
    assert all((finding.value, finding.message) == (0, "") for finding in found.values())


def test_no_rows_at_all_have_no_faults(spark):
    found = examine(spark, "event_context", [])
    assert verdicts(found, "ok") == set(found)


def test_users_and_events_with_faults_are_found(spark):
    odd = {"valid_from": FIRST, "registered_on": FIRST, "plan": "x", "age": 1.0}
    found = examine(
        spark,
        "users",
        [
            *user_rows(),
            odd | {"user_id": "future", "registered_on": DATE + dt.timedelta(days=1)},
            odd | {"user_id": "ancient", "registered_on": dt.date(1901, 1, 1)},
            odd | {"user_id": "endless", "age": INFINITY},
        ],
    )
    assert verdicts(found, "critical") == {
        ("between", "users.registered_on"),
        ("between", "users.age"),
    }
    assert verdicts(found, "warning") == {("too_early", "users")}
    late = {"day": FIRST, "known_on": DATE, "num_classes": NAN, "open_day": 0.0}
    found = examine(spark, "event_context", [*event_rows(), late])
    assert verdicts(found, "critical") == {("between", "event_context.num_classes")}
    assert verdicts(found, "warning") == {("too_late", "event_context")}


def test_a_column_that_is_missing_or_of_another_type_is_critical(spark):
    declared = tables(GYM)["event_context"]
    frame = spark.createDataFrame(
        [(DATE, DATE, "2")], "day date, known_on date, num_classes string"
    )
    found = check_rows(
        frame, checks(GYM, "event_context", last_day=DATE), flags=(), key=declared.key, date=DATE
    )
    by_key = {(finding.name, finding.segment): finding for finding in found}
    for column in ("num_classes", "open_day"):
        wrong = by_key["type", f"event_context.{column}"]
        assert wrong.verdict == "critical"
        assert f"{column} is missing, or not of its declared type double" in wrong.message
    unseen = by_key["not_null", "event_context.open_day"]
    assert "could not be checked" in unseen.message
    assert unseen.value is None


def test_numbers_are_held_to_their_bounds():
    numbers = [
        measured("raw", "inside", 0.5, within=(0, 1), fault="no"),
        measured("raw.x", "edge", 1, within=(0, 1), fault="no"),
        measured("raw", "outside", 2, within=(0, 1), fault="2 is too much"),
        measured("raw", "grave", -1, within=(0, 0), fault="lost one", severity="critical"),
    ]
    found = check_numbers(numbers)
    assert [finding.verdict for finding in found] == ["ok", "ok", "warning", "critical"]
    assert [finding.value for finding in found] == [0.5, 1, 2, -1]
    assert [finding.message for finding in found] == [
        "", "", "2 is too much (warning)", "lost one (critical)",
    ]  # fmt: skip
    assert check_numbers([]) == []


def test_checking_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_numbers([measured("raw", "inside", 0.5, within=(0, 1), fault="no")])
    assert not list(tmp_path.iterdir())
