"""Raw files of all kinds beside each other, read by one Spark as what they are."""

import datetime as dt
import gzip
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import DataFrame, SparkSession

from lumos.aggregate.facts import TEXT, UNREADABLE, Days
from lumos.aggregate.landed import RawChanged
from lumos.aggregate.opening import blaming, open_source
from lumos.aggregate.raw import Source, find_sources
from lumos.config import RawTable
from lumos.settings import Settings
from lumos.verbs import BadInput
from tests.aggregate.shop import recipe

D = dt.date(2024, 5, 10)
AT = dt.datetime(2024, 5, 10, 10, 0, 0, 123456, dt.UTC)
ALL = Days(dt.date.min, D)


class Lake:
    """A lake with one raw table in a folder whose name is hard to read."""

    def __init__(self, folder: Path) -> None:
        """Lie in this folder."""
        self.root = folder / "my lake, 100% ü"
        self.raw = self.root / "raw" / "shop" / "events"
        self.raw.mkdir(parents=True)

    def write(self, name: str, content: str | bytes) -> None:
        """Land a file."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def source(self, columns: Mapping[str, str], **fields: Any) -> Source:
        """The raw table, checked."""
        table = {
            "name": "events",
            "role": "fact",
            "format": "csv",
            "columns": columns,
            "user": "user",
            "happened_at": "at",
        } | fields
        settings = Settings.from_environment({"LUMOS_LAKE": str(self.root)})
        fact = RawTable.model_validate(table)
        if fact.role == "fact":
            return find_sources(settings, recipe(raw=(fact,)), D)["events"]
        # A recipe has a fact table too: the same files, which serve.
        raw = (
            fact,
            RawTable.model_validate(table | {"name": "facts", "role": "fact", "path": "events"}),
        )
        return find_sources(settings, recipe(raw=raw), D)["events"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def rows(frame: DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    found: Iterable[Any] = frame.select(*columns).collect()
    return sorted((tuple(row) for row in found), key=str)


COLUMNS = {"user": "string", "at": "date", "amount": "decimal(9,2)", "note": "string"}


def test_csv_files_are_read_by_name_record_by_record_wherever_they_lie(
    lake: Lake, spark: SparkSession
) -> None:
    head = "user,at,amount,note\n"
    lake.write("a[1]{x}*?.csv", head + "u1,2024-05-01,1.00,\n")
    lake.write("archive/2024/05/09/b c%20d.csv", "note,amount,at,user\nn,2,2024-05-02,u2\n")
    lake.write("é日/c.csv", '\ufeffuser,at,amount,note,note2\r\nu3,2024-05-03,3,"a\r\nb",\r\n')
    lake.write("d.csv", head + 'u4,2024-05-04,4,"x\nu0,2024-05-04,99,y"\nu5,2024-05-05,5,"""q"""\n')
    lake.write("e.csv.gz", gzip.compress((head + "u6,2024-05-06,6,ok\n").encode()))
    lake.write("f.csv", head + "u7,2024-05-07\nu8,2024-05-08,8,a,b\nu9,2024,9,x\nu9,x,9.005,y\n")
    lake.write("_SUCCESS", "no,header\n")
    lake.write("x/.part.csv", "no,header\n")
    source = lake.source(COLUMNS)
    assert len(source.files) == 6
    frame = open_source(spark, source, ALL)
    good = [row for row in rows(frame, "user", "at", "amount", "note", UNREADABLE) if not row[-1]]
    assert [row[:4] for row in good] == [
        ("u1", dt.date(2024, 5, 1), Decimal(1), None),
        ("u2", dt.date(2024, 5, 2), Decimal(2), "n"),
        ("u3", dt.date(2024, 5, 3), Decimal(3), "a\r\nb"),
        ("u4", dt.date(2024, 5, 4), Decimal(4), "x\nu0,2024-05-04,99,y"),
        ("u5", dt.date(2024, 5, 5), Decimal(5), '"q"'),
        ("u6", dt.date(2024, 5, 6), Decimal(6), "ok"),
    ]
    bad = frame.filter(f"{UNREADABLE} IS NOT NULL")
    ragged = "row: it has not as many values as the header"
    assert rows(bad, "user", UNREADABLE, TEXT) == [
        ("u9", "at", '{"user":"u9","at":"2024","amount":"9","note":"x"}'),
        ("u9", "at", '{"user":"u9","at":"x","amount":"9.005","note":"y"}'),
        (None, ragged, '{"record":"u7,2024-05-07"}'),
        (None, ragged, '{"record":"u8,2024-05-08,8,a,b"}'),
    ]


def test_folders_that_say_a_declared_column_are_read_at_any_depth_and_only_as_needed(
    lake: Lake, spark: SparkSession
) -> None:
    for number, name in enumerate(
        ("at=2024-05-08/a.csv", "at=2024-05-09/x/y=1/b.csv", "at=2024-05-09/c.csv")
    ):
        lake.write(name.replace("y=1/", ""), f"user,amount,note\nu{number},1,\n")
    lake.write("at=2024-05-11/later.csv", "not,the,header\n")
    source = lake.source(COLUMNS, landed_on="at")
    frame = open_source(spark, source, Days(dt.date(2024, 5, 9), D))
    ninth = dt.date(2024, 5, 9)
    assert rows(frame, "user", "at") == [("u1", ninth), ("u2", ninth)]
    assert rows(open_source(spark, source, Days(D, D)), "user") == []


def test_a_date_or_a_time_of_csv_is_read_only_where_nothing_of_it_is_lost(
    lake: Lake, spark: SparkSession
) -> None:
    columns = {"user": "string", "at": "date", "local": "timestamp_ntz", "moment": "timestamp"}
    lines = [
        "u1,2024-05-10,2024-05-10 10:00:00,2024-05-10T10:00:00+05:30",
        "u2,2024-05-10 00:00:00,2024-05-10,2024-05-10 10:00:00",
        "at,2024-05-10T23:30:00Z,,",
        "at,2024-05,,",
        "local,,2024-05-10T10:00:00Z,",
        "local,,10:00:00,",
        "moment,,,10:00:00",
        "moment,,,2024",
    ]
    lake.write("a.csv", "\n".join([",".join(columns), *lines]))
    frame = open_source(spark, lake.source(columns), ALL)
    bad = [(line.split(",")[0],) * 2 for line in lines[2:]]
    assert rows(frame, "user", UNREADABLE) == sorted([*bad, ("u1", None), ("u2", None)], key=str)


def parquet(lake: Lake, name: str, **columns: pa.Array) -> None:
    (lake.raw / name).parent.mkdir(parents=True, exist_ok=True)
    int96 = name.startswith("int96")
    pq.write_table(pa.table(columns), lake.raw / name, use_deprecated_int96_timestamps=int96)


UTC = pa.timestamp("us", "UTC")
TYPED = {"user": "bigint", "at": "timestamp", "amount": "double", "size": "smallint"}


def typed(at: pa.DataType = UTC, **columns: pa.Array) -> dict[str, pa.Array]:
    return {
        "user": pa.array([1]),
        "at": pa.array([AT], at),
        "amount": pa.array([1.5]),
        "size": pa.array([1], pa.int16()),
    } | columns


def test_parquet_files_of_other_types_that_fit_are_read_exactly(
    lake: Lake, spark: SparkSession
) -> None:
    parquet(lake, "a.parquet", **typed())
    parquet(
        lake,
        "b%20[1]/ns.parquet",
        **typed(pa.timestamp("ns", "UTC"), user=pa.array([2], pa.int32())),
    )
    parquet(lake, "c.parquet", **typed(user=pa.array([3], pa.uint8()), amount=pa.array([2])))
    money = pa.array([Decimal("2.25")], pa.decimal128(10, 2))
    parquet(lake, "d.parquet", **typed(user=pa.array([4]), amount=money, size=pa.nulls(1)))
    frame = open_source(spark, lake.source(TYPED, format="parquet"), ALL)
    moment = AT.replace(tzinfo=None)
    assert rows(frame, *TYPED) == [
        (1, moment, 1.5, 1), (2, moment, 1.5, 1), (3, moment, 2.0, 1), (4, moment, 2.25, None),
    ]  # fmt: skip


def test_times_without_a_zone_can_be_declared_as_local_ones(
    lake: Lake, spark: SparkSession
) -> None:
    for unit in ("ms", "us", "ns"):
        local = pa.array([AT.replace(tzinfo=None, microsecond=0)], pa.timestamp(unit))
        parquet(lake, f"{unit}.parquet", **typed() | {"at": local})
    frame = open_source(spark, lake.source(TYPED | {"at": "timestamp_ntz"}, format="parquet"), ALL)
    assert rows(frame, "at") == [(AT.replace(tzinfo=None, microsecond=0),)] * 3


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (typed(pa.timestamp("us")), "at: expected timestamp, found timestamp_ntz .its times have"),
        (typed(pa.timestamp("ns")), "at: expected timestamp, found timestamp_ntz_ns .its times"),
        (typed(amount=pa.array(["1"])), "column amount: expected double, found string"),
        (typed(user=pa.array([1.0])), "user: expected bigint, found double .rounded or broken up"),
        (typed(amount=pa.array([[1.5]])), "amount: .*double, .*a recipe cannot declare list"),
        (typed(AT=pa.array([1])), "column at: expected once, found 2 times"),
        ({"user": pa.array([1])}, "column at: expected timestamp, found no such column"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["fact", "reference"])
def test_one_odd_file_among_many_is_named_with_its_column(
    lake: Lake, role: str, odd: dict[str, pa.Array], said: str
) -> None:
    for name in ("a", "c"):
        parquet(lake, f"{name}.parquet", **typed())
    parquet(lake, "b.parquet", **odd)
    with pytest.raises(BadInput, match=rf"file b\.parquet: .*{said}"):
        lake.source(TYPED, format="parquet", role=role)


def test_a_time_in_int96_is_a_moment_only_where_spark_wrote_it(
    lake: Lake, spark: SparkSession
) -> None:
    parquet(lake, "int96.parquet", **typed())
    with pytest.raises(
        BadInput, match=r"int96\.parquet: column at.*INT96 does not say its time zone"
    ):
        lake.source(TYPED, format="parquet")
    table = pq.read_table(lake.raw / "int96.parquet")
    table = table.set_column(1, "at", table["at"].cast(pa.timestamp("us", "UTC")))
    by_spark = table.replace_schema_metadata({"org.apache.spark.version": "3.5.0"})
    pq.write_table(by_spark, lake.raw / "int96.parquet", use_deprecated_int96_timestamps=True)
    frame = open_source(spark, lake.source(TYPED, format="parquet"), ALL)
    assert rows(frame, "at") == [(AT.replace(tzinfo=None),)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.csv", "user,at,note\nu,2024-05-01,secret\n", "column amount: .*found no such column"),
        ("b.csv", "user,at,amount,user\n", "column user: expected once, found 2 times"),
        ("b.csv", "", "column user: .*no such column"),
        ("b.csv", "secret;value\n", "its first line is one value: .*between commas"),
        ("b.csv", "user,at,amount,caf\xe9\n".encode("latin-1"), "not text in UTF-8 at byte 18"),
        ("b.csv", "user,at,amount\n".encode("utf-16"), "it looks like UTF-16"),
        ("b.csv.zip", "PK", "compressed in a way that is not supported"),
        ("b:c.csv", "user,at,amount\n", "a name with a colon"),
        ("at=2024-05-01/b.csv", "user,at,amount\n", "column at: expected once, found 2 times"),
    ],
)
def test_a_header_that_differs_is_named_without_the_text_of_the_file(
    lake: Lake, name: str, content: str | bytes, said: str
) -> None:
    columns = {"user": "string", "at": "date", "amount": "double"}
    for good in ("a.csv", "c.csv"):
        lake.write(good, "user,at,amount\n")
    lake.write(name, content)
    with pytest.raises(BadInput, match=f"file {name}.*{said}") as caught:
        lake.source(columns)
    assert "secret" not in str(caught.value)


def test_folders_in_another_order_are_named(lake: Lake) -> None:
    lake.write("at=2024-05-01/a.csv", "user,amount\n")
    lake.write("old/at=2024-05-01/b.csv", "user,amount\n")
    with pytest.raises(BadInput, match=r"file old/at=2024-05-01/b\.csv.*same order of folders"):
        lake.source({"user": "string", "at": "date", "amount": "double"})


@pytest.mark.parametrize(
    ("columns", "fields", "said"),
    [
        ({"user": "double"}, {}, "user user: expected a string or a whole number"),
        ({"user": "boolean"}, {}, "user user: expected a string or a whole number"),
        ({"user": "decimal(9,2)"}, {}, "user user: expected a string or a whole number"),
        ({"at": "bigint"}, {}, "happened_at at: expected a date or a timestamp; numbers"),
        ({"amount": "double"}, {"key": ("amount",)}, "key column amount: double is rounded"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "delta"])
def test_a_declaration_that_could_merge_users_or_rows_is_refused(
    lake: Lake, kind: str, columns: dict[str, str], fields: dict[str, Any], said: str
) -> None:
    declared = {"user": "string", "at": "date", "amount": "double"} | columns
    lake.write("a.csv", "user,at,amount\n")
    if kind == "delta":
        arrow = {
            "string": pa.string(),
            "date": pa.date32(),
            "double": pa.float64(),
            "boolean": pa.bool_(),
            "bigint": pa.int64(),
            "decimal(9,2)": pa.decimal128(9, 2),
        }
        schema = pa.schema([(name, arrow[declared[name]]) for name in declared])
        write_deltalake(str(lake.raw), schema.empty_table())
    with pytest.raises(BadInput, match=said):
        lake.source(declared, format=kind, **fields)


@pytest.mark.parametrize("kind", ["array<string>", "decimal(39,2)", "decimal(5,6)", "binary", "x"])
def test_a_type_that_no_column_can_have_is_refused_with_the_choices(kind: str) -> None:
    with pytest.raises(
        ValueError, match=r"not a type of a raw column: expected one of string, .*or decimal"
    ):
        RawTable(name="x", role="reference", columns={"a": kind})


def test_a_delta_table_is_read_at_the_version_that_was_checked(
    lake: Lake, spark: SparkSession
) -> None:
    money, tiny = pa.array([Decimal("2.5")], pa.decimal128(10, 2)), pa.array([1], pa.int8())
    first = pa.table({"user": ["u1"], "at": [D], "amount": money, "size": tiny})
    write_deltalake(str(lake.raw), first)
    columns = {"user": "string", "at": "date", "amount": "decimal(12,2)", "size": "bigint"}
    source = lake.source(columns, format="delta")
    write_deltalake(str(lake.raw), first, mode="append")
    frame = open_source(spark, source, ALL)
    assert rows(frame, *columns) == [("u1", D, Decimal("2.50"), 1)]
    assert dict(frame.dtypes) == columns


def test_what_spark_cannot_read_is_named_with_file_column_and_row_and_never_quoted(
    lake: Lake, spark: SparkSession
) -> None:
    def read(**fields: Any) -> str:
        source = lake.source({"user": "string", "at": "date", "amount": "double"}, **fields)
        with pytest.raises(BadInput) as caught, blaming({"events": source}):
            open_source(spark, source, ALL).toArrow()
        assert "secret" not in str(caught.value)
        return str(caught.value)

    lake.write("a b.csv", "user,at,amount\nu1,2024-05-01,1\n")
    lake.write("é.csv", 'at,user,amount\n2024-05-01,"x\ny",2\n2024-05-01,u,secret\n')
    assert "file é.csv, row 3 (the header is row 1): column amount is not double" in read(
        role="reference"
    )
    lake.write("é.csv", "at,user,amount\n2024-05-01,u,1\n2024-05-01,secret\n")
    assert "file é.csv, row 3 (the header is row 1): has not as many values" in read(
        role="reference"
    )
    lake.write("é.csv", 'at,user,amount\n2024-05-01,"secret\n')
    assert "file é.csv row 2 (line 2) is not a record" in read()


def test_a_damaged_or_vanished_parquet_file_is_named(lake: Lake, spark: SparkSession) -> None:
    parquet(lake, "a.parquet", **typed())
    many = {
        "user": pa.array(range(50_000)),
        "at": pa.array([AT] * 50_000, UTC),
        "amount": pa.array([0.5] * 50_000),
        "size": pa.array([1] * 50_000, pa.int16()),
    }
    parquet(lake, "b c.parquet", **many)
    path = lake.raw / "b c.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes(50_000) + whole[51_000:])
    source = lake.source(TYPED, format="parquet")
    damaged = r"file b c\.parquet cannot be read as parquet"
    with pytest.raises(BadInput, match=damaged), blaming({"events": source}):
        open_source(spark, source, ALL).localCheckpoint()
    frame = open_source(spark, source, ALL)
    path.unlink()
    vanished = r"file b c\.parquet changed or vanished"
    with pytest.raises(RawChanged, match=vanished), blaming({"events": source}):
        frame.localCheckpoint()
    with pytest.raises(RawChanged, match=vanished), blaming({"events": source}):
        open_source(spark, source, ALL)
    path.write_bytes(whole[:-10])
    with pytest.raises(BadInput, match=r"file b c\.parquet is not Parquet, or its landing is not"):
        lake.source(TYPED, format="parquet")
