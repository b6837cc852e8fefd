"""The blocks that every part of the forecaster is made of.

Shape suffixes: B batch, Q queries, K keys, D model width, H heads, d = D / H.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
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
        layers += [linear(inner, outer, gain=RELU_GAIN), nn.ReLU(inplace=True)]
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


def _mix_on_cpu(query_BHQd: Tensor, key_BHKd: Tensor, value_BHKd: Tensor, scores: Tensor) -> Tensor:
    """What ``scaled_dot_product_attention`` gives where scores are learned, but sooner.

    PyTorch has no fused kernel for that on a CPU, and its general one goes over all weights three
    times more to find queries that see nothing. Every query of ours sees a day.
    """
    scaled = query_BHQd * query_BHQd.shape[-1] ** -0.5
    weights_BHQK = torch.softmax((scaled @ key_BHKd.transpose(-2, -1)).add_(scores), dim=-1)
    return weights_BHQK @ value_BHKd


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
        if self._is_short(query, when):
            return self._look_once(query, memory_BKD, when)
        key, value = (self._heads(x) for x in self.key_and_value(memory_BKD).chunk(2, dim=-1))
        if when.turned is not None:
            assert when.query_days is not None
            assert when.key_days is not None
            query = when.turned(query, when.query_days)
            key = when.turned(key, when.key_days)
        scores = None if when.scores is None else when.scores.to(query.dtype)
        if scores is not None and scores.requires_grad and query.device.type == "cpu":
            mixed_BHQd = _mix_on_cpu(query, key, value, scores)
        else:
            mixed_BHQd = F.scaled_dot_product_attention(
                query, key, value, attn_mask=scores, is_causal=when.is_causal
            )
        mixed: Tensor = self.out(mixed_BHQd.transpose(1, 2).flatten(2))
        return mixed

    def _is_short(self, query_BHQd: Tensor, when: When) -> bool:
        """Whether so little is asked that keys and values cost more than the questions.

        Never where gradients are wanted: a training has many origins, and asks much.
        """
        _, num_heads, num_queries, size = query_BHQd.shape
        width = num_heads * size
        return (
            num_heads * num_queries < width + num_queries
            and not torch.is_grad_enabled()
            and not when.is_causal
            and when.turned is None
            and type(self.key_and_value) is nn.Linear  # quantised, it has no plain weight
        )

    def _look_once(self, query_BHQd: Tensor, memory_BKD: Tensor, when: When) -> Tensor:
        """The same without keys and values: the memory itself is both, for all heads at once.

        q . (W_k m + b_k) = (W_k^T q) . m + q . b_k, whose last term is the same for every key and
        so lost in the softmax; and what is mixed of W_v m + b_v is W_v (mixed m) + b_v.
        """
        num_users, num_heads, num_queries, size = query_BHQd.shape
        width = num_heads * size
        key_DD, value_DD = self.key_and_value.weight.chunk(2)
        value_D = self.key_and_value.bias.chunk(2)[1]
        asked_BHQD = query_BHQd @ key_DD.view(num_heads, size, width).to(query_BHQd.dtype)
        scores = None
        if when.scores is not None:
            scores = when.scores.to(query_BHQd.dtype).expand(-1, num_heads, num_queries, -1)
            scores = scores.flatten(1, 2)[:, None]
        mixed_B1XD = F.scaled_dot_product_attention(
            asked_BHQD.flatten(1, 2)[:, None],
            memory_BKD[:, None],
            memory_BKD[:, None],
            attn_mask=scores,
            scale=size**-0.5,
        )
        mixed_BHQD = mixed_B1XD.view(num_users, num_heads, num_queries, width)
        value_HDd = value_DD.view(num_heads, size, width).transpose(1, 2)
        mixed_BHQd = mixed_BHQD @ value_HDd + value_D.view(num_heads, 1, size)
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
