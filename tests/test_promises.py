"""What the rooms promise each other, checked over the whole chain of verbs."""

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lumos.delta import open_table, read
from lumos.erase.places import Users, places
from lumos.erase.scan import scan
from lumos.ledger import entries
from lumos.recipes import load
from lumos.serve.manifest import read_scores
from lumos.tables import Table, table_uri, tables
from tests.conftest import World, enter
from tests.gym.gym_world.raw import NUM_DAYS_TO_BUSINESS_DATE

# The first to ask pays for a whole chain of verbs.
pytestmark = pytest.mark.timeout(600)
CHAIN = (
    "aggregate",
    "sequences",
    "validate",
    "train",
    "evaluate",
    "promote",
    "score",
    "publish",
    "monitor",
    "embed",
    "assign",
    "measure",
    "review",
    "report",
)
# What a forced rerun commits again under a new Delta version, and so may name another one.
NAMES_VERSIONS = {
    "histograms": {"source_version"},
    "ledger": {"version", "inputs", "fingerprint", "report"},
    "manifests": {"scores_version", "inputs"},
}


def contents(world: World, *, ignore: Mapping[str, set[str]] | None = None) -> dict[str, list[str]]:
    """Every row of every contract table, in an order of its own."""
    recipe = load(world.recipe_name)
    found = {}
    for name in tables(recipe):
        rows = read(table_uri(world.settings, recipe, name))
        if rows is not None:
            dropped = (ignore or {}).get(name, set())
            kept = rows.drop_columns([c for c in rows.column_names if c in dropped])
            found[name] = sorted(json.dumps(row, default=str) for row in kept.to_pylist())
    return found


# Written when somebody asks: test_shadow.py and test_what_if.py promise the same of them.
OCCASIONAL = {"shadows", "what_ifs"}


def daily_tables(world: World) -> dict[str, Table]:
    """The tables that a day leaves, by name."""
    found = tables(load(world.recipe_name))
    return {name: table for name, table in found.items() if name not in OCCASIONAL}


def run_chain(world: World, *, force: bool = False, skip: tuple[str, ...] = ()) -> None:
    """Every verb of a day, in order."""
    for verb in CHAIN:
        if verb not in skip:
            options = {"days": NUM_DAYS_TO_BUSINESS_DATE} if verb == "aggregate" else {}
            world.run(verb, force=force, **options)


@pytest.fixture(scope="module")
def _chained(_trained_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _trained_world.copy(tmp_path_factory.mktemp("promises") / "home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(world, monkeypatch)
        run_chain(world)
    return world


@pytest.fixture
def chained(_chained: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The gym after every verb of a day."""
    return enter(_chained.copy(tmp_path / "home"), monkeypatch)


def test_running_every_verb_twice_leaves_every_table_unchanged(chained: World) -> None:
    before = contents(chained)
    assert set(before) == set(daily_tables(chained))
    versions = {name: _version(chained, name) for name in before}

    run_chain(chained)

    assert contents(chained) == before
    assert {name: _version(chained, name) for name in before} == versions


def test_forcing_every_verb_to_run_again_gives_the_same_rows(chained: World) -> None:
    before = contents(chained, ignore=NAMES_VERSIONS)

    # Forced training makes another model on purpose, and with it another evaluation.
    run_chain(chained, force=True, skip=("train", "evaluate", "promote"))

    assert contents(chained, ignore=NAMES_VERSIONS) == before


def test_no_key_of_any_table_is_repeated(chained: World) -> None:
    recipe = load(chained.recipe_name)
    for name, table in daily_tables(chained).items():
        rows = read(table_uri(chained.settings, recipe, name))
        assert rows is not None
        groups = rows.group_by(list(table.key)).aggregate([([], "count_all")])
        assert groups.num_rows == rows.num_rows, name


def test_the_declarations_are_what_lies_on_disk(chained: World) -> None:
    recipe = load(chained.recipe_name)
    for name, table in daily_tables(chained).items():
        rows = read(table_uri(chained.settings, recipe, name))
        assert rows is not None
        declared = table.arrow_schema(recipe)
        assert set(rows.column_names) == set(declared.names), name
        for field in declared:
            assert _plain(rows.schema.field(field.name).type) == _plain(field.type), (
                name,
                field.name,
            )
            if not field.nullable:
                assert rows[field.name].null_count == 0, (name, field.name)


def test_the_ledger_names_versions_that_exist_and_counts_that_hold(chained: World) -> None:
    recipe = load(chained.recipe_name)
    for name in ("activity", "users", "sequences", "scores"):
        for entry in entries(chained.settings, recipe, name):
            rows = read(table_uri(chained.settings, recipe, name), version=entry.version)
            assert rows is not None
            assert rows.num_rows == entry.rows, name


def test_an_erased_user_stays_away_and_the_next_morning_is_like_any_other(chained: World) -> None:
    user = "m-003é"
    _land_without(chained, user)
    chained.run("erase", user=[user])
    # Another version of activity, looked at again: nothing of it may look lost.
    assert not chained.run("validate").already_done

    tomorrow = chained.date + dt.timedelta(days=1)
    lenient = load("gym_world.recipe:recipe_of_two_mornings")
    for verb in ("aggregate", "sequences", "validate", "score", "publish"):
        report = chained.run(verb, date=tomorrow, recipe=lenient)
        if verb == "sequences":
            assert report.details["builder"] == "advance"

    recipe = load(chained.recipe_name)
    assert not [row for rows in contents(chained).values() for row in rows if user in row]
    assert not any(
        scan(place.uri(chained.settings, recipe), place, Users((user,))) for place in places(recipe)
    )
    assert len(read_scores(chained.settings, recipe, today=tomorrow)) > 0


def _land_without(world: World, user: str) -> None:
    """What the platform does before it asks for the same here."""
    folder = Path(world.settings.lake) / "raw" / "gym"
    for path in (folder / "purchases" / "part-0.csv", folder / "members" / "part-0.csv"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(f"{user},")))
    path = folder / "checkins" / "part-0.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pc.not_equal(rows["member"], user)), path)


@pytest.mark.parametrize("variant", ["recipe_without_events"])
def test_a_platform_without_an_event_table_runs_every_verb(gym_raw: World, variant: str) -> None:
    world = World(gym_raw.home, f"gym_world.recipe:{variant}")
    recipe = load(world.recipe_name)
    run_chain(world)
    scores = read(table_uri(world.settings, recipe, "scores"))
    assert scores is not None
    assert scores.num_rows > 0
    events = read(table_uri(world.settings, recipe, "event_context"))
    assert events is None or events.num_rows == 0


def _version(world: World, name: str) -> int:
    table = open_table(table_uri(world.settings, load(world.recipe_name), name))
    assert table is not None
    return table.version()


def _plain(kind: pa.DataType) -> str:
    """A type's name without nullability, view variants and inner field names."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_plain(kind.value_type)}>"
    if pa.types.is_struct(kind):
        fields = (f"{field.name}:{_plain(field.type)}" for field in kind)
        return f"struct<{', '.join(fields)}>"
    return str(kind).replace("_view", "").replace("large_", "")
