import pytest
import torch
from torch import nn

from lumos.config import TrainingConfig
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.train.optim import Optimiser, rate_factor
from lumos.verbs import BadInput
from tests.accio import small


def an_objective(config: TrainingConfig) -> Objective:
    torch.manual_seed(0)
    of = ForecasterConfig.of(small.recipe(), num_static=3, num_events=7)
    return Objective(Forecaster(of), config.loss)


def names_of(objective: nn.Module, part: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in part.param_groups]


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing_by_a_cosine() -> None:
    rates = [rate_factor(0.1, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert 0 <= rates[-1] < 0.001


def test_a_training_of_one_step_takes_it() -> None:
    assert rate_factor(0.1, 0, 1) == 1.0


def test_weights_decay_and_biases_norms_positions_and_variances_do_not() -> None:
    config = TrainingConfig(weight_decay=0.3, matrices="adamw", loss={"weighting": "learned"})
    objective = an_objective(config)
    optimiser = Optimiser(objective, config)
    assert list(optimiser.parts) == ["adamw"]
    decaying, free = optimiser.parts["adamw"].param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim >= 2 for p in decaying["params"])
    those, kept = names_of(objective, optimiser.parts["adamw"])
    assert all("weight" in name for name in those)
    assert "forecaster.heads.weight_out" in those
    assert {"log_variance_N", "forecaster.tokens.padding_U", "forecaster.heads.bias_out"} <= kept
    assert any("bias_free" in name for name in kept)  # distances, a table of positions
    assert len(those) + len(kept) == len(list(objective.parameters()))


def test_muon_has_the_matrices_inside_the_network_and_adamw_all_else() -> None:
    config = TrainingConfig(matrices="muon")
    objective = an_objective(config)
    optimiser = Optimiser(objective, config)
    (matrices,) = names_of(objective, optimiser.parts["muon"])
    rest = set.union(*names_of(objective, optimiser.parts["adamw"]))
    assert matrices | rest == {name for name, _ in objective.named_parameters()}
    assert {
        "forecaster.encoder.patch.weight",
        "forecaster.encoder.layers.0.attention.query.weight",
        "forecaster.tokens.project.0.weight",
        "forecaster.tokens.user.2.weight",
    } <= matrices
    # What reads inputs, what writes outputs, and what only looks like a matrix.
    assert {
        "forecaster.tokens.user.0.weight",
        "forecaster.tokens.static.0.weight",
        "forecaster.tokens.event.0.weight",
        "forecaster.heads.weight_out",
        "forecaster.encoder.timing.0.bias.bias_free",
    } <= rest


def test_both_parts_follow_one_schedule_from_their_own_rates() -> None:
    config = TrainingConfig(learning_rate=0.1, muon_learning_rate=0.01, muon_weight_decay=0.2)
    optimiser = Optimiser(an_objective(config), config)
    for _ in range(2):  # a share of the full rate, not of the one before
        optimiser.set_rate(0.5)
    adamw, muon = (optimiser.parts[kind].param_groups for kind in ("adamw", "muon"))
    assert [group["lr"] for group in adamw] == [0.05, 0.05]
    assert [(group["lr"], group["weight_decay"]) for group in muon] == [(0.005, 0.2)]


def test_a_step_of_muon_moves_in_all_directions_alike() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 6, bias=False))
    before, config = layer[0].weight.detach().clone(), TrainingConfig(muon_weight_decay=0.0)
    optimiser = Optimiser(layer, config)
    layer[0].weight.grad = torch.randn(6, 6)
    optimiser.step()
    # Five rounds of Newton-Schulz bring singular values near 1, not onto it.
    moved = torch.linalg.svdvals((layer[0].weight.detach() - before) / config.muon_learning_rate)
    assert 0.5 < moved.min() < moved.max() < 1.5


def test_adamw_matches_a_literal_step() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    config = TrainingConfig(weight_decay=0.1, matrices="adamw")
    before = layer.weight.detach().clone()
    optimiser = Optimiser(layer, config)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    decayed = before * (1 - config.learning_rate * 0.1)
    # After one step the bias-corrected moments are the gradient and its square.
    torch.testing.assert_close(
        layer.weight.detach(), decayed - config.learning_rate, atol=1e-7, rtol=0
    )


def test_moments_of_another_optimiser_are_refused() -> None:
    ours = an_objective(TrainingConfig())
    optimiser = Optimiser(ours, TrainingConfig())
    for parameter in ours.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    adamw = TrainingConfig(matrices="adamw")
    with pytest.raises(BadInput, match=r"moments of \['muon\.forecaster.*nothing here has"):
        Optimiser(an_objective(adamw), adamw).load_state(optimiser.state())
