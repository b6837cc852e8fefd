"""A verb's work is done again when what its result depends on has changed, and only then.

That verbs declare all that they read is held by every test that runs one: `run_declared` fails a
verb that reads more.
"""

from dataclasses import replace

import pytest

from lumos import cli, dependencies, ledger
from lumos.dependencies import VERBS
from lumos.overrides import override
from lumos.recipes import load
from lumos.verbs import TableWritten
from tests.conftest import RECIPE, World
from tests.tracing import recipe_parts

recipe = load(RECIPE)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "home")


def done(world, verb, **changes):
    """Whether the ledger takes the same work of a changed recipe for done."""
    request = world.request(verb, recipe=override(recipe, changes))
    return ledger.already_done(request, "a_table", {"raw": 1}) is not None


def enter(world, verb):
    request = world.request(verb)
    report = request.report(tables=(TableWritten(table="a_table", version=1, rows=1),))
    ledger.record(request, report, inputs={"raw": 1})


def test_every_declared_part_is_a_field_of_a_recipe_of_a_verb_that_there_is():
    assert set(VERBS) <= set(cli.VERBS)
    fields = recipe.model_dump()
    for declared in VERBS.values():
        for part in declared.parts:
            field, _, leaf = part.partition(".")
            assert field in fields
            assert not leaf or leaf in fields[field]


@pytest.mark.parametrize(
    ("verb", "ignored", "needed"),
    [
        ("aggregate", {"training.epochs": 9, "num_buckets": 3}, {"late_days": 9}),
        ("sequences", {"late_days": 9}, {"num_buckets": 3}),
        ("train", {"publishing.valid_days": 9, "quality.usual_days": 9}, {"training.epochs": 9}),
        ("score", {"publishing.valid_days": 9}, {"scoring.precision": "bfloat16"}),
        ("publish", {"training.epochs": 9, "late_days": 9}, {"publishing.valid_days": 9}),
    ],
)
def test_only_a_part_that_a_result_depends_on_makes_a_verb_run_again(world, verb, ignored, needed):
    enter(world, verb)
    assert done(world, verb)
    assert done(world, verb, **ignored)
    assert not done(world, verb, **needed)


def test_a_raised_revision_makes_its_verb_run_again_and_no_other(world, monkeypatch):
    for verb in ("train", "score"):
        enter(world, verb)
        assert done(world, verb)
        monkeypatch.setitem(dependencies.VERBS, verb, replace(VERBS[verb], revision=2))
        assert not done(world, verb)


def test_an_entry_with_a_fingerprint_of_another_making_is_ready_and_not_done(world):
    enter(world, "train")
    old = {"fingerprint": "made by an earlier version"}
    ledger.revise(
        world.settings, recipe, lambda e: ledger.Entry.model_validate({**e.model_dump(), **old})
    )
    entry = ledger.require(world.settings, recipe, "a_table", world.date, remedy="")
    assert entry.fingerprint == old["fingerprint"]
    assert not done(world, "train")


def test_what_a_verb_reads_is_seen_also_through_a_property_and_of_a_copy():
    with recipe_parts() as read:
        assert recipe.binary
        assert override(recipe, {"training.epochs": 9}).publishing.valid_days
    assert read == {"activity", "publishing.valid_days"}
    assert VERBS["train"].undeclared(read) == {"publishing.valid_days"}
    assert VERBS["publish"].undeclared(read) == set()
