"""Contract tables: every replacement is whole, survives rivals, and quotes what it is given."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.exceptions import SchemaMismatchError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumos.delta import open_table, predicate, read, replace, rewrite
from lumos.recipes import load
from lumos.tables import raw_uri, table_uri, tables
from tests.conftest import RECIPE, World

DAY = dt.date(2024, 5, 10)
SCHEMA = pa.schema([("table", pa.string()), ("day", pa.date32()), ("value", pa.int64())])


def rows(*values):
    return pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, value, strict=True)) for value in values], schema=SCHEMA
    )


def contents(uri, **where):
    found = read(uri, where=predicate(**where) if where else None)
    return sorted(tuple(row.values()) for row in found.to_pylist())


def test_a_table_that_does_not_exist_is_none_and_not_empty(tmp_path):
    assert open_table(str(tmp_path / "nothing")) is None
    assert read(str(tmp_path / "nothing")) is None


def test_replacing_touches_the_matching_rows_only(tmp_path):
    uri = str(tmp_path / "t")
    replace(uri, rows(("a", DAY, 1), ("a", DAY, 2)), where=predicate(table="a"))
    replace(uri, rows(("b", DAY, 3)), where=predicate(table="b"))
    replace(uri, rows(("a", DAY, 4)), where=predicate(table="a"))
    assert contents(uri) == [("a", DAY, 4), ("b", DAY, 3)]


def test_replacing_by_nothing_removes_the_rows(tmp_path):
    uri = str(tmp_path / "t")
    replace(uri, rows(("a", DAY, 1), ("b", DAY, 3)), where=None)
    replace(uri, rows(), where=predicate(table="a"))
    assert contents(uri) == [("b", DAY, 3)]


def test_a_pinned_version_still_tells_what_it_told(tmp_path):
    uri = str(tmp_path / "t")
    pinned = replace(uri, rows(("a", DAY, 1)), where=predicate(table="a"))
    replace(uri, rows(("a", DAY, 2)), where=predicate(table="a"))
    assert read(uri, version=pinned)["value"].to_pylist() == [1]
    assert read(uri, columns=["value"]).column_names == ["value"]


def test_rows_outside_their_own_predicate_are_refused(tmp_path):
    uri = str(tmp_path / "t")
    replace(uri, rows(("a", DAY, 1)), where=predicate(table="a"))
    with pytest.raises(Exception, match=r"(?i)predicate|constraint|invalid data"):
        replace(uri, rows(("b", DAY, 9)), where=predicate(table="a"))
    assert contents(uri) == [("a", DAY, 1)]


def test_a_predicate_takes_ranges_of_days_and_lists_of_names(tmp_path):
    uri = str(tmp_path / "t")
    days = [DAY + dt.timedelta(days=n) for n in range(4)]
    replace(uri, rows(*(("a", day, n) for n, day in enumerate(days)), ("b", DAY, 9)), where=None)
    inside = contents(uri, table="a", day=(days[1], days[2]))
    assert [value for _, _, value in inside] == [1, 2]
    assert len(contents(uri, table=["a", "b"])) == 5
    assert len(contents(uri, table=["b", "c"])) == 1
    assert contents(uri, value=3) == [("a", days[3], 3)]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_any_text_can_be_a_value_of_a_predicate(tmp_path_factory, name):
    uri = str(tmp_path_factory.mktemp("text") / "t")
    replace(uri, rows((name, DAY, 1), (name + "x", DAY, 2)), where=None)
    assert contents(uri, table=name) == [(name, DAY, 1)]


@pytest.mark.parametrize("name", ["it's", "' OR '1'='1", '"; DROP', "a\\", "--", "é-ü"])
def test_a_quote_ends_no_literal(tmp_path, name):
    uri = str(tmp_path / "t")
    replace(uri, rows(("other", DAY, 1)), where=None)
    replace(uri, rows((name, DAY, 2)), where=predicate(table=name))
    assert contents(uri, table=name) == [(name, DAY, 2)]
    assert len(contents(uri)) == 2


def test_writers_that_race_to_create_a_table_lose_nothing(tmp_path):
    names = [f"w{n}" for n in range(4)]
    for attempt in range(5):
        uri, start = str(tmp_path / f"t{attempt}"), threading.Barrier(len(names))

        def write(name, uri=uri, start=start):
            start.wait()
            return replace(uri, rows((name, DAY, 1)), where=predicate(table=name))

        with ThreadPoolExecutor(len(names)) as rivals:
            list(rivals.map(write, names))
        assert [name for name, _, _ in contents(uri)] == names


@pytest.mark.parametrize("name", ["complete_journey", "fantasy_sports", RECIPE])
def test_a_declaration_has_the_same_columns_for_spark_and_for_arrow(name):
    recipe = load(name)
    for table in tables(recipe).values():
        schema = table.arrow_schema(recipe)
        assert tuple(schema.names) == table.column_names
        assert table.ddl().startswith(f"{table.column_names[0]} ")
        assert not any(schema.field(key).nullable for key in table.key)


def test_raw_tables_lie_in_the_dataset_unless_their_path_says_otherwise(tmp_path):
    recipe, lake = load(RECIPE), World(tmp_path).settings
    assert raw_uri(lake, recipe, "checkins") == f"{tmp_path}/lake/raw/gym/checkins"
    assert table_uri(lake, recipe, "activity") == f"{tmp_path}/lake/gym/activity"
    moved = recipe.model_dump()
    moved["raw"][0]["path"], moved["raw"][1]["path"] = "s3://b/checkins", "/mnt/purchases"
    moved = type(recipe).model_validate(moved)
    assert raw_uri(lake, moved, "checkins") == "s3://b/checkins"
    assert raw_uri(lake, moved, "purchases") == "/mnt/purchases"


def test_a_table_takes_a_new_column_by_its_log_alone_and_refuses_rows_that_lack_one(
    tmp_path: Path,
) -> None:
    uri = str(tmp_path / "table")
    old = pa.schema([pa.field("day", pa.string(), False), pa.field("a", pa.float64(), False)])
    new = old.append(pa.field("b", pa.float64(), False))
    replace(uri, pa.table([["1"], [1.0]], schema=old), where=None, partition=["day"])
    files = set(tmp_path.glob("table/day=*/*"))

    replace(uri, pa.table([["2"], [2.0], [3.0]], schema=new), where=predicate(day="2"))

    found = read(uri)
    assert found is not None
    assert sorted(found.to_pylist(), key=str) == [
        {"day": "1", "a": 1.0, "b": None},
        {"day": "2", "a": 2.0, "b": 3.0},
    ]
    assert files < set(tmp_path.glob("table/day=*/*"))
    with pytest.raises(SchemaMismatchError):
        replace(uri, pa.table([["3"], [2.0]], schema=old), where=predicate(day="3"))


def test_rivals_that_create_a_small_table_at_once_lose_no_change(tmp_path):
    for attempt in range(5):
        uri = str(tmp_path / f"t{attempt}")
        together = threading.Barrier(4)

        def enter(name: str, uri: str = uri, together: threading.Barrier = together) -> int:
            together.wait()
            return rewrite(
                uri, SCHEMA, lambda found: pa.concat_tables([found, rows((name, DAY, 1))])
            )

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(enter, "abcd"))
        assert [name for name, *_ in contents(uri)] == list("abcd")
