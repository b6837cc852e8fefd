"""Lets each horizon day look at the whole history, and at no other horizon day (eq. 5-9).

Shape suffixes: B users, M origins, Q = M x F horizon days, T history days, D model width.
"""

import torch
from torch import Tensor, nn

from lumos.config import ModelConfig
from lumos.model.layers import Block, When
from lumos.model.positions import DecoderTiming


class Decoder(nn.Module):
    """A stack of layers and a last norm.

    All days are decoded at once: their events are known in advance, so nothing is fed back
    and one day's error cannot reach the next.
    """

    def __init__(self, config: ModelConfig, history_days: int, horizon_days: int) -> None:
        super().__init__()
        layers = config.num_decoder_layers
        spans = history_days, horizon_days
        self.layers = nn.ModuleList(Block(config) for _ in range(layers))
        self.timing = nn.ModuleList(DecoderTiming(config, *spans) for _ in range(layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x_BQD: Tensor, memory_BTD: Tensor, origin_BM: Tensor, day_BQ: Tensor
    ) -> Tensor:
        """States of the horizon days, shape (B, Q, D).

        Args:
            x_BQD: Their tokens, origin by origin.
            memory_BTD: The encoded history.
            origin_BM: Last history day that each origin sees.
            day_BQ: Number of each horizon day, counted like those of the history.
        """
        days = torch.arange(memory_BTD.shape[1], device=memory_BTD.device)
        for layer, timing in zip(self.layers, self.timing, strict=True):
            assert isinstance(timing, DecoderTiming)
            when = When(
                scores=timing.scores(origin_BM),
                turned=timing.turned,
                query_days=day_BQ,
                key_days=days,
            )
            x_BQD = layer(x_BQD, when, memory_BTD)
        states: Tensor = self.norm(x_BQD)
        return states
