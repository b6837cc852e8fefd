"""The made-up platform as tables: raw logs and contract tables say the same, and can be resumed."""

import datetime as dt
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lumos import ledger
from lumos.accio.contract import open_sequences
from lumos.aggregate.contract import sql_path
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World, shards
from lumos.datasets.fantasy_sports import write as writing
from lumos.datasets.fantasy_sports.activity import activity_of
from lumos.datasets.fantasy_sports.context import EVENT_COLUMNS, context_of
from lumos.datasets.fantasy_sports.users import users_of
from lumos.datasets.fantasy_sports.write import TABLES, write_tables
from lumos.delta import read
from lumos.overrides import override
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import raw_uri, table_uri, tables
from lumos.verbs import BadInput
from tests.conftest import World as Lake
from tests.conftest import enter, prepared_jars

FEW = World(300)
SMALL = World(2_500, first_day=dt.date(2024, 3, 1), last_day=dt.date(2024, 4, 30))


def named(num_users: int) -> Recipe:
    changes = {"sql_parameters.num_users": num_users, "num_buckets": 3}
    return override(load("fantasy_sports"), changes)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The raw logs of a few users, all four years of them."""
    lake = Lake(tmp_path_factory.mktemp("fantasy") / "home", "fantasy_sports", FEW.last_day)
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(lake, monkeypatch)
        lake.run("land", recipe=named(FEW.num_users))
    return lake


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The contract tables of the same users."""
    home = tmp_path_factory.mktemp("fantasy") / "home"
    settings = Settings.from_environment({"LUMOS_HOME": str(home)})
    write_tables(settings, named(FEW.num_users), FEW, scratch=home / "scratch")
    return settings


def rows(settings: Settings, recipe: Recipe, name: str) -> pa.Table:
    found = read(table_uri(settings, recipe, name))
    assert found is not None
    declared = tables(recipe)[name]
    return found.select(declared.column_names).sort_by([(key, "ascending") for key in declared.key])


def selected(lake: Lake, recipe: Recipe, name: str) -> pa.Table:
    """What a SELECT gives on the landed tables, in DuckDB: only a parameter's mark differs."""
    text = sql_path(lake.settings, recipe, name).read_text()
    arguments = {"first_day": dt.date(1970, 1, 1), "last_day": FEW.last_day}
    for argument in arguments:
        text = text.replace(f":{argument}", f"${argument}")
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = 1; SET TimeZone = '{recipe.timezone}'")
        for table in recipe.raw:
            # Scanned by name in the query below.
            landed_rows = read(raw_uri(lake.settings, recipe, table.name))
            connection.register(f"raw_{table.name}", landed_rows)
            more = ""
            if table.role == "fact":
                more = f", {table.user} AS user_id, CAST({table.happened_at} AS DATE) AS day"
            connection.execute(f"CREATE VIEW {table.name} AS SELECT *{more} FROM raw_{table.name}")
        return connection.execute(text, arguments).to_arrow_table()


@pytest.mark.parametrize(
    ("select", "table"),
    [("activity", "activity"), ("event_context", "event_context"), ("static", "users")],
)
def test_the_raw_logs_through_the_selects_give_what_is_written_directly(
    landed: Lake, written: Settings, select: str, table: str
) -> None:
    recipe = named(FEW.num_users)
    expected = rows(written, recipe, table)
    found = selected(landed, recipe, select).select(expected.column_names)
    found = found.sort_by([(key, "ascending") for key in tables(recipe)[table].key])
    assert expected.num_rows > 200
    assert found.cast(expected.schema.remove_metadata()).equals(expected)


def test_the_raw_logs_keep_the_promises_of_their_declaration(landed: Lake) -> None:
    recipe = named(FEW.num_users)
    for table in recipe.raw:
        found = read(raw_uri(landed.settings, recipe, table.name))
        assert found is not None
        assert found.num_rows
        if table.key:
            distinct = found.group_by(list(table.key)).aggregate([])
            assert distinct.num_rows == found.num_rows, table.name
        for name in table.non_negative:
            assert pc.min(found[name]).as_py() >= 0
        assert pc.max(found["landed_on"]).as_py() <= FEW.last_day


def test_landing_again_writes_nothing_and_a_part_of_the_days_changes_nothing(landed: Lake) -> None:
    recipe = named(FEW.num_users)
    before = {table.table: table.version for table in landed.run("land", recipe=recipe).tables}
    again = landed.run("land", recipe=recipe, days=30)
    assert {table.table: table.version for table in again.tables} == before


def test_a_world_too_large_not_begun_or_unlike_the_one_landed_is_refused(landed: Lake) -> None:
    with pytest.raises(BadInput, match=r"too many for raw logs, at most 50,000"):
        landed.run("land", recipe=named(1_000_000))
    with pytest.raises(BadInput, match="this world begins on 2021-01-01"):
        landed.run("land", recipe=named(300), date=dt.date(2020, 12, 31))
    with pytest.raises(BadInput, match="num_users=0 is not from 1"):
        landed.run("land", recipe=named(0))
    other = override(named(FEW.num_users), {"sql_parameters.seed": 1})
    with pytest.raises(BadInput, match=r"holds another world than World.*move that folder away"):
        landed.run("land", recipe=other)


@pytest.mark.usefixtures("spark")
def test_the_daily_job_makes_of_the_raw_logs_what_is_written_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first ten weeks, in which few of these users have registered.
    recipe, last = named(1_500), dt.date(2021, 3, 10)
    prepared_jars(tmp_path / "home")
    lake = enter(Lake(tmp_path / "home", "fantasy_sports", last), monkeypatch)
    lake.run("land", recipe=recipe)
    report = lake.run("aggregate", recipe=recipe, days=69)
    assert report.rows_rejected == 0
    lake.run("sequences", recipe=recipe)
    monkeypatch.setattr(shards, "SHARD_BLOCKS", 1)
    direct = Settings.from_environment({"LUMOS_HOME": str(tmp_path / "direct")})
    write_tables(direct, recipe, World(1_500), scratch=tmp_path / "scratch")
    for name, day in {
        "activity": "day",
        "event_context": "known_on",
        "users": "valid_from",
    }.items():
        expected = rows(direct, recipe, name)
        expected = expected.filter(pc.less_equal(expected[day], last))
        assert expected.num_rows > 50
        assert rows(lake.settings, recipe, name).equals(expected), name
    written_directly = rows(direct, recipe, "sequences")
    made = rows(lake.settings, recipe, "sequences")
    assert made.num_rows > 50
    assert made.column_names == written_directly.column_names
    assert made.schema.types == written_directly.schema.types
    bucket = dict(zip(*written_directly.select(["user_id", "bucket"]), strict=True))
    assert [bucket[user] for user in made["user_id"]] == list(made["bucket"])


def test_sequences_hold_each_user_once_in_order_with_all_its_days(written: Settings) -> None:
    recipe = named(FEW.num_users)
    table = open_sequences(written, recipe, 1)
    assert [file.partition["bucket"] for file in table.files] == [0, 1, 2]
    users = users_of(FEW, 0)
    activity = activity_of(FEW, users)
    place = {name.decode(): number for number, name in enumerate(users.user_id)}
    seen: list[str] = []
    for found in table.users():
        assert list(found.user_id) == sorted(found.user_id)
        seen += list(found.user_id)
        for number, name in enumerate(found.user_id):
            own = slice(*found.splits[number : number + 2])
            expected = slice(*activity.splits[place[name] : place[name] + 2])
            np.testing.assert_array_equal(found.days[own], activity.days[expected])
            np.testing.assert_array_equal(found.values[own], activity.values[expected])
            assert found.registered[number] == users.registered[place[name]]
    assert sorted(seen) == sorted(place)


def test_the_ledger_says_that_every_table_is_ready(written: Settings) -> None:
    recipe = named(FEW.num_users)
    for name in TABLES:
        entry = ledger.require(written, recipe, name, FEW.last_day, remedy="")
        assert entry.first_day == FEW.first_day
        assert entry.rows == rows(written, recipe, name).num_rows
    context = context_of(FEW)
    assert rows(written, recipe, "event_context")[EVENT_COLUMNS[0]].to_pylist() == list(
        context.values[:, 0]
    )


def test_a_killed_writer_goes_on_where_it_stopped_and_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BLOCKS", 1)
    recipe = named(SMALL.num_users)
    whole, cut = (
        Settings.from_environment({"LUMOS_HOME": str(tmp_path / name)}) for name in ("whole", "cut")
    )
    write_tables(whole, recipe, SMALL, scratch=tmp_path / "scratch")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    played: list[int] = []
    play, part = writing.shard_of, writing.read_part

    def noted(world: World, number: int, **options: Any) -> shards.Shard:
        played.append(number)
        return play(world, number, **options)

    monkeypatch.setattr(writing, "shard_of", noted)
    monkeypatch.setattr(writing, "read_part", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tables(cut, recipe, SMALL, scratch=tmp_path / "scratch")
    monkeypatch.setattr(writing, "read_part", part)
    write_tables(cut, recipe, SMALL, scratch=tmp_path / "scratch")
    assert played == [0, 1, 2]
    assert write_tables(cut, recipe, SMALL, scratch=tmp_path / "scratch").already_done
    assert not list((tmp_path / "scratch").iterdir())
    for name in TABLES:
        assert rows(cut, recipe, name).equals(rows(whole, recipe, name)), name


def test_the_rows_do_not_depend_on_shards_or_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = named(SMALL.num_users)
    found = []
    for size, processes in ((1, 1), (16, 2)):
        monkeypatch.setattr(shards, "SHARD_BLOCKS", size)
        settings = Settings.from_environment({"LUMOS_HOME": str(tmp_path / str(size))})
        names = ("event_context", "sequences")
        write_tables(
            settings, recipe, SMALL, scratch=tmp_path / "scratch", names=names, processes=processes
        )
        found.append(rows(settings, recipe, "sequences"))
    assert found[0].equals(found[1])
    assert found[0].num_rows == SMALL.num_users


def test_tables_as_they_stood_on_a_day_hold_what_had_come_by_then(tmp_path: Path) -> None:
    recipe, eve = named(SMALL.num_users), dt.date(2024, 4, 10)
    whole, cut = (
        Settings.from_environment({"LUMOS_HOME": str(tmp_path / name)}) for name in ("whole", "cut")
    )
    write_tables(whole, recipe, SMALL, scratch=tmp_path / "scratch")
    write_tables(cut, recipe, SMALL, scratch=tmp_path / "scratch", last_day=eve)
    for name, day in {
        "activity": "day",
        "event_context": "known_on",
        "users": "valid_from",
    }.items():
        everything = rows(whole, recipe, name)
        expected = everything.filter(pc.less_equal(everything[day], eve))
        assert 0 < expected.num_rows < everything.num_rows
        assert rows(cut, recipe, name).equals(expected), name
        assert ledger.require(cut, recipe, name, eve, remedy="").rows == expected.num_rows
    sequences, users = rows(cut, recipe, "sequences"), rows(cut, recipe, "users")
    assert sequences.num_rows == users.num_rows
    days = pc.list_flatten(sequences["days"])
    assert len(days) == rows(cut, recipe, "activity").num_rows


def test_whoever_is_offered_is_written(tmp_path: Path) -> None:
    recipe = named(300)
    world = World(300, first_day=dt.date(2024, 9, 1), last_day=dt.date(2024, 10, 31))
    settings = Settings.from_environment({"LUMOS_HOME": str(tmp_path)})
    bonus = []
    for offered in (np.zeros(300, bool), np.ones(300, bool)):
        write_tables(
            settings, recipe, world, scratch=tmp_path / "scratch",
            names=("activity",), offered=offered,
        )  # fmt: skip
        bonus.append(pc.sum(rows(settings, recipe, "activity")["bonus"]).as_py())
    assert bonus[1] > 1.5 * bonus[0]
