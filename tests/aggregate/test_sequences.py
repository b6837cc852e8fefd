import datetime as dt
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumos import ledger
from lumos.config import Recipe
from lumos.dates import from_day_number
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.aggregate.shop import SCHEMAS, D, Shop, day, order, recipe

pytestmark = pytest.mark.usefixtures("spark")


def by_user(shop: Shop, version: int | None = None) -> dict[str, dict[str, object]]:
    return {row["user_id"]: row for row in shop.rows("sequences", version)}


def recomputed(shop: Shop, last: dt.date) -> dict[str, list[tuple[object, ...]]]:
    """Every user's active days, by a loop over activity."""
    days = defaultdict(list)
    for row in shop.rows("activity"):
        if row["day"] <= last:
            values = (np.float32(row["bought"]), np.float32(row["amount"]))
            days[row["user_id"]].append((row["day"], *values))
    return {user: sorted(rows) for user, rows in days.items()}


def sequence(shop: Shop, date: dt.date = D, given: Recipe | None = None, **options: object):
    return shop.run("sequences", date=date, recipe=given or recipe(), **options)


def active_days(users: dict[str, dict[str, object]]) -> dict[str, list[tuple[object, ...]]]:
    return {
        user: [(from_day_number(d["day"]), d["bought"], d["amount"]) for d in row["days"]]
        for user, row in users.items()
    }


def test_sequences_equal_a_plain_recomputation_from_activity_of_their_date(
    aggregated: Shop,
) -> None:
    sequence(aggregated)
    before = by_user(aggregated)
    assert active_days(before) == recomputed(aggregated, D)
    assert sequence(aggregated).already_done

    amounts = [0.1, 1e-7, 12345.678]
    aggregated.land("orders", [order(50 + n, 0, landed=1, amount=a) for n, a in enumerate(amounts)])
    aggregated.land("orders", [order(60, 1, customer=2)])
    aggregated.aggregate(1)

    report = sequence(aggregated, day(1))

    users = by_user(aggregated)
    assert users != before
    assert active_days(users) == recomputed(aggregated, day(1))
    assert {user: row["registered_on"] for user, row in users.items()} == {
        "1": day(-9),
        "2": day(-5),
    }
    assert [users[user]["city"] for user in ("1", "2")] == ["Pune", None]
    entry = ledger.find(aggregated.settings, recipe(), "sequences", day(1))
    assert entry is not None
    assert (entry.version, entry.rows) == (report.tables[0].version, 2)

    report = sequence(aggregated, force=True)

    assert by_user(aggregated, report.tables[0].version) == before, "an older date knows no more"


def test_each_bucket_is_one_file_sorted_by_user_and_strangers_wait_in_quarantine(
    aggregated: Shop,
) -> None:
    people = [{"customer": n, "city": None, "since": day(-1)} for n in range(100, 160)]
    table = pa.Table.from_pylist(people, schema=SCHEMAS["people"])
    pq.write_table(table, aggregated.raw("people") / "part-1.parquet")
    aggregated.land("orders", [order(70, 0, customer=7), order(71, -1, customer=7)])
    aggregated.aggregate()
    report = sequence(aggregated, given=recipe(num_buckets=3), force=True)

    folder = Path(table_uri(aggregated.settings, recipe(), "sequences"))
    files = sorted(folder.glob("bucket=*/*.parquet"))
    assert [file.parent.name for file in files] == ["bucket=0", "bucket=1", "bucket=2"]
    users = [pq.ParquetFile(file).read(["user_id"])["user_id"].to_pylist() for file in files]
    assert all(names == sorted(names) for names in users)
    assert sum(map(len, users)) == 62, "users without activity have a row too"
    never_active = by_user(aggregated)["100"]
    assert never_active["days"] == []

    assert report.rows_rejected == 1
    assert "7" not in by_user(aggregated)
    (row,) = (r for r in aggregated.rows("quarantine") if r["job"] == "sequences")
    assert row["reason"] == "active but not in users yet"
    assert '"user_id":"7"' in row["row"]
    assert '"num_days":2' in row["row"]

    aggregated.land("orders", [order(72, 0, amount=-1.0)])
    aggregated.aggregate()
    rejected = aggregated.rows("quarantine")
    assert "negative amount" in {other["reason"] for other in rejected}
    assert row in rejected, "what another verb has rejected of the day stays"


def test_a_gap_is_refused_with_the_very_command_that_fills_it(aggregated: Shop) -> None:
    aggregated.land("orders", [order(80, 9)])
    aggregated.aggregate(9)
    with pytest.raises(BadInput, match=r"no ready run for 2024-03-11 \.\. 2024-03-16") as caught:
        sequence(aggregated, day(9))
    said = str(caught.value)
    assert "lumos aggregate --recipe shop --date 2024-03-16 --days 6" in said

    # What it says works: fill the gap, then pin a version that holds it.
    aggregated.aggregate(6, days=6, allow_empty=True)
    with pytest.raises(BadInput, match=r"done anew: .*--date 2024-03-19 --days 3"):
        sequence(aggregated, day(9))
    aggregated.aggregate(9)
    assert sequence(aggregated, day(9)).tables[0].rows == 2


def test_a_date_that_was_never_aggregated_is_refused_with_the_command(shop: Shop) -> None:
    with pytest.raises(BadInput, match="Run: lumos aggregate --recipe shop --date 2024-03-10"):
        sequence(shop)
