"""What the rooms promise each other, checked over the whole chain of verbs."""

import json
from collections.abc import Mapping

import pyarrow as pa
import pytest

from lumos.delta import open_table, read
from lumos.ledger import entries
from lumos.recipes import load
from lumos.tables import Table, table_uri, tables
from tests.conftest import World
from tests.gym.gym_world.raw import NUM_DAYS_TO_BUSINESS_DATE

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


def test_running_every_verb_twice_leaves_every_table_unchanged(gym_trained: World) -> None:
    run_chain(gym_trained)
    before = contents(gym_trained)
    assert set(before) == set(daily_tables(gym_trained))
    versions = {name: _version(gym_trained, name) for name in before}

    run_chain(gym_trained)

    assert contents(gym_trained) == before
    assert {name: _version(gym_trained, name) for name in before} == versions


def test_forcing_every_verb_to_run_again_gives_the_same_rows(gym_trained: World) -> None:
    run_chain(gym_trained)
    before = contents(gym_trained, ignore=NAMES_VERSIONS)

    # Forced training makes another model on purpose, and with it another evaluation.
    run_chain(gym_trained, force=True, skip=("train", "evaluate", "promote"))

    assert contents(gym_trained, ignore=NAMES_VERSIONS) == before


def test_no_key_of_any_table_is_repeated(gym_trained: World) -> None:
    run_chain(gym_trained)
    recipe = load(gym_trained.recipe_name)
    for name, table in daily_tables(gym_trained).items():
        rows = read(table_uri(gym_trained.settings, recipe, name))
        assert rows is not None
        groups = rows.group_by(list(table.key)).aggregate([([], "count_all")])
        assert groups.num_rows == rows.num_rows, name


def test_the_declarations_are_what_lies_on_disk(gym_trained: World) -> None:
    run_chain(gym_trained)
    recipe = load(gym_trained.recipe_name)
    for name, table in daily_tables(gym_trained).items():
        rows = read(table_uri(gym_trained.settings, recipe, name))
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


def test_the_ledger_names_versions_that_exist_and_counts_that_hold(gym_trained: World) -> None:
    run_chain(gym_trained)
    recipe = load(gym_trained.recipe_name)
    for name in ("activity", "users", "sequences", "scores"):
        for entry in entries(gym_trained.settings, recipe, name):
            rows = read(table_uri(gym_trained.settings, recipe, name), version=entry.version)
            assert rows is not None
            assert rows.num_rows == entry.rows, name


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
