"""The published form as its equations read (SPEC: model, eq. 1-9), for all users and days at once.

What the shipped network shares, this computes anew: every day of every user embeds its own events
and activity, modalities are concatenated, each attention head has its softmax and each activity
column its own network. Norms, softmax and SiLU are PyTorch's, and users and days are rows of the
same matrices, so that it is what a careful reader of the paper would write: a fair peer. That it
says the same as the slow, plain `tests.model.literal` is checked before anything is timed.

Shape suffixes: B users, T history days, F horizon days, Q queries, K keys, U activity columns,
D model width, d = D / heads.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lumos.accio.dense import Batch
from lumos.model.forecaster import ForecasterConfig

State = Mapping[str, Tensor]


def forecast(state: State, config: ForecasterConfig, batch: Batch) -> Tensor:
    """What the published form says of windows with one origin, shape (B, F, U).

    Args:
        state: Its parameters by name, as :class:`~lumos.model.forecaster.Forecaster` names them.
        config: Learned positions, a bidirectional encoder of days, two-layer heads.
        batch: As the network takes it; days and events are laid out anew for each user.
    """
    num_days = config.history_days
    events_BLC = batch.events_EC[batch.event_index_BL]
    positions_LD = state["positions.table"]
    memory_BTD = _history(state, batch, events_BLC[:, :num_days]) + positions_LD[:num_days]
    for layer in range(config.model.num_encoder_layers):
        memory_BTD = _block(state, config, f"encoder.layers.{layer}", memory_BTD, None)
    memory_BTD = _norm(state, "encoder.norm", memory_BTD)
    future_BFC = events_BLC[:, num_days:]
    y_BFD = _mlp(state, "tokens.event_future", future_BFC) + positions_LD[num_days:]
    for layer in range(config.model.num_decoder_layers):
        y_BFD = _block(state, config, f"decoder.layers.{layer}", y_BFD, memory_BTD)
    y_BFD = _norm(state, "decoder.norm", y_BFD)
    columns = [_head(state, number, y_BFD) for number in range(len(config.columns))]
    return torch.stack(columns, dim=-1)


def _history(state: State, batch: Batch, events_BTC: Tensor) -> Tensor:
    """Eq. 1-2: each modality's MLP for every user and day, then the MLP of all three."""
    is_registered_BT1 = batch.is_registered_BT[..., None]
    activity_BTU = torch.where(is_registered_BT1, batch.history_BTU, state["tokens.padding_U"])
    static_BS = _mlp(state, "tokens.static", batch.static_BS)
    parts = [
        _mlp(state, "tokens.user", activity_BTU),
        static_BS[:, None].expand(-1, events_BTC.shape[1], -1),
        _mlp(state, "tokens.event", events_BTC),
    ]
    return _mlp(state, "tokens.project", torch.cat(parts, dim=-1))


def _block(
    state: State, config: ForecasterConfig, name: str, x_BQD: Tensor, memory_BKD: Tensor | None
) -> Tensor:
    """Pre-norm attention over a memory (its own if ``None``), then pre-norm SwiGLU."""
    normed_BQD = _norm(state, f"{name}.norm_attention", x_BQD)
    memory_BKD = normed_BQD if memory_BKD is None else memory_BKD
    heads = config.model.num_heads
    x_BQD = x_BQD + _attend(state, f"{name}.attention", normed_BQD, memory_BKD, heads)
    normed_BQD = _norm(state, f"{name}.norm_feed", x_BQD)
    weights = state[f"{name}.feed.gate_and_value.weight"].chunk(2)
    biases = state[f"{name}.feed.gate_and_value.bias"].chunk(2)
    gate, value = (F.linear(normed_BQD, w, b) for w, b in zip(weights, biases, strict=True))
    return x_BQD + _linear(state, f"{name}.feed.out", F.silu(gate) * value)


def _attend(state: State, name: str, x_BQD: Tensor, memory_BKD: Tensor, num_heads: int) -> Tensor:
    """softmax(q k / sqrt(d)) v of each head (eq. 6-9)."""
    query_BQD = _linear(state, f"{name}.query", x_BQD)
    weights = state[f"{name}.key_and_value.weight"].chunk(2)
    biases = state[f"{name}.key_and_value.bias"].chunk(2)
    key_BKD, value_BKD = (F.linear(memory_BKD, w, b) for w, b in zip(weights, biases, strict=True))
    mixed = []
    for query, key, value in zip(
        *(x.chunk(num_heads, dim=-1) for x in (query_BQD, key_BKD, value_BKD)), strict=True
    ):
        scores_BQK = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        mixed.append(torch.softmax(scores_BQK, dim=-1) @ value)
    return _linear(state, f"{name}.out", torch.cat(mixed, dim=-1))


def _head(state: State, number: int, x_BFD: Tensor) -> Tensor:
    """One column's network: two hidden layers with ReLU, then one scalar a day."""
    for layer in (1, 2):
        weight, bias = (state[f"heads.{kind}_{layer}"][number] for kind in ("weight", "bias"))
        x_BFD = F.relu(x_BFD @ weight + bias)
    return (x_BFD @ state["heads.weight_out"][number] + state["heads.bias_out"][number])[..., 0]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _mlp(state: State, name: str, x: Tensor) -> Tensor:
    """Linear layers with ReLU between them; ``name`` numbers ReLUs as layers too."""
    layer = 0
    while f"{name}.{layer}.weight" in state:
        x = _linear(state, f"{name}.{layer}", F.relu(x) if layer else x)
        layer += 2
    return x


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])
