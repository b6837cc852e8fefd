"""Reads the whole history (SPEC, model 5), day by day or in patches of several days.

Shape suffixes: B users, T history days, P = T / patch_days tokens, D model width.
"""

import torch
from torch import Tensor, nn

from lumos.config import ModelConfig
from lumos.model.layers import Block, When, linear
from lumos.model.positions import EncoderTiming


class Encoder(nn.Module):
    """A stack of layers and a last norm; with patches, what the decoder reads is days again.

    A patch is one linear map of its days' tokens. Each day that goes out is its patch's encoded
    state and its own token, normed: the decoder can tell the days of a week apart.
    """

    def __init__(self, config: ModelConfig, history_days: int) -> None:
        super().__init__()
        self.patch_days = config.patch_days
        num_tokens = history_days // config.patch_days
        layers = config.num_encoder_layers
        self.layers = nn.ModuleList(Block(config) for _ in range(layers))
        self.timing = nn.ModuleList(EncoderTiming(config, num_tokens) for _ in range(layers))
        self.norm = nn.LayerNorm(config.d_model)
        if config.patch_days > 1:
            self.patch = linear(config.patch_days * config.d_model, config.d_model)
            self.norm_days = nn.LayerNorm(config.d_model)

    def forward(self, days_BTD: Tensor) -> Tensor:
        """Encoded history of shape (B, T, D)."""
        num_users, num_days, width = days_BTD.shape
        x_BPD = days_BTD
        if self.patch_days > 1:
            num_patches = num_days // self.patch_days
            x_BPD = self.patch(days_BTD.reshape(num_users, num_patches, self.patch_days * width))
        for layer, timing in zip(self.layers, self.timing, strict=True):
            assert isinstance(timing, EncoderTiming)
            x_BPD = layer(x_BPD, _when(timing, x_BPD.device))
        encoded: Tensor = self.norm(x_BPD)
        if self.patch_days == 1:
            return encoded
        by_day = encoded.repeat_interleave(self.patch_days, dim=1) + days_BTD
        days: Tensor = self.norm_days(by_day)
        return days


def _when(timing: EncoderTiming, device: torch.device) -> When:
    scores = timing.scores()
    days = timing.days(device)
    return When(
        scores=None if scores is None else scores[None],
        is_causal=timing.is_causal and scores is None,
        turned=timing.turned,
        query_days=days,
        key_days=days,
    )
