"""Reading the table itself: versions, ragged users, and what is refused."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from lumos.accio.contract import open_sequences
from lumos.accio.loader import Accio
from lumos.accio.stream import Sampling
from lumos.accio.table import Columns, SequenceTable
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.verbs import BadInput
from tests.accio import small
from tests.accio.one_epoch import COLUMNS

DAY = pa.struct([("day", pa.int16()), ("clicks", pa.float32())])
SCHEMA = pa.schema(
    [("user_id", pa.string()), ("registered_on", pa.date32()), ("days", pa.list_(DAY))]
)


def everyone_at(home: Path, version: int) -> Users:
    table = open_sequences(small.settings(home), small.recipe(), version)
    assert [file.partition["bucket"] for file in table.files] == [0, 1]
    whole = Users.concat([*table.users()])
    assert table.num_users == len(whole)
    assert table.shards["num_days"].sum() >= len(whole.days)
    return whole.take(np.argsort(whole.user_id))


def assert_same(a: Users, b: Users) -> None:
    assert a.user_id.tolist() == b.user_id.tolist()
    for name in ("registered", "values", "days", "splits"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
    assert a.static.to_pydict() == b.static.to_pydict()


def clicks(path: Path, rows: list[dict[str, object]], schema: pa.Schema = SCHEMA) -> SequenceTable:
    """A table of someone else's, opened."""
    write_deltalake(path, pa.Table.from_pylist(rows, schema=schema))
    return SequenceTable.open(str(path), COLUMNS)


def row(user: object, *days: int | None, registered: int | None = 100) -> dict[str, object]:
    return {
        "user_id": user,
        "registered_on": registered,
        "days": [{"day": day, "clicks": 1.0 + number} for number, day in enumerate(days)],
    }


def test_what_was_written_is_read_back_at_the_pinned_version(tmp_path: Path) -> None:
    home = tmp_path / "a lake 100%"  # paths in the log are URL-encoded
    first, second = small.users(seed=0), small.users(seed=1)
    before = small.version(small.write_lake(home, first), "sequences")
    after = small.version(small.write_lake(home, second), "sequences")
    assert_same(everyone_at(home, before), first)
    assert_same(everyone_at(home, after), second)


def test_a_user_without_any_active_day_is_a_user(tmp_path: Path) -> None:
    users = small.users(4)
    first_two = users.splits[2]
    quiet = replace(
        users,
        columns=tuple(column[:first_two] for column in users.columns),
        days=users.days[:first_two],
        splits=np.minimum(users.splits, first_two),
    )
    settings = small.write_lake(tmp_path, quiet)
    assert_same(everyone_at(tmp_path, small.version(settings, "sequences")), quiet)


def test_the_index_agrees_with_the_whole(tmp_path: Path) -> None:
    table = small.table(small.write_lake(tmp_path, small.users(), row_group_size=5))
    for index, whole in zip(table.users(is_index=True), table.users(), strict=True):
        assert index.user_id.tolist() == whole.user_id.tolist()
        assert index.registered.tolist() == whole.registered.tolist()
        assert not len(index.days)


def test_users_are_taken_in_any_order_and_more_than_once() -> None:
    users = small.users(5)
    taken = users.take(np.array([3, 0, 3]))
    assert taken.user_id.tolist() == [users.user_id[n] for n in (3, 0, 3)]
    for place, user in enumerate((3, 0, 3)):
        mine = slice(taken.splits[place], taken.splits[place + 1])
        theirs = slice(users.splits[user], users.splits[user + 1])
        np.testing.assert_array_equal(taken.values[mine], users.values[theirs])
        np.testing.assert_array_equal(taken.days[mine], users.days[theirs])
    assert_same(users.take(np.ones(5, bool)), users)
    assert len(users.take(np.zeros(5, bool))) == 0
    assert_same(Users.concat([users.take(np.arange(2)), users.take(np.arange(2, 5))]), users)


def test_a_table_of_another_recipe_is_refused_by_the_names_it_lacks(tmp_path: Path) -> None:
    at = small.write_lake(tmp_path, small.users())
    fields = small.recipe().model_dump()
    extra = {"name": "swam", "kind": "binary", "unit": "0 or 1"}
    fields["static"] = [*fields["static"], {"name": "shoe_size", "kind": "continuous"}]
    with pytest.raises(BadInput, match=r"lacks shoe_size; it has .*lumos sequences"):
        open_sequences(at, Recipe.model_validate(fields), None)
    fields = small.recipe().model_dump()
    fields["activity"] = [*fields["activity"], extra]
    with pytest.raises(BadInput, match=r"lacks days\.swam"):
        open_sequences(at, Recipe.model_validate(fields), None)


def test_a_missing_table_or_version_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no Delta table at"):
        SequenceTable.open(str(tmp_path / "nowhere"), COLUMNS)
    clicks(tmp_path / "t", [row("a", 1)])
    with pytest.raises(BadInput, match=r"version 7 of the Delta table at .* cannot be read"):
        SequenceTable.open(str(tmp_path / "t"), COLUMNS, 7)


def test_foreign_days_are_put_in_order_and_repeated_ones_refused(tmp_path: Path) -> None:
    table = clicks(tmp_path / "a", [row("x", 9, 3, 7), row("y"), row("z", 2)])
    (users,) = table.users()
    assert users.days.tolist() == [3, 7, 9, 2]
    assert users.values[:, 0].tolist() == [2, 3, 1, 1]
    with pytest.raises(BadInput, match="same day twice"):
        list(clicks(tmp_path / "b", [row("x", 9, 3, 9)]).users())
    with pytest.raises(BadInput, match=r"days\.day that are no days: expected days since 1970"):
        list(clicks(tmp_path / "c", [row("x", -1)]).users())


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (row(None, 1), "1 rows whose user_id is null"),
        (row("x", 1, registered=None), "1 rows whose registered_on is null"),
        (row("x", 1, None), r"days without a days\.day"),
    ],
)
def test_a_null_where_none_may_be_is_refused_with_the_file(
    tmp_path: Path, wrong: dict[str, object], complaint: str
) -> None:
    table = clicks(tmp_path, [row("fine", 1), wrong])
    with pytest.raises(BadInput, match=rf"\.parquet has .*{complaint}"):
        list(table.users())


def test_a_null_in_an_activity_column_of_any_type_is_zero(tmp_path: Path) -> None:
    kinds = {
        "flag": (pa.bool_(), True),
        "count": (pa.int16(), 3),
        "price": (pa.decimal128(3, 2), Decimal("1.25")),
        "share": (pa.float64(), 0.5),
        "a.b": (pa.float32(), 7.0),  # a dot is part of a name
        "never": (pa.null(), None),
    }
    day = pa.struct([("day", pa.int64()), *((name, kind) for name, (kind, _) in kinds.items())])
    values = {name: value for name, (_, value) in kinds.items()}
    rows = [{"day": 1} | values, {"day": 2}, {"day": 3} | values]
    write_deltalake(
        tmp_path,
        pa.table(
            {
                "user_id": ["x"],
                "a.b": ["Oslo"],
                "registered_on": pa.array([0], pa.date32()),
                "days": pa.array([rows], pa.list_(day)),
            }
        ),
    )
    table = SequenceTable.open(str(tmp_path), Columns(tuple(kinds), static=("a.b",)))
    (users,) = table.users()
    one = [1.0, 3.0, 1.25, 0.5, 7.0, 0.0]
    assert users.values.tolist() == [one, [0.0] * 6, one]
    assert users.static.to_pylist() == [{"a.b": "Oslo"}]
    assert table.shards["num_days"].tolist() == [3]


@pytest.mark.parametrize(
    ("kind", "value", "complaint"),
    [
        (pa.string(), "private", r"days\.clicks is string, expected numbers or booleans"),
        (pa.timestamp("us"), 5, r"days\.clicks is timestamp\[us.*\], expected numbers"),
    ],
)
def test_an_activity_column_that_is_no_number_is_named(
    tmp_path: Path, kind: pa.DataType, value: object, complaint: str
) -> None:
    day = pa.struct([("day", pa.int16()), ("clicks", kind)])
    schema = pa.schema([*list(SCHEMA)[:2], ("days", pa.list_(day))])
    table = clicks(tmp_path, [row("x") | {"days": [{"day": 1, "clicks": value}]}], schema)
    with pytest.raises(BadInput, match=rf"\.parquet: {complaint}") as refused:
        list(table.users())
    assert "private" not in str(refused.value)


@pytest.mark.parametrize("day", [1.5, 3e9, float("nan")])
def test_days_that_are_no_days_are_refused(tmp_path: Path, day: float) -> None:
    kind = pa.struct([("day", pa.float64()), ("clicks", pa.float32())])
    schema = pa.schema([*list(SCHEMA)[:2], ("days", pa.list_(kind))])
    table = clicks(tmp_path, [row("x") | {"days": [{"day": day, "clicks": 1}]}], schema)
    with pytest.raises(BadInput, match=r"days\.day is double, whose values cannot all be taken"):
        list(table.users())


def test_a_column_that_is_no_list_of_days_is_refused(tmp_path: Path) -> None:
    flat = pa.table({"user_id": ["a"], "registered_on": [1], "days": [1]})
    write_deltalake(tmp_path, flat)
    with pytest.raises(BadInput, match="expected an array of structs"):
        SequenceTable.open(str(tmp_path), COLUMNS)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    table = clicks(tmp_path, [row("a", 1)])
    file = Path(table.files[0].path)
    file.write_bytes(b"not parquet at all, whatever it says")
    with pytest.raises(BadInput, match=rf"{file.name} cannot be read as Parquet"):
        list(SequenceTable.open(str(tmp_path), COLUMNS).users())


def test_a_table_rewritten_during_an_epoch_is_read_as_it_was(tmp_path: Path) -> None:
    rows = [row(f"user {n}", *range(100, 100 + n % 7)) for n in range(60)]
    for start in range(0, 60, 20):
        write_deltalake(
            tmp_path, pa.Table.from_pylist(rows[start : start + 20], schema=SCHEMA), mode="append"
        )

    def loader() -> Accio:
        table = SequenceTable.open(str(tmp_path), COLUMNS, version=2)
        return Accio(table, Sampling(5, 2, 100, 110), batch_size=8, num_lanes=4)

    whole = [batch.user_id.tolist() for batch in loader()]
    under_way = iter(loader())
    seen = [next(under_way).user_id.tolist()]
    DeltaTable(tmp_path).optimize.z_order(["registered_on"])
    seen += [batch.user_id.tolist() for batch in under_way]
    assert seen == whole
    assert [batch.user_id.tolist() for batch in loader()] == whole

    DeltaTable(tmp_path).vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(BadInput, match=r"\.parquet is named by the pinned version .* vacuumed"):
        list(loader())


def test_a_file_written_by_another_engine_needs_no_arrow_schema(tmp_path: Path) -> None:
    table = clicks(tmp_path, [row("a", 5, 6)])
    file = Path(table.files[0].path)
    pq.write_table(pq.read_table(file), file, store_schema=False, compression="snappy")
    (users,) = SequenceTable.open(str(tmp_path), COLUMNS).users()
    assert users.days.tolist() == [5, 6]
