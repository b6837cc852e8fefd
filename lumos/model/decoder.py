"""Lets each horizon day look at the whole history, and at no other horizon day (eq. 5-9)."""

from torch import Tensor, nn

from lumos.config import ModelConfig
from lumos.model.layers import Attention, SwiGLU


class DecoderLayer(nn.Module):
    """Pre-norm: cross-attention, then SwiGLU. No self-attention: days stay independent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.d_model)
        self.attention = Attention(config.d_model, config.num_heads)
        self.norm_feed = nn.LayerNorm(config.d_model)
        self.feed = SwiGLU(config.d_model, config.d_ff)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BFD: Tensor, memory_BTD: Tensor) -> Tensor:
        """Keep the shape (B, F, D)."""
        attended = self.attention(self.norm_attention(x_BFD), memory_BTD)
        x_BFD = x_BFD + self.dropout(attended)
        out: Tensor = x_BFD + self.dropout(self.feed(self.norm_feed(x_BFD)))
        return out


class Decoder(nn.Module):
    """A stack of layers and a last norm.

    All days are decoded at once: their events are known in advance, so nothing is fed back
    and one day's error cannot reach the next.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x_BFD: Tensor, memory_BTD: Tensor) -> Tensor:
        """States of the horizon days, shape (B, F, D)."""
        for layer in self.layers:
            x_BFD = layer(x_BFD, memory_BTD)
        states: Tensor = self.norm(x_BFD)
        return states
