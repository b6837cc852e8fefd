"""The blocks that every part of the forecaster is made of.

Shape suffixes: B batch, Q queries, K keys, D model width, H heads, d = D / H.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lumos.config import ModelConfig
from lumos.model.positions import Turned

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


@dataclass(frozen=True)
class When:
    """How the queries and keys of an attention stand in time.

    Attributes:
        scores: Added to their products, shape (B or 1, H or 1, Q, K); minus infinity hides.
        is_causal: Whether query n sees keys 0 .. n only; not together with ``scores``.
        turned: Turns both by their days.
        query_days: Shape (Q,) or (B, Q).
        key_days: Shape (K,).
    """

    scores: Tensor | None = None
    is_causal: bool = False
    turned: Turned | None = None
    query_days: Tensor | None = None
    key_days: Tensor | None = None


class Attention(nn.Module):
    """Multi-head attention of queries over a memory (eq. 6-9)."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = linear(d_model, d_model)
        self.key_and_value = linear(d_model, 2 * d_model)
        self.out = linear(d_model, d_model)

    def forward(self, queries_BQD: Tensor, memory_BKD: Tensor, when: When) -> Tensor:
        """Mix the memory for each query; shape (B, Q, D)."""
        query = self._heads(self.query(queries_BQD))
        key, value = (self._heads(x) for x in self.key_and_value(memory_BKD).chunk(2, dim=-1))
        if when.turned is not None:
            assert when.query_days is not None
            assert when.key_days is not None
            query = when.turned(query, when.query_days)
            key = when.turned(key, when.key_days)
        scores = None if when.scores is None else when.scores.to(query.dtype)
        mixed_BHQd = F.scaled_dot_product_attention(
            query, key, value, attn_mask=scores, is_causal=when.is_causal
        )
        mixed: Tensor = self.out(mixed_BHQd.transpose(1, 2).flatten(2))
        return mixed

    def _heads(self, x_BKD: Tensor) -> Tensor:
        num_users, num_days, width = x_BKD.shape
        size = width // self.num_heads  # -1 would be ambiguous in an empty batch
        return x_BKD.view(num_users, num_days, self.num_heads, size).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm: attention, then SwiGLU, each added to what came in.

    Over itself it is the encoder's layer; over a memory the decoder's, in which days stay
    independent of each other.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.d_model)
        self.attention = Attention(config.d_model, config.num_heads)
        self.norm_feed = nn.LayerNorm(config.d_model)
        self.feed = SwiGLU(config.d_model, config.d_ff)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BQD: Tensor, when: When, memory_BKD: Tensor | None = None) -> Tensor:
        """Keep the shape (B, Q, D)."""
        normed = self.norm_attention(x_BQD)
        attended = self.attention(normed, normed if memory_BKD is None else memory_BKD, when)
        x_BQD = x_BQD + self.dropout(attended)
        out: Tensor = x_BQD + self.dropout(self.feed(self.norm_feed(x_BQD)))
        return out
