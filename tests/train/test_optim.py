import pytest
import torch
from torch import nn

from lumos.config import TrainingConfig
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.train.optim import adamw, learning_rate
from tests.accio import small


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing_by_a_cosine() -> None:
    config = TrainingConfig(learning_rate=2.0, warmup_share=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert 0 <= rates[-1] < 0.001


def test_a_training_of_one_step_takes_it() -> None:
    assert learning_rate(TrainingConfig(learning_rate=1.0), 0, 1) == 1.0


def test_weights_decay_and_biases_norms_positions_and_variances_do_not() -> None:
    config = ForecasterConfig.of(small.recipe(), num_static=3, num_events=7)
    objective = Objective(Forecaster(config))
    decaying, free = adamw(objective, TrainingConfig(weight_decay=0.3)).param_groups
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all("weight" in names[id(p)] and p.ndim >= 2 for p in decaying["params"])
    assert "forecaster.heads.weight_2" in {names[id(p)] for p in decaying["params"]}
    kept = {names[id(p)] for p in free["params"]}
    assert {"log_variance_U", "forecaster.positions.table", "forecaster.heads.bias_1"} <= kept
    assert len(decaying["params"]) + len(free["params"]) == len(names)


def test_adamw_matches_a_literal_step() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    before, config = layer.weight.detach().clone(), TrainingConfig(weight_decay=0.1)
    optimiser = adamw(layer, config)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    decayed = before * (1 - config.learning_rate * 0.1)
    # After one step the bias-corrected moments are the gradient and its square.
    torch.testing.assert_close(
        layer.weight.detach(), decayed - config.learning_rate, atol=1e-7, rtol=0
    )
