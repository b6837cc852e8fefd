"""Where in time a token stands (SPEC, model 4): added to tokens, turned into them, or in attention.

Days are numbered from the first of the history; a horizon day follows the last day that its
origin sees.

Shape suffixes: B batch, T history days, Q horizon days of all origins, D model width, H heads,
R distances, K keys.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.config import ModelConfig

_WEEK = 7
_BASE = 10_000.0


class AddedPositions(nn.Module):
    """A vector for each day of the span, added to the day's token.

    ``learned``: free, zero at first. ``sinusoidal``: Vaswani et al. 2017. ``tape``: the same with
    frequencies times ``d_model / length`` (Foumani et al. 2023, eq. 13). ``absolute``: a learned
    direction times the share of the span that has passed.
    """

    fixed_LD: Tensor

    def __init__(self, kind: str, num_days: int, d_model: int) -> None:
        super().__init__()
        self.kind, self.num_days = kind, num_days
        if kind == "learned":
            self.table = nn.Parameter(torch.zeros(num_days, d_model))
        elif kind == "absolute":
            self.table = nn.Parameter(torch.randn(d_model) / math.sqrt(d_model))
        else:
            stretch = d_model / num_days if kind == "tape" else 1.0
            fixed = sinusoids(num_days, d_model, stretch)
            self.register_buffer("fixed_LD", fixed, persistent=False)

    def vectors(self) -> Tensor:
        """Of all days of the span, shape (L, D)."""
        if self.kind == "learned":
            return self.table
        if self.kind == "absolute":
            return torch.arange(self.num_days, device=self.table.device)[:, None] * (
                self.table / self.num_days
            )
        return self.fixed_LD


def sinusoids(num_days: int, d_model: int, stretch: float) -> Tensor:
    """Sines in even places, cosines in odd ones, shape (L, D)."""
    place = torch.arange(0, d_model, 2)
    frequency = stretch * torch.exp(-math.log(_BASE) * place / d_model)
    angle = torch.arange(num_days)[:, None] * frequency
    both = torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1)
    return both.flatten(1)[:, :d_model]


class Turned:
    """RoPE (Su et al. 2021): pairs of a head's numbers turned by an angle that grows with the day.

    A pair is one number of the head's first half and one of its second.
    """

    def __init__(self, size: int) -> None:
        self._frequency = torch.exp(-math.log(_BASE) * torch.arange(0, size, 2) / size)

    def __call__(self, x_BHKd: Tensor, days: Tensor) -> Tensor:
        """Turn queries or keys; ``days`` has shape (K,) or (B, K)."""
        angle = days[..., None] * self._frequency.to(days.device)
        angle = angle if angle.dim() == 2 else angle[:, None]
        cos, sin = torch.cos(angle), torch.sin(angle)
        first, second = x_BHKd.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class DistanceBias(nn.Module):
    """What attention adds to a score for each distance in time, a head at a time.

    ALiBi's line (Press et al. 2021), a free number a distance, and one a distance modulo a week,
    so that the same weekday can be found however far back.
    """

    slope_H: Tensor
    distance_R: Tensor

    def __init__(self, num_heads: int, distance_R: Tensor, unit_days: int = 1) -> None:
        """Distances are counted in units of so many days, positive back in time."""
        super().__init__()
        slopes = 2.0 ** (-8.0 * torch.arange(1, num_heads + 1) / num_heads)
        self.register_buffer("slope_H", slopes, persistent=False)
        self.register_buffer("distance_R", distance_R, persistent=False)
        self.bias_free = nn.Parameter(torch.zeros(num_heads, len(distance_R)))
        # A unit of whole weeks has one weekday only.
        has_weekdays = unit_days % _WEEK != 0
        self.bias_week = nn.Parameter(torch.zeros(num_heads, _WEEK)) if has_weekdays else None
        self._unit_days = unit_days

    def forward(self) -> Tensor:
        """Of each distance, shape (H, R)."""
        bias_HR = self.bias_free - self.slope_H[:, None] * self.distance_R.abs()
        if self.bias_week is not None:
            bias_HR = bias_HR + self.bias_week[:, self.distance_R * self._unit_days % _WEEK]
        return bias_HR


class EncoderTiming(nn.Module):
    """What the encoder's attention knows of time, for one layer."""

    def __init__(self, config: ModelConfig, num_tokens: int) -> None:
        super().__init__()
        self.is_causal = config.encoder == "causal"
        self.num_tokens, self.unit_days = num_tokens, config.patch_days
        self.turned = Turned(config.d_model // config.num_heads) if is_rope(config) else None
        self.bias = None
        if config.positions == "distance":
            back = torch.arange(num_tokens)
            # A bidirectional layer tells before from after: 0, 1 .. K - 1, then 1 - K .. -1.
            both_ways = torch.cat([back, back[1:] - num_tokens])
            distance_R = back if self.is_causal else both_ways
            self.bias = DistanceBias(config.num_heads, distance_R, config.patch_days)

    def scores(self) -> Tensor | None:
        """Added to the scores of queries and keys, shape (H or 1, K, K); ``None`` for nothing."""
        bias_HR = None if self.bias is None else self.bias()
        if bias_HR is None:
            return None
        token = torch.arange(self.num_tokens, device=bias_HR.device)
        distance = token[:, None] - token
        if not self.is_causal:
            both_ways: Tensor = bias_HR[:, distance % bias_HR.shape[1]]
            return both_ways
        back: Tensor = bias_HR[:, distance.clamp(min=0)]
        return back.masked_fill(distance < 0, -math.inf)

    def days(self, device: torch.device) -> Tensor:
        """Day of each token, its last, shape (K,)."""
        return torch.arange(self.num_tokens, device=device) * self.unit_days + self.unit_days - 1


class DecoderTiming(nn.Module):
    """What the decoder's attention knows of time, for one layer."""

    def __init__(self, config: ModelConfig, history_days: int, horizon_days: int) -> None:
        super().__init__()
        self.history_days, self.horizon_days = history_days, horizon_days
        self.turned = Turned(config.d_model // config.num_heads) if is_rope(config) else None
        self.bias = None
        if config.positions == "distance":
            self.bias = DistanceBias(config.num_heads, torch.arange(history_days + horizon_days))

    def scores(self, origin_BM: Tensor) -> Tensor | None:
        """Added to the scores of horizon days and history days, shape (B or 1, H or 1, Q, T).

        Days after a query's origin are out of its sight. Origins recur, so each distinct one is
        laid out once and its block is copied; a block is a slice of the bias by distance.
        """
        num_origins = origin_BM.shape[1]
        if num_origins == 1:  # every origin is the last day
            return None if self.bias is None else self._blocks(origin_BM[:1, 0])
        distinct, which_BM = torch.unique(origin_BM, return_inverse=True)
        blocks_NHFT = self._blocks(distinct)
        num_heads, num_keys = blocks_NHFT.shape[1], blocks_NHFT.shape[-1]
        # Head by head, so that the blocks land where attention wants them.
        first_H = torch.arange(num_heads, device=distinct.device) * len(distinct)
        table = blocks_NHFT.transpose(0, 1).flatten(0, 1).flatten(1)
        picked_BHMX = F.embedding(which_BM[:, None] + first_H[:, None], table)
        num_queries = which_BM.shape[1] * self.horizon_days  # -1 would be ambiguous for nobody
        return picked_BHMX.view(len(which_BM), num_heads, num_queries, num_keys)

    def _blocks(self, origin_N: Tensor) -> Tensor:
        """Of the horizon days of these origins, shape (N, H or 1, F, T)."""
        key = torch.arange(self.history_days, device=origin_N.device)
        ahead = torch.arange(1, self.horizon_days + 1, device=origin_N.device)
        distance = origin_N[:, None, None] + ahead[:, None] - key
        is_unseen = (key > origin_N[:, None])[:, None, None]
        if self.bias is None:
            zeros = torch.zeros(distance.shape, device=origin_N.device)[:, None]
            return zeros.masked_fill(is_unseen, -math.inf)
        blocks: Tensor = self.bias()[:, distance.clamp(min=0)].transpose(0, 1)
        return blocks.masked_fill(is_unseen, -math.inf)


def is_rope(config: ModelConfig) -> bool:
    """Whether queries and keys are turned."""
    return config.positions == "rope"


def is_added(config: ModelConfig) -> bool:
    """Whether positions are added to tokens."""
    return config.positions in ("learned", "sinusoidal", "tape", "absolute")
