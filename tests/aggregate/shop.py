"""A made-up shop, small enough to know every row by heart.

Orders land as Delta with their own landing day, visits as CSV without one. The shop keeps
Kolkata time, half a day away from UTC, so that a wrong time zone shows.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from lumos.config import ActivityColumn, EventColumn, RawTable, Recipe, StaticColumn, Task
from lumos.delta import read
from lumos.tables import table_uri
from tests.conftest import World

D = dt.date(2024, 3, 10)
SCHEMAS = {
    "orders": pa.schema(
        [
            ("order_id", pa.int64()),
            ("customer", pa.int64()),
            ("ordered_at", pa.timestamp("us", tz="UTC")),
            ("amount", pa.float64()),
            ("landed_on", pa.date32()),
        ]
    ),
    "people": pa.schema([("customer", pa.int64()), ("city", pa.string()), ("since", pa.date32())]),
    "sales": pa.schema(
        [("day", pa.date32()), ("announced_on", pa.date32()), ("discount", pa.float64())]
    ),
}
ACTIVITY_SQL = """
SELECT
    user_id,
    day,
    CAST(MAX(bought) AS DOUBLE) AS bought,
    SUM(amount) AS amount,
    COUNT(*) AS num_raw_rows
FROM (
    SELECT user_id, day, 1 AS bought, amount FROM orders
    UNION ALL
    SELECT user_id, day, 0, CAST(0 AS DOUBLE) FROM visits
) AS facts
WHERE day BETWEEN :first_day AND :last_day
GROUP BY user_id, day
"""
EVENTS_SQL = """
SELECT day, announced_on AS known_on, discount
FROM sales
WHERE announced_on BETWEEN :first_day AND :last_day
"""
STATIC_SQL = """
SELECT CAST(customer AS STRING) AS user_id, since AS valid_from, since AS registered_on, city
FROM people
WHERE since BETWEEN :first_day AND :last_day
"""


def day(offset: int) -> dt.date:
    """A day counted from the business date."""
    return D + dt.timedelta(days=offset)


def at_noon(offset: int) -> dt.datetime:
    """06:30 UTC, which is noon in Kolkata."""
    return dt.datetime.combine(day(offset), dt.time(6, 30), dt.UTC)


def order(number: int, offset: int, *, landed: int | None = None, **changes: Any) -> dict[str, Any]:
    """An order of 10 by customer 1, on a day counted from the business date."""
    return {
        "order_id": number,
        "customer": 1,
        "ordered_at": at_noon(offset),
        "amount": 10.0,
        "landed_on": day(offset if landed is None else landed),
    } | changes


def recipe(**changes: Any) -> Recipe:
    """The shop's recipe, with some fields replaced."""
    fields: dict[str, Any] = {
        "name": "shop",
        "description": "A made-up shop",
        "dataset": "shop",
        "sql": "shop",
        "timezone": "Asia/Kolkata",
        "raw": (
            RawTable(
                name="orders",
                role="fact",
                columns={
                    "order_id": "bigint",
                    "customer": "bigint",
                    "ordered_at": "timestamp",
                    "amount": "double",
                    "landed_on": "date",
                },
                user="customer",
                happened_at="ordered_at",
                landed_on="landed_on",
                key=("order_id",),
                non_negative=("amount",),
            ),
            RawTable(
                name="visits",
                role="fact",
                format="csv",
                columns={"customer": "bigint", "visited_on": "date"},
                user="customer",
                happened_at="visited_on",
            ),
            RawTable(
                name="people",
                role="reference",
                format="parquet",
                columns={"customer": "bigint", "city": "string", "since": "date"},
            ),
            RawTable(
                name="sales",
                role="reference",
                columns={"day": "date", "announced_on": "date", "discount": "double"},
                landed_on="announced_on",
            ),
        ),
        "activity": (
            ActivityColumn(name="bought", kind="binary", unit="0 or 1"),
            ActivityColumn(name="amount", kind="continuous", unit="INR"),
        ),
        "active": "bought",
        "events": (EventColumn(name="discount", unit="share"),),
        "static": (StaticColumn(name="city", kind="categorical"),),
        "history_days": 7,
        "horizon_days": 3,
        "num_buckets": 2,
        "tasks": (Task(name="buy_3d", kind="any", column="bought", window_days=3),),
    }
    return Recipe.model_validate(fields | changes)


class Shop(World):
    """The shop's lake, which a test may land rows in and whose SELECTs it may rewrite."""

    @property
    def sql(self) -> Path:
        """Folder of the SELECTs."""
        return self.home / "sql" / "shop"

    @property
    def environment(self) -> dict[str, str]:
        """As of any world, with SELECTs of its own."""
        return {**super().environment, "LUMOS_SQL": str(self.home / "sql")}

    def raw(self, name: str) -> Path:
        """Where a raw table lies."""
        return self.home / "lake" / "raw" / "shop" / name

    def land(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a raw Delta table."""
        table = pa.Table.from_pylist(list(rows), schema=SCHEMAS[name])
        write_deltalake(str(self.raw(name)), table, mode="append")

    def land_visits(self, text: str) -> None:
        """Add a CSV file of visits."""
        folder = self.raw("visits")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{len(list(folder.iterdir()))}.csv"
        (folder / name).write_text(f"visited_on,customer\n{text}")

    def aggregate(self, offset: int = 0, **options: Any) -> Any:
        """Aggregate a day counted from the business date."""
        options.setdefault("recipe", recipe())
        return self.run("aggregate", date=day(offset), **options)

    def rows(self, name: str, version: int | None = None) -> list[dict[str, Any]]:
        """Rows of a contract table, in an order of their own."""
        found = read(table_uri(self.settings, recipe(), name), version=version)
        assert found is not None
        return sorted(found.to_pylist(), key=lambda row: str(sorted(row.items())))


def open_shop(home: Path) -> Shop:
    """A shop with two customers, an order a day of the first, and two announced sales."""
    shop = Shop(home, "shop", D)
    shop.sql.mkdir(parents=True)
    (shop.sql / "activity.sql").write_text(ACTIVITY_SQL)
    (shop.sql / "event_context.sql").write_text(EVENTS_SQL)
    (shop.sql / "static.sql").write_text(STATIC_SQL)
    shop.land("orders", [order(number, number - 9) for number in range(10)])
    shop.land_visits(f"{day(-4)},2\n{day(0)},2\n")
    people = [
        {"customer": 1, "city": "Pune", "since": day(-9)},
        {"customer": 2, "city": None, "since": day(-5)},
    ]
    shop.raw("people").mkdir(parents=True)
    table = pa.Table.from_pylist(people, schema=SCHEMAS["people"])
    pq.write_table(table, shop.raw("people") / "part-0.parquet")
    sales = [
        {"day": day(2), "announced_on": day(-20), "discount": 0.1},
        {"day": day(2), "announced_on": day(-1), "discount": 0.2},
        {"day": day(3), "announced_on": day(1), "discount": 0.5},
    ]
    shop.land("sales", sales)
    return shop
