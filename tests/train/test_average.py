import pytest
import torch
from torch import nn

from lumos.train.average import Average


def layer(value: float) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_the_average_forgets_the_first_weights_and_then_decays_as_asked() -> None:
    module = layer(100.0)
    average = Average(module, 0.5)
    literal = 100.0
    for number in range(30):
        nn.init.constant_(module.weight, float(number))
        average.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        literal = decay * literal + (1 - decay) * number
        assert average.weights["weight"].item() == pytest.approx(literal, rel=1e-5)
    assert literal == pytest.approx(28, abs=0.01)  # a geometric series: 29 - .5 / (1 - .5)


def test_without_decay_the_average_is_the_last_weights() -> None:
    module = layer(1.0)
    average = Average(module, 0.0)
    nn.init.constant_(module.weight, 0.1)
    average.update(0)
    assert torch.equal(average.weights["weight"], module.weight)


def test_a_module_lent_the_average_gets_its_own_weights_back() -> None:
    module = layer(2.0)
    average = Average(module, 0.9)
    average.load({"weight": torch.tensor([[7.0]])})
    with average.in_place():
        assert module.weight.item() == 7
    assert module.weight.item() == 2
    average.keep()
    assert module.weight.item() == 7
