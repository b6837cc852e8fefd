"""The blocks that every part of the forecaster is made of.

Shape suffixes: B batch, Q queries, K keys, D model width, H heads.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = math.sqrt(2)  # ReLU halves the variance


def linear(inner: int, outer: int, *, gain: float = 1.0) -> nn.Linear:
    """A linear layer that keeps the size of what it is given, with no bias at first.

    PyTorch's own start shrinks a signal to a third in each layer and adds biases of that size:
    after four layers of token MLPs, next to nothing of the activity would be left.
    """
    layer = nn.Linear(inner, outer)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inner))
    nn.init.zeros_(layer.bias)
    return layer


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths (input first), ReLU between them, none after the last."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [linear(inner, outer, gain=RELU_GAIN), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SwiGLU(nn.Module):
    """Position-wise feed-forward: ``out(silu(gate(x)) * value(x))``."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_and_value = linear(d_model, 2 * d_ff)
        self.out = linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (..., D)."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        out: Tensor = self.out(F.silu(gate) * value)
        return out


class Attention(nn.Module):
    """Multi-head attention of queries over a memory, without any mask (eq. 6-9)."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = linear(d_model, d_model)
        self.key_and_value = linear(d_model, 2 * d_model)
        self.out = linear(d_model, d_model)

    def forward(self, queries_BQD: Tensor, memory_BKD: Tensor) -> Tensor:
        """Mix the memory for each query; shape (B, Q, D)."""
        query = self._heads(self.query(queries_BQD))
        key, value = self.key_and_value(memory_BKD).chunk(2, dim=-1)
        mixed_BHQD = F.scaled_dot_product_attention(query, self._heads(key), self._heads(value))
        mixed: Tensor = self.out(mixed_BHQD.transpose(1, 2).flatten(2))
        return mixed

    def _heads(self, x_BKD: Tensor) -> Tensor:
        num_users, num_days, width = x_BKD.shape
        size = width // self.num_heads  # -1 would be ambiguous in an empty batch
        return x_BKD.view(num_users, num_days, self.num_heads, size).transpose(1, 2)
