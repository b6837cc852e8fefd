import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lumos import ledger
from lumos.aggregate import daily
from lumos.aggregate.facts import UNKNOWN_DAY
from lumos.aggregate.landed import RawChanged
from lumos.config import ActivityColumn
from lumos.delta import open_table
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused
from tests.aggregate.ready import with_tips
from tests.aggregate.shop import ACTIVITY_SQL, STATIC_SQL, D, Shop, at_noon, day, order, recipe

pytestmark = pytest.mark.usefixtures("spark")
WRITTEN = ("activity", "event_context", "users", "quarantine", "metrics")


def contents(shop: Shop) -> dict[str, list[dict[str, object]]]:
    return {name: shop.rows(name) for name in WRITTEN}


def versions(shop: Shop) -> dict[str, int]:
    found = {}
    for name in (*WRITTEN, "ledger"):
        table = open_table(table_uri(shop.settings, recipe(), name))
        assert table is not None
        found[name] = table.version()
    return found


def reasons(shop: Shop) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in shop.rows("quarantine"):
        found[row["reason"]] = found.get(row["reason"], 0) + row["num_rows"]
    return found


def active_days(shop: Shop) -> dict[tuple[str, dt.date], int]:
    return {(row["user_id"], row["day"]): row["num_raw_rows"] for row in shop.rows("activity")}


def test_the_tables_hold_what_the_raw_rows_say(aggregated: Shop) -> None:
    expected = {("1", day(-offset)): 1 for offset in range(10)}
    assert active_days(aggregated) == expected | {("2", day(-4)): 1, ("2", day(0)): 1}
    assert [row["city"] for row in aggregated.rows("users")] == ["Pune", None]
    entry = ledger.find(aggregated.settings, recipe(), "activity", D)
    assert entry is not None
    assert (entry.first_day, entry.rows, entry.verdict) == (day(-9), 12, "ready")


def test_nothing_is_known_before_it_was_announced(aggregated: Shop) -> None:
    known = {
        (row["day"], row["known_on"], row["discount"]) for row in aggregated.rows("event_context")
    }
    # What was announced before the first day belongs to the first run; tomorrow's news to none.
    assert known == {(day(2), day(-20), 0.1), (day(2), day(-1), 0.2)}


def test_aggregating_twice_equals_once_also_by_force_and_whatever_lands_later(
    aggregated: Shop,
) -> None:
    before, at = contents(aggregated), versions(aggregated)

    assert aggregated.aggregate(days=10).already_done
    assert aggregated.aggregate().already_done, "a wider window that was done covers a narrower"
    assert versions(aggregated) == at

    aggregated.land("orders", [order(30, 1), order(31, 0, landed=1), order(32, -1, landed=2)])
    aggregated.land_visits(f"{day(1)},2\n{day(2)},1\n")
    again = aggregated.aggregate(force=True)
    assert not again.already_done
    after = contents(aggregated)
    for name in ("activity", "event_context", "users", "quarantine"):
        assert after[name] == before[name], name
    entry = ledger.find(aggregated.settings, recipe(), "activity", D)
    assert entry is not None
    assert (entry.first_day, entry.rows) == (day(-9), 12), "the days before the rerun still hold"


def test_every_unusable_row_stands_in_quarantine_with_its_reason(shop: Shop) -> None:
    midnight = dt.datetime.combine(day(-1), dt.time(18, 30), dt.UTC)  # 00:00 of D in Kolkata
    shop.land(
        "orders",
        [
            order(100, 0, customer=None),
            order(101, 0, ordered_at=None),
            order(102, 0, ordered_at=dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
            order(103, 0, ordered_at=at_noon(1)),
            order(104, 0, amount=-1.0),
            order(105, 0, amount=float("nan")),
            order(106, 0, amount=float("inf")),
            order(None, 0),  # type: ignore[arg-type]
            order(9, 0),  # the very row that landed before
            order(9, 0, amount=99.0),
            order(107, 0, amount=-5.0),
            order(107, 0, amount=5.0),  # its correction
            order(108, -6, landed=0),
            order(109, 0, landed_on=None),
            order(110, 0, ordered_at=midnight),
            order(111, 0, ordered_at=midnight - dt.timedelta(microseconds=1)),
        ],
    )
    shop.land_visits(f"{day(0)},\n{day(0)},nobody\n,1\n0001-01-01,1\n")

    report = shop.aggregate()

    assert reasons(shop) == {
        "null user": 2,
        "null timestamp": 2,
        "absurd timestamp": 2,
        "happened after it landed": 1,
        "negative amount": 2,
        "amount is not a finite number": 2,
        "null key column order_id": 1,
        "duplicate key": 2,
        "late for a closed day": 1,
        "null landing day": 1,
        "unreadable customer": 1,
    }
    assert report.rows_rejected == 17
    assert report.metrics["raw_rows_landed"] == 17 + 4 + 3
    days = active_days(shop)
    assert days[("1", D)] == 3, "orders 9, 107 as corrected, and 110"
    assert days[("1", day(-1))] == 2, "the microsecond before midnight is yesterday's"
    rows = shop.rows("quarantine")
    whole = [json.loads(row["row"]) for row in rows if row["reason"] == "unreadable customer"]
    assert whole == [{"visited_on": str(D), "customer": "nobody"}]
    unplaced = {row["reason"] for row in rows if row["day"] == UNKNOWN_DAY}
    assert unplaced == {"null timestamp", "absurd timestamp", "null landing day"}

    before = rows
    shop.aggregate(force=True)
    assert shop.rows("quarantine") == before


def test_late_rows_and_copies_are_judged_once_whatever_runs_after(aggregated: Shop) -> None:
    shop = aggregated
    shop.land(
        "orders",
        [
            order(20, 1),
            order(21, 0, landed=1, customer=2),
            order(22, -6, landed=1, customer=2),
            # Copies of an order of two days ago: only the first run to see them sees the original.
            order(8, -1, landed=1),
            order(8, -1, landed=1),
            order(24, 0, landed=1),
            order(25, 0, landed=2),
        ],
    )
    report = shop.aggregate(1)
    assert report.details["late_rows"] == 1, "what the monitor tells of"
    assert active_days(shop)[("2", D)] == 2, "late by one day: counted"
    assert ("2", day(-6)) not in active_days(shop)
    assert reasons(shop) == {"late for a closed day": 1, "duplicate key": 2}

    report = shop.aggregate(1, days=9)
    assert report.details["late_rows"] == 0
    assert active_days(shop)[("2", day(-6))] == 1, "its day is open again"
    assert reasons(shop) == {"duplicate key": 2}

    shop.land("orders", [order(23, 2)])
    report = shop.aggregate(2)
    assert reasons(shop) == {"duplicate key": 2}, "another run has judged them"
    assert report.metrics["raw_rows_counted_earlier"] == 3
    before = active_days(shop)
    assert before[("2", day(-6))] == before[("1", day(-1))] == 1
    assert before[("1", D)] == 3

    report = shop.aggregate(1, force=True)

    assert active_days(shop) == before, "an older date leaves what later dates know"
    (pinned,) = (item.version for item in report.tables if item.table == "activity")
    as_then = {(r["user_id"], r["day"]): r["num_raw_rows"] for r in shop.rows("activity", pinned)}
    assert as_then[("1", D)] == 2, "its own version holds what had landed by its date"

    shop.aggregate(force=True)
    assert active_days(shop) == before, "of two later dates the last one knows best"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("FROM orders", "FROM orders WHERE amount > 10"), "1 of 2 rows of 2024-03-10 lost"),
        (("FROM orders", "FROM orders CROSS JOIN people"), "2024-03-10 counted too often"),
        (
            ("DOUBLE) AS bought", "DOUBLE) AS purchased"),
            "missing: bought; not asked for: purchased",
        ),
        (("CAST(MAX(bought) AS DOUBLE)", "'yes'"), "bought: expected double, found string"),
        (("GROUP BY user_id", "GRUP BY user_id"), "cannot be run"),
        (("FROM visits", "FROM visitors"), "cannot be run"),
        (
            (
                "CAST(MAX(bought) AS DOUBLE) AS bought,\n    SUM(amount)",
                "2.0D * MAX(bought) AS bought, -NULLIF(SUM(amount), 0)",
            ),
            "1 rows with null in column amount; 3 rows with bought neither 0 nor 1; "
            "3 rows with amount below its minimum 0",
        ),
        (("SUM(amount)", "SUM(amount / (bought - bought))"), "failed on the data"),
        (("SUM(amount)", "SUM(CAST(CONCAT('x', amount) AS DOUBLE))"), "The value ... of the type"),
    ],
)
def test_a_select_that_breaks_the_contract_is_refused_and_nothing_is_written(
    aggregated: Shop, change: tuple[str, str], said: str
) -> None:
    at = versions(aggregated)
    assert change[0] in ACTIVITY_SQL
    (aggregated.sql / "activity.sql").write_text(ACTIVITY_SQL.replace(*change))
    with pytest.raises(BadInput, match=r"activity\.sql") as caught:
        aggregated.aggregate()
    assert said in str(caught.value)
    assert versions(aggregated) == at


def test_raw_files_that_are_damaged_or_change_meanwhile_are_named_and_nothing_is_written(
    aggregated: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, people = versions(aggregated), aggregated.raw("people") / "part-0.parquet"
    whole, select = people.read_bytes(), daily._select
    people.write_bytes(whole[:4] + bytes(40) + whole[44:])
    with pytest.raises(BadInput, match=r"raw table people: file part-0\.parquet cannot be read"):
        aggregated.aggregate()
    people.write_bytes(whole)

    def land_meanwhile(*given: Any) -> None:
        select(*given)
        with (aggregated.raw("visits") / "part-0.csv").open("a") as file:
            file.write(f"{day(0)},1\n")

    monkeypatch.setattr(daily, "_select", land_meanwhile)
    with pytest.raises(RawChanged, match=r"raw table visits: file part-0\.csv changed"):
        aggregated.aggregate()
    assert versions(aggregated) == at


def test_a_refused_day_leaves_the_tables_as_they_were(aggregated: Shop) -> None:
    before = contents(aggregated)
    aggregated.land("orders", [order(20, 1)])
    # Registered after the business date: no SELECT check looks at that, the audit does.
    text = STATIC_SQL.replace("since AS registered_on", "since + 100 AS registered_on")
    (aggregated.sql / "static.sql").write_text(text)

    with pytest.raises(GateRefused):
        aggregated.aggregate(0, days=10)

    after = contents(aggregated)
    for name in ("activity", "event_context", "users"):
        assert after[name] == before[name], name
    entry = ledger.find(aggregated.settings, recipe(), "activity", D)
    assert entry is not None
    assert entry.verdict == ledger.REFUSED


@pytest.fixture
def vacuumed(aggregated: Shop) -> Shop:
    """Later dates know the business date better, at versions whose files are gone."""
    aggregated.land("orders", [order(20, 1), order(21, 2)])
    for offset in (1, 2):
        aggregated.aggregate(offset)
    aggregated.aggregate(force=True)  # rewrites what the later versions hold of these days
    for name in ("activity", "event_context", "users"):
        table = open_table(table_uri(aggregated.settings, recipe(), name))
        assert table is not None
        table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    return aggregated


def test_an_old_date_that_later_ones_cannot_be_put_back_over_is_refused_with_what_works(
    vacuumed: Shop,
) -> None:
    vacuumed.land("orders", [order(30, -1, landed=1)])
    before, at = contents(vacuumed), versions(vacuumed)

    with pytest.raises(BadInput, match=r"is gone .* Nothing was changed") as caught:
        vacuumed.aggregate(force=True)
    assert versions(vacuumed) == at, "refused before any commit"
    assert contents(vacuumed) == before

    command = re.search(r"`lumos aggregate --date (\S+) --days (\d+) --force`", str(caught.value))
    assert command is not None
    assert command.groups() == (str(day(2)), "5")
    vacuumed.aggregate(2, days=5, force=True)
    gained = {("1", day(-1)): 2}  # the order that came late, and the one of each day
    assert active_days(vacuumed).items() >= gained.items()
    vacuumed.aggregate(force=True)
    assert active_days(vacuumed).items() >= gained.items(), "put back from the newer version"


def test_a_refused_day_is_put_back_also_where_the_versions_of_its_runs_are_gone(
    vacuumed: Shop,
) -> None:
    before = contents(vacuumed)
    text = STATIC_SQL.replace("since AS registered_on", "since + 100 AS registered_on")
    (vacuumed.sql / "static.sql").write_text(text)

    with pytest.raises(GateRefused):
        vacuumed.aggregate(2, days=12, force=True)

    after = contents(vacuumed)
    for name in ("activity", "event_context", "users"):
        assert after[name] == before[name], name


def test_a_day_without_data_names_the_newest_landed_day_and_the_remedy(aggregated: Shop) -> None:
    with pytest.raises(BadInput, match=f"newest day that has landed is {D}") as caught:
        aggregated.aggregate(1)
    assert "--allow-empty" in str(caught.value)

    aggregated.land("orders", [order(40, 2)])
    report = aggregated.aggregate(2)
    assert report.details["last_empty_days"] == [str(day(1))], "an empty day inside is fine"


@pytest.mark.parametrize("columns", [("bought",), ("bought", "spent")])
def test_a_table_made_by_another_form_of_the_recipe_is_named(
    aggregated: Shop, columns: tuple[str, ...]
) -> None:
    activity = tuple(
        ActivityColumn(name=name, kind="continuous" if number else "binary", unit="")
        for number, name in enumerate(columns)
    )
    with pytest.raises(BadInput, match=r"columns amount(, spent)? differ"):
        aggregated.aggregate(recipe=recipe(activity=activity))


def test_a_new_activity_column_is_null_on_the_days_before_it_whatever_runs_again(
    aggregated: Shop,
) -> None:
    more = with_tips(recipe())
    files = set(Path(table_uri(aggregated.settings, recipe(), "activity")).glob("day=*/*"))
    with pytest.raises(BadInput, match="missing: tips"):
        aggregated.aggregate(recipe=more)
    assert "tips" not in aggregated.rows("activity")[0], "a refused SELECT leaves no column behind"

    aggregated.land("orders", [order(20, 1)])
    text = ACTIVITY_SQL.replace("SUM(amount) AS amount", "SUM(amount) AS amount, 0.5D AS tips")
    (aggregated.sql / "activity.sql").write_text(text)
    aggregated.aggregate(1, recipe=more)
    tips = {row["day"]: row["tips"] for row in aggregated.rows("activity")}
    assert tips == {day(n): 0.5 if n >= -1 else None for n in range(-9, 2)}
    assert files <= set(Path(table_uri(aggregated.settings, more, "activity")).glob("day=*/*"))

    # An older date gives its days back to the runs that know them better.
    aggregated.aggregate(-2, recipe=more)
    assert {row["day"]: row["tips"] for row in aggregated.rows("activity")} == tips
