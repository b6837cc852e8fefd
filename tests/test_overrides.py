"""What a run may change of a recipe, and what of that is a decision to be written down."""

import typing

import pytest
from pydantic import BaseModel

from lumos.config import Recipe
from lumos.overrides import LIMITS, TUNABLE, assignments, limits_among, override
from lumos.recipes import load
from tests.conftest import RECIPE


def leaves(model: type[BaseModel], path: str) -> typing.Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{path}.{name}")
        else:
            yield f"{path}.{name}", kind


TUNED = {
    name: kind
    for section in TUNABLE
    for name, kind in leaves(Recipe.model_fields[section].annotation, section)
}


def test_nothing_that_tunes_is_free_text_so_none_can_be_a_path_or_an_address():
    assert len(TUNED) > 40
    kinds = {typing.get_origin(kind) or kind for kind in TUNED.values()}
    assert kinds == {int, float, bool, typing.Literal}


def test_every_limit_is_a_number_of_a_recipe():
    tree = load(RECIPE).model_dump()
    for name in LIMITS:
        section, field = name.split(".")
        assert isinstance(tree[section][field], int | float)


@pytest.mark.parametrize("name", sorted(n for n, kind in TUNED.items() if kind is int))
def test_no_whole_number_of_a_run_can_fill_the_machine(name):
    with pytest.raises(ValueError, match="less than or equal to"):
        override(load(RECIPE), {name: 10**12})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_has_not_are_refused(value):
    with pytest.raises(ValueError, match="finite number"):
        override(load(RECIPE), assignments([f"publishing.max_volume_change={value}"]))


def test_the_limits_among_overrides_are_found_and_nothing_else():
    given = ["training.epochs=2", "publishing.max_drift=0.9", "quality.max_volume_change=2"]
    assert limits_among(given) == {"publishing.max_drift": 0.9, "quality.max_volume_change": 2}
    assert limits_among([]) == {}


def test_what_nests_too_deep_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="nests too deep"):
        assignments(["training.loss=" + "[" * 100_000])
