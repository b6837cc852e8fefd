import datetime as dt
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from lumos import ledger
from lumos.accio.table import Columns, SequenceTable
from lumos.accio.users import Users
from lumos.aggregate import advance as advancing
from lumos.aggregate.changes import changed_days
from lumos.aggregate.rebuild import rebuild
from lumos.config import Recipe
from lumos.delta import DataFile, data_files
from lumos.tables import ROW_GROUP_USERS
from tests.aggregate.ready import Ready, with_tips
from tests.aggregate.shop import D, day, recipe
from tests.conftest import enter, prepared_jars

pytestmark = pytest.mark.usefixtures("spark")
USERS = ("1", "22", "नीता", 'a"b\\c', "\x1fx", "e" * 40, "7", "8")


def opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    prepared_jars(home)
    ready = Ready(home, "shop", D)
    enter(ready, monkeypatch)
    return ready


def registered(user: str, since: dt.date, city: str | None = None) -> dict[str, object]:
    return {"user_id": user, "valid_from": since, "registered_on": since, "city": city}


PEOPLE = [registered("1", day(-9), "Pune"), registered("22", day(-3))]


@pytest.fixture(scope="module")
def begun(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Sequences of two users, and two that wait."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        ready = opened(tmp_path_factory.mktemp("ready") / "home", monkeypatch)
        ready.put_users(PEOPLE)
        ready.put_days({day(-8): {"1": 1.0, "नीता": 2.0}, day(-1): {"22": 3.0, "7": 1.0}})
        ready.enter(D)
        ready.sequences(D)
    return ready


def copied(begun: Ready, home: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    ready = Ready(begun.copy(home).home, begun.recipe_name, begun.date)
    enter(ready, monkeypatch)
    return ready


@pytest.fixture
def ready(begun: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    return copied(begun, tmp_path / "home", monkeypatch)


def assert_as_rebuilt(ready: Ready, date: dt.date, given: Recipe | None = None) -> None:
    """What the ledger pins is, bit for bit, what a rebuild from the pinned inputs gives."""
    shape = given or recipe()
    entry = ledger.find(ready.settings, shape, "sequences", date)
    assert entry is not None
    activity, users = (
        ledger.find(ready.settings, shape, name, date) for name in ("activity", "users")
    )
    assert activity is not None
    assert users is not None
    built = rebuild(ready.request("sequences", date=date, recipe=shape), activity, users)
    advanced, rebuilt = ready.users(entry.version), ready.users(built.version)
    assert advanced.schema == rebuilt.schema
    # As text, in which 0.0 is not -0.0.
    assert str(advanced.to_pylist()) == str(rebuilt.to_pylist())
    expected = built.waiting.sort_by("user_id").to_pylist()
    found = [json.loads(row) for row in ready.waiting(date)]
    found = [
        {**row, "first_active_on": dt.date.fromisoformat(row["first_active_on"])} for row in found
    ]
    assert sorted(found, key=lambda row: row["user_id"]) == expected


user = st.sampled_from(USERS)
amount = st.sampled_from([0.0, -0.0, 0.1, 1e-7, 12345.678, 1e300])
step = st.fixed_dictionaries(
    {
        # How far the date moves: mostly on by a day, at times on by more, not at all, or back.
        "moves": st.sampled_from([1, 1, 1, 1, 2, 3, 0, -1]),
        # Days aggregated again, counted back from the date; an empty one loses all its rows.
        "days": st.dictionaries(
            st.integers(0, 5), st.dictionaries(user, amount, max_size=4), min_size=1, max_size=3
        ),
        "arrive": st.dictionaries(
            user, st.tuples(st.integers(-1, 4), st.sampled_from(["Pune", None])), max_size=2
        ),
        "leaves": st.none() | st.none() | user,
        "has_tips": st.sampled_from([False, False, True]),
    }
)


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink an example takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(step, min_size=4, max_size=6))
def test_advancing_gives_what_a_rebuild_gives_whatever_happened_between(
    steps: list[dict], begun: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as home:
        ready, date, shape, people = copied(begun, Path(home), monkeypatch), D, recipe(), PEOPLE
        earliest = D
        for happens in steps:
            date += dt.timedelta(days=happens["moves"])
            shape = with_tips(shape) if happens["has_tips"] and len(shape.activity) == 2 else shape
            for name, (since, city) in happens["arrive"].items():
                people = [*people, registered(name, date - dt.timedelta(days=since), city)]
            # A later row of the same day takes the place of the earlier one.
            by_key = {(row["user_id"], row["valid_from"]): row for row in people}
            people = [row for row in by_key.values() if row["user_id"] != happens["leaves"]]
            ready.put_users(people)
            days = {date - dt.timedelta(days=ago): rows for ago, rows in happens["days"].items()}
            ready.put_days(days, shape)
            ready.enter(date, shape)
            report = ready.sequences(date, shape)
            # Before the first date of all there is nothing to start from.
            expected = "advance" if date >= earliest else "rebuild"
            earliest = min(earliest, date)
            assert report.details["builder"] == expected, report.details["why"]
        # Once an example: a rebuild is Spark's, and a wrong row stays until its user comes again.
        assert_as_rebuilt(ready, date, shape)


def file(day: dt.date, name: str) -> DataFile:
    return DataFile(f"day={day}/{name}", 1, 1, {"day": day})


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({-1: "a", 0: "b"}, {-1: "a", 0: "b", 1: "c"}, {1}),  # one more day
        ({-1: "a", 0: "b"}, {-1: "x", 0: "b", 1: "c"}, {-1, 1}),  # late data
        ({-1: "a", 0: "b"}, {0: "b", 1: "c"}, {-1, 1}),  # a day lost all its rows
        ({0: "b"}, {-1: "a", 0: "b"}, {-1}),  # a day got its first ones
        ({0: "b"}, {0: "bc"}, {0}),  # a second file
        ({0: "b", 1: "c"}, {0: "b", 1: "c"}, {1}),  # the base ended before a day that was there
        ({0: "b", 3: "c"}, {0: "b", 3: "x", 4: "d"}, set()),  # after the date: never
    ],
)
def test_changed_days_are_those_with_other_files_and_those_after_the_base(
    before: dict[int, str], now: dict[int, str], changed: set[int]
) -> None:
    then, current = (
        {day(at): [file(day(at), name) for name in names] for at, names in given.items()}
        for given in (before, now)
    )
    assert changed_days(then, current, base=D, last=day(2)) == {day(at) for at in changed}


def test_a_new_column_is_null_on_old_days_and_no_old_file_is_written_again(ready: Ready) -> None:
    before = {file.path for file in data_files(DeltaTable(ready.uri("activity")))}
    shape = with_tips(recipe())
    ready.put_days({day(1): {"1": 5.0}}, shape)
    ready.enter(day(1), shape)
    assert ready.sequences(day(1), shape).details["builder"] == "advance"

    assert before < {file.path for file in data_files(DeltaTable(ready.uri("activity")))}
    rows = ready.users(ready.version("sequences")).to_pylist()
    found = {row["user_id"]: row["days"] for row in rows}
    assert [cells["tips"] for cells in found["1"]] == [None, 0.5]
    names = tuple(column.name for column in shape.activity)
    loader = SequenceTable.open(ready.uri("sequences"), Columns(activity=names))
    users = Users.concat(list(loader.users()))
    assert sorted(users.values[:, 2].tolist()) == [0.0, 0.0, 0.5], "the loader takes null as zero"
    assert_as_rebuilt(ready, day(1), shape)


def test_what_cannot_be_advanced_is_rebuilt_and_the_report_says_why(ready: Ready) -> None:
    ready.put_days({day(1): {"1": 5.0}})
    ready.enter(day(1))

    def why(**options: object) -> str:
        details = ready.sequences(day(1), **options).details
        assert details["builder"] == "rebuild"
        return details["why"]

    assert "2 buckets, not 3" in why(given=recipe(num_buckets=3))
    for path in Path(ready.uri("sequences")).glob("bucket=*/*.parquet"):
        path.unlink()
    assert "vacuumed" in why()
    assert "--force" in why(force=True)
    assert ready.sequences(day(1)).already_done
    ready.enter(day(-1))
    assert ready.sequences(day(-1)).details["why"] == "no earlier run"


def test_a_base_made_without_a_column_that_activity_had_is_none(ready: Ready) -> None:
    shape = with_tips(recipe())
    ready.put_days({day(1): {"1": 5.0}}, shape)
    ready.enter(day(1), shape)
    ready.sequences(day(1), recipe())  # by the recipe as it was
    ready.enter(day(2), shape)
    # The day before that run had no tips yet, so what was made of it still serves.
    report = ready.sequences(day(2), shape)
    assert report.details["why"].startswith(f"1 days changed since {D}")
    assert_as_rebuilt(ready, day(2), shape)


def test_a_run_killed_before_its_commit_leaves_the_old_table_and_can_be_repeated(
    ready: Ready,
) -> None:
    ready.put_days({day(0): {"1": 2.0, "7": 1.0}, day(1): {"1": 5.0, "22": 6.0}})
    ready.enter(day(1))
    version = ready.version("sequences")
    before = ready.users(version)
    killed = """
import os, sys
from lumos.aggregate import advance
from lumos.cli import main
advance.commit_files = lambda *_, **__: os.kill(os.getpid(), 9)
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["sequences", "--recipe", "tests.aggregate.shop:recipe", "--date", str(day(1))]
    ended = subprocess.run([sys.executable, "-c", killed, *arguments], env=ready.environment)
    assert ended.returncode == -signal.SIGKILL
    num_files = len(list(Path(ready.uri("sequences")).glob("bucket=*/*.parquet")))
    named = data_files(DeltaTable(ready.uri("sequences"), version=version))
    assert num_files > len(named), "it came that far"
    assert ready.version("sequences") == version
    assert ready.users(version).equals(before)
    assert ledger.find(ready.settings, recipe(), "sequences", day(1)) is None

    assert ready.sequences(day(1)).details["builder"] == "advance"
    assert_as_rebuilt(ready, day(1))


def test_both_builders_write_row_groups_of_the_size_that_the_loader_reads(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advancing, "_USERS_A_STEP", 2 * ROW_GROUP_USERS)
    people = [registered(f"{number:05d}", day(-9)) for number in range(0, 12000, 2)]
    ready.put_users(people)
    ready.enter(D)
    ready.sequences(D, force=True)
    assert_row_groups(ready)

    # They push each other along: one in the middle of every ten, and some at both ends.
    people += [registered(f"{number:05d}", day(1)) for number in range(1, 12000, 20)]
    ready.put_users([*people, registered("", day(1)), registered("x", day(1))])
    ready.put_days({day(1): {f"{number:05d}": 1.0 for number in range(0, 12000, 7)} | {"x": 2.0}})
    ready.enter(day(1))
    assert ready.sequences(day(1)).details["builder"] == "advance"
    assert_row_groups(ready)
    assert_as_rebuilt(ready, day(1))


def assert_row_groups(ready: Ready) -> None:
    for file in data_files(DeltaTable(ready.uri("sequences"))):
        with pq.ParquetFile(Path(ready.uri("sequences")) / file.path) as parquet:
            groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
            names = parquet.read(["user_id"])["user_id"].to_pylist()
        assert names == sorted(names)
        assert len(groups) > 1
        assert {group.num_rows for group in groups[:-1]} == {ROW_GROUP_USERS}
        assert {group.column(0).compression for group in groups} == {"ZSTD"}
