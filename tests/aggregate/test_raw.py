import shutil

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lumos.aggregate.raw import find_sources
from lumos.config import Recipe
from lumos.verbs import BadInput
from tests.aggregate.shop import D, Shop, day, order, recipe


def declared(shop: Shop, table: str, **columns: str) -> Recipe:
    """The shop's recipe with other declared columns of one raw table."""
    fields = recipe().model_dump()
    for raw in fields["raw"]:
        if raw["name"] == table:
            raw["columns"] |= columns
    return Recipe.model_validate(fields)


def digests(shop: Shop) -> dict[str, str]:
    found = find_sources(shop.settings, recipe(), D)
    return {name: source.digest for name, source in found.items()}


@pytest.mark.parametrize("name", ["orders", "visits", "people", "sales"])
def test_a_missing_raw_table_is_named_with_its_place_and_the_remedy(shop: Shop, name: str) -> None:
    shutil.rmtree(shop.raw(name))
    with pytest.raises(BadInput, match=f"raw table {name} is missing") as caught:
        shop.aggregate()
    assert str(shop.raw(name)) in str(caught.value)
    assert "Land it" in str(caught.value)


@pytest.mark.parametrize("name", ["orders", "visits", "people", "sales"])
def test_a_missing_column_is_named_with_the_columns_there_are(shop: Shop, name: str) -> None:
    with pytest.raises(BadInput, match=r"column coupon: expected string, found no such") as caught:
        shop.aggregate(recipe=declared(shop, name, coupon="string"))
    assert f"raw table {name}" in str(caught.value)
    assert "the recipe" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "column", "kind", "found"),
    [
        ("orders", "amount", "bigint", "double"),
        ("orders", "ordered_at", "date", "timestamp"),
        ("orders", "order_id", "int", "bigint"),
        ("people", "customer", "string", "bigint"),
        ("people", "since", "timestamp", "date"),
    ],
)
def test_a_column_of_another_type_is_said_with_both_types(
    shop: Shop, name: str, column: str, kind: str, found: str
) -> None:
    said = f"raw table {name} at .*column {column}: expected {kind}, found {found}"
    with pytest.raises(BadInput, match=said):
        shop.aggregate(recipe=declared(shop, name, **{column: kind}))


def test_a_timestamp_without_a_zone_is_not_taken_for_a_moment(shop: Shop) -> None:
    shutil.rmtree(shop.raw("orders"))
    rows = pa.table({"ordered_at": pa.array([None], pa.timestamp("us"))})
    write_deltalake(str(shop.raw("orders")), rows)
    with pytest.raises(BadInput, match="expected timestamp, found timestamp_ntz"):
        shop.aggregate()


def test_a_missing_select_is_named_with_the_place_it_was_expected_at(shop: Shop) -> None:
    (shop.sql / "static.sql").unlink()
    with pytest.raises(BadInput, match=r"no static\.sql: expected .*/sql/shop/static\.sql"):
        shop.aggregate()


def test_what_lands_later_does_not_make_a_partitioned_table_look_changed(shop: Shop) -> None:
    whole = pa.Table.from_pylist([order(1, 0), order(2, 1)]).slice(0, 1)
    shutil.rmtree(shop.raw("orders"))
    later = pa.Table.from_pylist([order(2, 1)])
    for rows in (whole, later):
        before = digests(shop) if rows is later else {}
        write_deltalake(str(shop.raw("orders")), rows, partition_by=["landed_on"], mode="append")
    assert digests(shop) == before
    write_deltalake(str(shop.raw("orders")), whole, partition_by=["landed_on"], mode="append")
    assert digests(shop)["orders"] != before["orders"]


def test_a_new_file_is_seen(shop: Shop) -> None:
    before = digests(shop)
    shop.land_visits(f"{day(0)},1\n")
    assert {name for name, digest in digests(shop).items() if digest != before[name]} == {"visits"}
