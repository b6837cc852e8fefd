"""The fast forecaster against the equations written out, one user and one day at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lumos.accio.batch import NOBODY, ragged_batch
from lumos.accio.dense import Batch
from lumos.config import Recipe, override
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective, column_loss_sums, uncertainty_weighted
from lumos.train.scaler import Scaler, ScalerFit
from tests.accio import small

TOLERANCE = 1e-5


def scaler_of(recipe: Recipe) -> Scaler:
    users = small.users()
    last = int(users.days.max()) - 20
    fit = ScalerFit(recipe, last)
    fit.add(users)
    return fit.scaler(small.calendar(recipe), last - 100)


def a_batch(recipe: Recipe, number: int = 6) -> Batch:
    users = small.users()
    # Origins soon after registration: some of the history lies before it.
    users = users.take(np.arange(number))
    origins = users.registered + np.array([0, 20, 30, 45, 45, 60])[:number].astype(np.int32)
    place = np.array([0, 1, NOBODY, 3, 4, 5])[:number]
    spans = recipe.history_days, recipe.horizon_days
    raw = ragged_batch(users, origins, *spans, number=place)
    return scaler_of(recipe).batch(raw, small.calendar(recipe), recipe)


def an_objective(recipe: Recipe) -> Objective:
    torch.manual_seed(0)
    scaler = scaler_of(recipe)
    config = ForecasterConfig.of(recipe, num_static=scaler.num_static, num_events=scaler.num_events)
    objective = Objective(Forecaster(config)).eval()
    with torch.no_grad():  # so that no parameter is hidden by being zero
        for parameter in objective.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return objective


def mlp(state: dict[str, Tensor], name: str, x: Tensor, depth: int) -> Tensor:
    for layer in range(depth):
        weight, bias = (state[f"{name}.{2 * layer}.{kind}"] for kind in ("weight", "bias"))
        x = weight @ x + bias
        if layer < depth - 1:
            x = x.clamp(min=0)
    return x


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean()
    scaled = centred / torch.sqrt((centred**2).mean() + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(
    state: dict[str, Tensor], name: str, x: Tensor, memory: list[Tensor], heads: int
) -> Tensor:
    def project(part: str, vector: Tensor) -> Tensor:
        return state[f"{name}.{part}.weight"] @ vector + state[f"{name}.{part}.bias"]

    size = len(x) // heads
    query = project("query", x)
    both = [project("key_and_value", vector) for vector in memory]
    mixed = []
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        scores = torch.stack([(query[mine] * kv[: len(x)][mine]).sum() for kv in both])
        weights = torch.exp(scores / math.sqrt(size))
        weights = weights / weights.sum()
        values = [kv[len(x) :][mine] for kv in both]
        mixed.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
    return project("out", torch.cat(mixed))


def swiglu(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    both = state[f"{name}.gate_and_value.weight"] @ x + state[f"{name}.gate_and_value.bias"]
    gate, value = both[: len(both) // 2], both[len(both) // 2 :]
    inner = gate / (1 + torch.exp(-gate)) * value
    return state[f"{name}.out.weight"] @ inner + state[f"{name}.out.bias"]


def outputs_literally(state: dict[str, Tensor], recipe: Recipe, batch: Batch, user: int) -> Tensor:
    """Equations 1 to 9 for one user; shape (F, U)."""
    model, depth = recipe.model, recipe.model.mlp_layers
    past, future = recipe.history_days, recipe.horizon_days
    positions = state["positions.table"]
    static = mlp(state, "tokens.static", batch.static_BS[user], depth)
    x = []
    for day in range(past):
        is_there = bool(batch.is_registered_BT[user, day])
        activity = batch.history_BTU[user, day] if is_there else state["tokens.padding_U"]
        event = batch.events_EC[batch.event_index_BL[user, day]]
        parts = [
            mlp(state, "tokens.user", activity, depth),
            static,
            mlp(state, "tokens.event", event, depth),
        ]
        x.append(mlp(state, "tokens.project", torch.cat(parts), depth) + positions[day])
    for layer in range(model.num_encoder_layers):
        name = f"encoder.layers.{layer}"
        normed = [norm(state, f"{name}.norm_attention", vector) for vector in x]
        x = [
            vector + attend(state, f"{name}.attention", mine, normed, model.num_heads)
            for vector, mine in zip(x, normed, strict=True)
        ]
        x = [v + swiglu(state, f"{name}.feed", norm(state, f"{name}.norm_feed", v)) for v in x]
    memory = [norm(state, "encoder.norm", vector) for vector in x]
    answers = []
    for day in range(future):
        event = batch.events_EC[batch.event_index_BL[user, past + day]]
        y = mlp(state, "tokens.event_future", event, depth) + positions[past + day]
        for layer in range(model.num_decoder_layers):
            name = f"decoder.layers.{layer}"
            query = norm(state, f"{name}.norm_attention", y)
            y = y + attend(state, f"{name}.attention", query, memory, model.num_heads)
            y = y + swiglu(state, f"{name}.feed", norm(state, f"{name}.norm_feed", y))
        y = norm(state, "decoder.norm", y)
        answers.append(torch.stack([head(state, y, n) for n in range(len(recipe.activity))]))
    return torch.stack(answers)


def head(state: dict[str, Tensor], y: Tensor, number: int) -> Tensor:
    for layer in (1, 2):
        weight, bias = (state[f"heads.{kind}_{layer}"][number] for kind in ("weight", "bias"))
        y = (y @ weight + bias[0]).clamp(min=0)
    return (y @ state["heads.weight_out"][number] + state["heads.bias_out"][number, 0])[0]


def loss_literally(
    outputs: list[Tensor], recipe: Recipe, batch: Batch, log_variance: Tensor
) -> Tensor:
    """Equation 10, one column, user and day at a time."""
    total = torch.zeros(())
    for column, declared in enumerate(recipe.activity):
        losses = []
        for user, output in enumerate(outputs):
            if batch.weight_B[user] == 0:
                continue
            for day in range(recipe.horizon_days):
                target, said = batch.targets_BFU[user, day, column], output[day, column]
                if declared.kind == "binary":
                    p = 1 / (1 + torch.exp(-said))
                    losses.append(-target * torch.log(p) - (1 - target) * torch.log(1 - p))
                elif bool(batch.is_active_BF[user, day]):
                    losses.append((said - target) ** 2)
        mean = torch.stack(losses).mean()
        total = total + mean / (2 * torch.exp(log_variance[column])) + log_variance[column]
    return total


def fast_loss(objective: Objective, batch: Batch) -> Tensor:
    sums, counts, log_variance = objective(batch)
    return uncertainty_weighted(sums / counts, log_variance)


@pytest.mark.parametrize("changes", [{}, {"model.num_encoder_layers": 2, "model.mlp_layers": 1}])
def test_the_fast_forecaster_and_its_gradients_match_the_literal_equations(changes: dict) -> None:
    recipe = override(small.recipe(), {"model.dropout": 0.5, "history_days": 7, **changes})
    batch, objective = a_batch(recipe, 4), an_objective(recipe)
    assert not batch.is_registered_BT.all()

    parameters = dict(objective.named_parameters())
    state = {name.removeprefix("forecaster."): value for name, value in parameters.items()}
    literal = [outputs_literally(state, recipe, batch, user) for user in range(4)]
    loss = loss_literally(literal, recipe, batch, objective.log_variance_U)
    slow = torch.autograd.grad(loss, list(parameters.values()))

    fast_outputs = objective.forecaster(batch).outputs_BFU
    torch.testing.assert_close(fast_outputs, torch.stack(literal), atol=TOLERANCE, rtol=TOLERANCE)
    fast = fast_loss(objective, batch)
    torch.testing.assert_close(fast, loss, atol=TOLERANCE, rtol=TOLERANCE)
    for name, theirs, ours in zip(
        parameters, slow, torch.autograd.grad(fast, list(parameters.values())), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
        assert ours.abs().sum() > 0, f"{name} is never trained"


def test_a_horizon_day_depends_on_its_own_events_and_no_other_days() -> None:
    recipe = small.recipe()
    batch, objective = a_batch(recipe), an_objective(recipe)
    before = objective.forecaster(batch).outputs_BFU
    index = batch.event_index_BL.clone()
    index[:, recipe.history_days + 4] = index[:, 0]
    after = objective.forecaster(replace(batch, event_index_BL=index)).outputs_BFU
    changed = (before != after).any(dim=(0, 2))
    assert changed.tolist() == [day == 4 for day in range(recipe.horizon_days)]


def test_a_day_before_registration_is_not_a_day_without_activity() -> None:
    batch, objective = a_batch(small.recipe()), an_objective(small.recipe())
    assert not batch.history_BTU[~batch.is_registered_BT].any()
    present = replace(batch, is_registered_BT=torch.ones_like(batch.is_registered_BT))
    ours, theirs = (objective.forecaster(b).outputs_BFU for b in (batch, present))
    assert (ours - theirs).abs().max() > 1e-3
    # What stands in the history before registration is never looked at.
    garbage = torch.where(batch.is_registered_BT[..., None], batch.history_BTU, torch.nan)
    poisoned = objective.forecaster(replace(batch, history_BTU=garbage)).outputs_BFU
    assert torch.equal(ours, poisoned)


def test_positions_start_at_zero_and_first_forecasts_near_the_averages() -> None:
    recipe, scaler = small.recipe(), scaler_of(small.recipe())
    config = ForecasterConfig.of(recipe, num_static=scaler.num_static, num_events=scaler.num_events)
    torch.manual_seed(0)
    objective = Objective(Forecaster(config)).eval()
    objective.start_at(scaler.first_outputs(recipe), scaler.first_log_variances())
    assert not objective.forecaster.positions.table.any()
    assert objective.forecaster.positions.table.shape == (52, recipe.model.d_model)
    batch = a_batch(recipe)
    outputs = objective.forecaster(batch)
    mean = outputs.outputs_BFU.mean(dim=(0, 1))
    torch.testing.assert_close(mean, scaler.first_outputs(recipe), atol=0.4, rtol=0)
    assert outputs.binary_logits.shape == (6, 10, 2)
    assert outputs.given_continuous.shape == (6, 10, 2)


def test_a_column_without_a_day_that_counts_adds_nothing_to_the_objective() -> None:
    recipe = small.recipe()
    batch, objective = a_batch(recipe), an_objective(recipe)
    quiet = replace(batch, is_active_BF=torch.zeros_like(batch.is_active_BF))
    sums, counts, log_variance = objective(quiet)
    assert counts.tolist() == [50, 50, 0, 0]
    loss = uncertainty_weighted(sums / counts.clamp(min=1), log_variance, counts > 0)
    gradient = torch.autograd.grad(loss, objective.log_variance_U)[0]
    assert gradient[2:].tolist() == [0, 0]
    assert (gradient[:2] != 0).all()


def test_loss_sums_of_two_halves_are_those_of_the_whole() -> None:
    recipe = small.recipe()
    batch, objective = a_batch(recipe), an_objective(recipe)
    halves = [
        replace(
            batch,
            **{
                name: getattr(batch, name)[part]
                for name in vars(batch)
                if name not in ("events_EC",)
            },
        )
        for part in (slice(0, 2), slice(2, 6))
    ]
    whole = column_loss_sums(objective.forecaster(batch), batch)
    parts = [column_loss_sums(objective.forecaster(half), half) for half in halves]
    for number in range(2):
        torch.testing.assert_close(parts[0][number] + parts[1][number], whole[number])


BARE = {"calendar": (), "static": (), "model.num_heads": 1}


@pytest.mark.parametrize(
    "activity",
    [["visited"], ["visited", "took_class"], ["visited", "minutes"]],
)
def test_a_platform_may_have_one_column_no_events_and_no_static_features(
    activity: list[str],
) -> None:
    whole = small.recipe("gym_world.recipe:recipe_without_events")
    fields = override(whole, BARE).model_dump()
    fields["activity"] = [c for c in fields["activity"] if c["name"] in activity]
    fields["tasks"] = [t for t in fields["tasks"] if t["column"] in activity]
    fields["experiments"] = ()
    recipe = Recipe.model_validate(fields)
    users = small.users(6)
    kept = [n for n, c in enumerate(small.recipe().activity) if c.name in activity]
    columns = tuple(users.columns[n] for n in kept)
    users = replace(users, columns=columns, static=users.static.select([]))
    calendar = small.calendar(recipe)
    fit = ScalerFit(recipe, int(users.days.max()))
    fit.add(users)
    scaler = fit.scaler(calendar, int(users.days.min()))
    config = ForecasterConfig.of(recipe, num_static=scaler.num_static, num_events=scaler.num_events)
    spans = recipe.history_days, recipe.horizon_days
    raw = ragged_batch(users, users.registered + 45, *spans)
    loss = fast_loss(Objective(Forecaster(config)), scaler.batch(raw, calendar, recipe))
    loss.backward()
    assert torch.isfinite(loss)
