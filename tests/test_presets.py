"""The published form has its published dimensions, and a form that cannot be says so."""

import inspect

import pytest
import torch
from pydantic import ValidationError

from lumos import presets
from lumos.calendar import CALENDAR_COLUMNS
from lumos.config import ModelConfig
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.overrides import override
from tests.accio import small

# SPEC: d_model, layers, heads as published; parameters as they come of these dimensions with 13
# columns, 32 event columns and the calendar's, 9 static ones, 360 + 7 days. (It prints 7.23,
# 12.18, 16.42 and 20.81 million, which they cannot have.)
PUBLISHED = {
    "small": (512, 6, 8, 57_902_650),
    "medium": (640, 8, 8, 116_569_274),
    "large": (768, 8, 12, 167_697_210),
    "xlarge": (768, 10, 12, 205_498_170),
}


def network(model: ModelConfig, history_days: int) -> Forecaster:
    """With shapes and no numbers: the largest would take most of a gigabyte."""
    config = ForecasterConfig(
        model=model,
        columns=tuple(f"column_{number}" for number in range(13)),
        is_binary=(True,) * 3 + (False,) * 10,
        hazards=(),
        heads=(),
        num_static=9,
        num_events=32 + len(CALENDAR_COLUMNS),
        history_days=history_days,
        horizon_days=7,
    )
    with torch.device("meta"):
        return Forecaster(config)


def size_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_sizes_have_their_dimensions_and_what_these_cost(size: str) -> None:
    d_model, num_layers, num_heads, num_parameters = PUBLISHED[size]
    form = presets.paper(size)
    assert (form.d_model, form.num_heads, form.d_ff) == (d_model, num_heads, 4 * d_model)
    assert form.num_encoder_layers == form.num_decoder_layers == num_layers
    assert (form.d_user, form.d_static, form.d_event, form.mlp_layers) == (128, 32, 64, 2)
    choices = (form.positions, form.encoder, form.events, form.future_embedding)
    assert choices == ("learned", "bidirectional", "full", "separate")
    built = network(form, 360)
    assert size_of(built) == num_parameters
    # Each head: two hidden layers of d_model, then a scalar.
    one_head = 2 * (d_model**2 + d_model) + d_model + 1
    assert size_of(built.heads) == 13 * one_head
    # Each layer: four projections, SwiGLU's three matrices, two norms.
    attention, norm = 4 * (d_model**2 + d_model), 2 * d_model
    feed = 3 * d_model * form.d_ff + 2 * form.d_ff + d_model
    trunk = size_of(built.encoder) + size_of(built.decoder)
    assert trunk == 2 * (num_layers * (attention + feed + 2 * norm) + norm)


@pytest.mark.parametrize("size", presets.SIZES)
def test_ours_is_a_causal_encoder_of_weeks_in_every_size(size: str) -> None:
    ours, published = presets.lumos(size), presets.paper(size)
    assert (ours.positions, ours.encoder, ours.patch_days) == ("distance", "causal", 7)
    for name in ("d_model", "num_heads", "d_ff", "d_user", "d_event", "d_static"):
        assert getattr(ours, name) == getattr(published, name)
    assert size_of(network(ours, 364)) < size_of(network(published, 364))


def test_the_published_training_is_adamw_with_learned_weights_and_one_origin() -> None:
    training = presets.paper_training(epochs=2)
    assert (training.learning_rate, training.weight_decay) == (1e-4, 0.01)
    assert (training.batch_size, training.matrices, training.epochs) == (4096, "adamw", 2)
    assert training.loss.weighting == "learned"
    assert (training.origins_per_window, training.ema, training.patience) == (1, 0, 0)
    with pytest.raises(ValidationError, match="learning_rat"):
        presets.paper_training(learning_rat=1e-3)


def test_a_recipe_takes_either_form() -> None:
    published = {
        "model": presets.paper("tiny").model_dump(),
        "training": presets.paper_training(batch_size=64).model_dump(),
    }
    for changes in (published, {"model": presets.lumos("tiny").model_dump()}):
        recipe = override(small.recipe_with_heads(), changes)
        config = ForecasterConfig.of(recipe, num_static=3, num_events=5)
        assert ForecasterConfig.model_validate_json(config.model_dump_json()) == config
        assert [head.name for head in config.heads if head.hazard is not None] == [
            "visit_10d",
            "visit_3d",
            "class_7d",
        ]


def wide_and_daily() -> ModelConfig:
    """A model of one's own."""
    form = presets.lumos("tiny").model_dump()
    return ModelConfig.model_validate(form | {"d_model": 96, "patch_days": 1, "head_layers": 1})


def test_a_new_model_is_a_function_of_fewer_than_ten_lines() -> None:
    assert len(inspect.getsource(wide_and_daily).splitlines()) < 10
    assert size_of(network(wide_and_daily(), 359)) > size_of(network(presets.lumos("tiny"), 357))


def test_an_unknown_size_is_refused_with_the_choices() -> None:
    for form in (presets.paper, presets.lumos):
        with pytest.raises(ValueError, match=r"'huge' is unknown; choose from tiny, small, medium"):
            form("huge")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model.d_model": 64, "model.num_heads": 5},
            r"model.d_model=64 is not divisible by model.num_heads=5; choose a multiple",
        ),
        (
            {"model.d_model": 12, "model.num_heads": 4, "model.positions": "rope"},
            r"'rope' turns pairs: model.d_model=12 over model.num_heads=4 must be even",
        ),
        (
            {"history_days": 360, "model.patch_days": 7},
            r"history_days=360 is not a multiple of model.patch_days=7",
        ),
        (
            {"model.encoder": "bidirectional", "training.origins_per_window": 4},
            r"training.origins_per_window=4 needs model.encoder='causal': a bidirectional",
        ),
        ({"model.positions": "fourier"}, r"model.positions: .*'learned'.*'rope' or 'distance'"),
        ({"model.mlp_layers": 4}, r"model.mlp_layers: .*less than or equal to 3"),
        ({"model.dropout": 1.0}, r"model.dropout: .*less than 1"),
        ({"model.patch_days": 0}, r"model.patch_days: .*greater than or equal to 1"),
        ({"model.head_layers": -1}, r"model.head_layers: .*greater than or equal to 0"),
        ({"training.loss.hazard": -1}, r"training.loss.hazard: .*greater than or equal to 0"),
    ],
)
def test_a_form_that_cannot_be_is_refused_with_what_to_change(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        override(small.recipe(), changes)
