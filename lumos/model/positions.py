"""Where in time a token stands (SPEC, model 4).

Shape suffixes: B batch, T history days, F horizon days, D model width.
"""

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A free vector for each day of the span, zero at first; the future follows the history."""

    def __init__(self, history_days: int, horizon_days: int, d_model: int) -> None:
        super().__init__()
        self.history_days = history_days
        self.table = nn.Parameter(torch.zeros(history_days + horizon_days, d_model))

    def add_to_history(self, tokens_BTD: Tensor) -> Tensor:
        """Tokens with the positions of the history days added."""
        return tokens_BTD + self.table[: self.history_days]

    def add_to_future(self, tokens_BFD: Tensor) -> Tensor:
        """Tokens with the positions of the horizon days added."""
        return tokens_BFD + self.table[self.history_days :]
