"""Reads the whole history, every day seeing every other (SPEC, model 5)."""

from torch import Tensor, nn

from lumos.config import ModelConfig
from lumos.model.layers import Attention, SwiGLU


class EncoderLayer(nn.Module):
    """Pre-norm: self-attention, then SwiGLU, each added to what came in."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.d_model)
        self.attention = Attention(config.d_model, config.num_heads)
        self.norm_feed = nn.LayerNorm(config.d_model)
        self.feed = SwiGLU(config.d_model, config.d_ff)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Keep the shape (B, T, D)."""
        normed = self.norm_attention(x_BTD)
        x_BTD = x_BTD + self.dropout(self.attention(normed, normed))
        out: Tensor = x_BTD + self.dropout(self.feed(self.norm_feed(x_BTD)))
        return out


class Encoder(nn.Module):
    """A stack of layers and a last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Encoded history of shape (B, T, D)."""
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        encoded: Tensor = self.norm(x_BTD)
        return encoded
