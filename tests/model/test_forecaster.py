"""The fast forecaster against the equations written out, for every option."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from lumos.config import ModelConfig, TrainingConfig
from lumos.model.forecaster import Forecaster
from lumos.model.loss import Objective
from lumos.model.positions import DistanceBias
from tests.model.literal import forecast_literally, loss_literally
from tests.model.ready import (
    a_batch,
    gradients,
    loss_of,
    objective_of,
    part_of,
    recipe_of,
    said_of,
    scaler_of,
)

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}  # of float32

POSITIONS = ("learned", "none", "sinusoidal", "tape", "absolute", "rope", "distance")
ENCODERS = (("bidirectional", 1), ("causal", 1), ("causal", 3))
PATCHES = (1, 7)
EVENTS = ("full", "no_future", "no_past", "none")
FUTURES = ("separate", "shared")
WEIGHTINGS = ("fixed", "learned")
HEAD_LAYERS = (0, 2)


def covering_cases() -> Iterator[tuple]:
    """All of what attention depends on; of the rest, which it does not, every pair."""
    rest = list(itertools.product(EVENTS, FUTURES, WEIGHTINGS, HEAD_LAYERS))
    for number, (how, patch, positions) in enumerate(
        itertools.product(ENCODERS, PATCHES, POSITIONS)
    ):
        yield (positions, *how, patch, *rest[11 * number % len(rest)])


CASES = list(covering_cases())

# Depths, widths and spans that the gym has not.
ODD = {
    "one layer": {"model.mlp_layers": 1, "model.head_layers": 1},
    "three layers": {
        "model.mlp_layers": 3,
        "model.head_layers": 3,
        "model.future_embedding": "shared",
    },
    "deep": {"model.num_encoder_layers": 3, "model.num_decoder_layers": 2},
    "deep and bidirectional": {
        "model.num_encoder_layers": 2,
        "model.num_decoder_layers": 2,
        "model.encoder": "bidirectional",
    },
    "three heads": {"model.d_model": 18, "model.num_heads": 3, "model.positions": "rope"},
    "an odd width": {"model.d_model": 15, "model.num_heads": 1, "model.positions": "tape"},
    "patches of two days": {"model.patch_days": 2, "history_days": 22},
    "patches of two days, seen both ways": {
        "model.patch_days": 2,
        "history_days": 22,
        "model.encoder": "bidirectional",
    },
    "one patch": {"model.patch_days": 21},
    "a day of history": {"model.patch_days": 1, "history_days": 1},
    "a longer horizon": {"horizon_days": 13},
}


def check(changes: dict[str, Any], num_origins: int) -> dict[str, torch.Tensor]:
    """Outputs, loss and gradients are the same; gives the gradients."""
    recipe = recipe_of(**changes)
    batch, objective = a_batch(recipe, num_origins), objective_of(recipe)
    assert not batch.is_known_BMF.all()
    assert not batch.weight_BM.all()

    parameters = dict(objective.named_parameters())
    config = objective.forecaster.config
    state = {name.removeprefix("forecaster."): value for name, value in parameters.items()}
    literal = forecast_literally(state, config, batch)
    log_variance_N = parameters.get("log_variance_N")
    slow_loss = loss_literally(literal, config, batch, recipe.training.loss, log_variance_N)
    slow = torch.autograd.grad(slow_loss, list(parameters.values()))

    for ours, theirs in zip(said_of(objective.forecaster(batch)), literal, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)
    loss = loss_of(objective, batch)
    torch.testing.assert_close(loss, slow_loss, **TOLERANCE)
    fast = gradients(objective, loss)
    for (name, ours), theirs in zip(fast.items(), slow, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
    return fast


def assert_is_trained(name: str, gradient: torch.Tensor) -> None:
    """A softmax cannot tell a bias of all keys (rope can), but everything else has a gradient."""
    parts = gradient.chunk(2) if "key_and_value" in name or "gate_and_value" in name else [gradient]
    is_key_bias = name.endswith("key_and_value.bias")
    for part in parts[1:] if is_key_bias else parts:
        assert part.abs().sum() > 0, f"{name} is never trained"


def test_every_pair_of_options_is_among_the_cases() -> None:
    for one, other in itertools.combinations(range(8), 2):
        wanted = itertools.product(*({case[n] for case in CASES} for n in (one, other)))
        got = {(case[one], case[other]) for case in CASES}
        assert got == set(wanted) - {("bidirectional", 3)}
    for number, name in ((0, "positions"), (4, "events"), (5, "future_embedding"), (1, "encoder")):
        choices = ModelConfig.model_fields[name].annotation.__args__
        assert {case[number] for case in CASES} == set(choices)


@pytest.mark.parametrize(
    ("positions", "encoder", "origins", "patch", "events", "future", "weighting", "head_layers"),
    CASES,
    ids=["-".join(map(str, case)) for case in CASES],
)
def test_the_fast_forecaster_and_its_gradients_match_the_literal_equations(
    positions: str,
    encoder: str,
    origins: int,
    patch: int,
    events: str,
    future: str,
    weighting: str,
    head_layers: int,
) -> None:
    changes = {
        "model.positions": positions,
        "model.encoder": encoder,
        "model.patch_days": patch,
        "model.events": events,
        "model.future_embedding": future,
        "training.loss.weighting": weighting,
        "model.head_layers": head_layers,
    }
    for name, gradient in check(changes, origins).items():
        assert_is_trained(name, gradient)


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_they_match_at_any_depth_width_and_span(changes: dict[str, Any]) -> None:
    is_one = changes.get("model.encoder") == "bidirectional" or changes.get("history_days") == 1
    check(changes, 1 if is_one else 2)


@pytest.mark.parametrize(("history", "horizon"), [(360, 7), (360, 28), (359, 11), (1, 1)])
def test_history_and_horizon_may_be_of_any_length(history: int, horizon: int) -> None:
    tasks = [task for task in recipe_of().model_dump()["tasks"] if task["window_days"] <= horizon]
    tasks = tasks or [recipe_of().model_dump()["tasks"][3] | {"window_days": 1}]
    recipe = recipe_of(history_days=history, horizon_days=horizon, model__patch_days=1, tasks=tasks)
    batch, objective = a_batch(recipe), objective_of(recipe)
    forecast = objective.forecaster(batch)
    num_tasks = sum(task["has_head"] for task in tasks)
    assert forecast.binary_logits.shape == (5, 1, horizon, 2)
    assert forecast.given_continuous.shape == (5, 1, horizon, 2)
    assert forecast.heads_BMK.shape == (5, 1, num_tasks)
    assert all(torch.isfinite(part).all() for part in said_of(forecast))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("encoder", "origins"), ENCODERS)
def test_a_batch_of_nobody_has_a_forecast_of_nobody(
    positions: str, encoder: str, origins: int
) -> None:
    recipe = recipe_of(model__positions=positions, model__encoder=encoder)
    batch, objective = a_batch(recipe, origins), objective_of(recipe)
    forecast = objective.forecaster(part_of(batch, 0, 0))
    assert forecast.outputs_BMFU.shape == (0, origins, 10, 4)
    assert {answer.shape for answer in forecast.answers().values()} == {(0, origins)}


@pytest.mark.parametrize("encoder", ["bidirectional", "causal"])
@pytest.mark.parametrize("positions", ["learned", "rope", "distance"])
def test_a_horizon_day_depends_on_its_own_events_and_no_other_days(
    positions: str, encoder: str
) -> None:
    recipe = recipe_of(model__positions=positions, model__encoder=encoder)
    batch, objective = a_batch(recipe), objective_of(recipe)
    before = objective.forecaster(batch)
    index = batch.event_index_BL.clone()
    index[:, recipe.history_days + 4] = index[:, 0]
    after = objective.forecaster(replace(batch, event_index_BL=index))
    for name in ("outputs_BMFU", "hazards_BMFA"):
        changed = (getattr(before, name) != getattr(after, name)).any(dim=3)
        assert changed.any(dim=(0, 1)).tolist() == [day == 4 for day in range(10)]
    # A head asks the days of its window: only visit_3d's has not changed.
    same = (before.heads_BMK == after.heads_BMK).all(dim=(0, 1)).tolist()
    assert same == [head.name == "visit_3d" for head in objective.forecaster.config.heads]


@pytest.mark.parametrize(
    ("events", "past", "ahead"),
    [("full", True, True), ("no_future", True, False), ("no_past", False, True),
     ("none", False, False)],
)  # fmt: skip
def test_events_that_are_left_out_are_not_looked_at(events: str, past: bool, ahead: bool) -> None:
    recipe = recipe_of(model__events=events)
    batch, objective = a_batch(recipe), objective_of(recipe)
    before = objective.forecaster(batch).outputs_BMFU
    days = torch.arange(batch.event_index_BL.shape[1])
    for is_past, is_used in ((True, past), (False, ahead)):
        mine = (days < recipe.history_days) == is_past
        index = torch.where(mine, batch.event_index_BL.flip(0), batch.event_index_BL)
        after = objective.forecaster(replace(batch, event_index_BL=index)).outputs_BMFU
        assert torch.equal(before, after) != is_used


def test_a_day_before_registration_is_not_a_day_without_activity() -> None:
    recipe = recipe_of()
    batch, objective = a_batch(recipe), objective_of(recipe)
    assert not batch.is_registered_BT.all()
    assert not batch.history_BTU[~batch.is_registered_BT].any()
    empty = torch.where(batch.is_registered_BT, batch.day_row_BT, 0)
    ours, theirs = (
        objective.forecaster(b).outputs_BMFU for b in (batch, replace(batch, day_row_BT=empty))
    )
    assert (ours - theirs).abs().max() > 1e-3
    # What stands in the history before registration is never looked at.
    garbage = batch.activity_NU.clone()
    garbage[1] = torch.nan
    poisoned = replace(batch, activity_NU=garbage)
    assert torch.equal(ours, objective.forecaster(poisoned).outputs_BMFU)
    for name, gradient in gradients(objective, loss_of(objective, poisoned)).items():
        assert torch.isfinite(gradient).all(), name


def test_positions_start_at_zero_and_first_forecasts_near_the_averages() -> None:
    recipe = recipe_of(model__positions="learned")
    scaler, objective = scaler_of(recipe), objective_of(recipe)
    torch.manual_seed(0)
    config = objective.forecaster.config
    objective = Objective(Forecaster(config), TrainingConfig().loss)
    first = scaler.first_outputs(config)
    objective.eval().start_at(first, scaler.first_losses(config))
    assert not objective.forecaster.positions.table.any()
    assert objective.forecaster.positions.table.shape == (31, recipe.model.d_model)
    forecast = objective.forecaster(a_batch(recipe))
    said = [part.flatten(0, -2).mean(0) for part in said_of(forecast)]
    torch.testing.assert_close(torch.cat(said), first, atol=0.4, rtol=0)


def test_distances_start_as_a_line_that_prefers_what_is_near() -> None:
    bias_HR = DistanceBias(4, torch.arange(20))()
    assert (bias_HR[:, 0] == 0).all()
    assert (bias_HR.diff(dim=1) < 0).all()
    torch.testing.assert_close(bias_HR[:, 1], -(2.0 ** torch.tensor([-2.0, -4, -6, -8])))
