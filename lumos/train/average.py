"""A running average of the weights (EMA): what is judged and kept, while the last ones train on.

Early on the average must not remember weights that were drawn by chance: the decay of update n
is ``min(decay, (1 + n) / (10 + n))``, as in TensorFlow's ``ExponentialMovingAverage``
(``num_updates``). So it spans about the last tenth of the steps until ``decay`` takes over, and
it is a function of the step alone: there is no count to save.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Weights beside those of a module; with decay 0 they are its last ones."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = dict(module.named_parameters())
        self.weights = copies(self._live)

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Move towards the module's weights, after step ``number`` (from 0)."""
        decay = min(self._decay, (1 + number) / (10 + number))
        live: list[Tensor] = [self._live[name] for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from saved weights."""
        put(weights, self.weights)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the module have the average inside the block."""
        kept = copies(self._live)
        put(self.weights, self._live)
        try:
            yield
        finally:
            put(kept, self._live)

    def keep(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Let the module have the average, or these weights, for good."""
        put(weights or self.weights, self._live)


def copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in memory of their own."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


@torch.no_grad()
def put(weights: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copy weights into tensors of the same names."""
    for name, tensor in into.items():
        tensor.copy_(weights[name])
