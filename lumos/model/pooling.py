"""A user in one vector: the states of the days of a history, pooled (SPEC: embeddings).

Shape suffixes: B users, T history days, D model width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumos.forms import EmbeddingConfig


def pool(states_BTD: Tensor, is_known_BT: Tensor, config: EmbeddingConfig) -> Tensor:
    """One vector a user, shape (B, D), of the days on which the user existed.

    ``ema`` weighs them by softmax(decay * t), t from 0 on the window's first day to 1 on its
    last: a day is worth e times what the day T / decay before it is.

    Args:
        states_BTD: Oldest day first.
        is_known_BT: False before registration; such a day has no weight at all.
        config: How.

    Returns:
        Zeros for whoever has no such day.
    """
    is_known_BT1 = is_known_BT[..., None]
    if config.pooling == "max":
        lowest = torch.finfo(states_BTD.dtype).min
        highest_BD = states_BTD.masked_fill(~is_known_BT1, lowest).amax(1)
        return torch.where(is_known_BT.any(1, keepdim=True), highest_BD, 0.0)
    decay = config.decay if config.pooling == "ema" else 0.0
    ages_T = torch.linspace(-1, 0, states_BTD.shape[1], device=states_BTD.device)
    weight_BT = is_known_BT * torch.exp(decay * ages_T)
    share_BT = weight_BT / weight_BT.sum(1, keepdim=True).clamp(min=torch.finfo().tiny)
    # Not a product alone: what stands on a day that is not there may be no number.
    known_BTD = states_BTD.masked_fill(~is_known_BT1, 0.0)
    return torch.einsum("bt,btd->bd", share_BT.to(known_BTD.dtype), known_BTD)


def day_weights(
    num_days_N: np.ndarray, history_days: int, config: EmbeddingConfig
) -> NDArray[np.float32]:
    """What the last day weighs in each user's vector, shape (N,); 1 for ``max``.

    Args:
        num_days_N: Days that each has existed, the last one too.
        history_days: T.
        config: How days are pooled.
    """
    if config.pooling == "max":
        return np.ones(len(num_days_N), np.float32)
    decay = config.decay if config.pooling == "ema" else 0.0
    ages_T = np.arange(history_days) / max(history_days - 1, 1)
    total_T = np.cumsum(np.exp(-decay * ages_T))
    return np.asarray(1 / total_T[np.clip(num_days_N, 1, history_days) - 1], np.float32)
