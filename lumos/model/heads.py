"""One head an activity column: two hidden layers with ReLU, then one scalar (SPEC, model 7).

The heads are separate networks, computed together as batched matrix products.

Shape suffixes: B users, F horizon days, U activity columns, D model width, N = B x F.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.model.layers import RELU_GAIN

FIRST_OUTPUT_GAIN = 0.1  # first forecasts are the averages that ``start_at`` gives


class Heads(nn.Module):
    """(B, F, D) -> (B, F, U): logits of binary columns, scaled values of continuous ones."""

    def __init__(self, d_model: int, num_columns: int) -> None:
        super().__init__()

        def start(*shape: int, gain: float) -> nn.Parameter:
            deviation = gain / math.sqrt(d_model)
            return nn.Parameter(torch.randn(num_columns, *shape) * deviation)

        self.weight_1 = start(d_model, d_model, gain=RELU_GAIN)
        self.bias_1 = start(1, d_model, gain=0)
        self.weight_2 = start(d_model, d_model, gain=RELU_GAIN)
        self.bias_2 = start(1, d_model, gain=0)
        self.weight_out = start(d_model, 1, gain=FIRST_OUTPUT_GAIN)
        self.bias_out = start(1, 1, gain=0)

    def start_at(self, output_U: Tensor) -> None:
        """Begin training from the columns' own averages instead of from zero."""
        with torch.no_grad():
            self.bias_out.copy_(output_U[:, None, None])

    def forward(self, states_BFD: Tensor) -> Tensor:
        """One scalar a column, shape (B, F, U)."""
        num_columns = len(self.bias_out)
        x_UND = states_BFD.flatten(0, 1).expand(num_columns, -1, -1)
        x_UND = F.relu(torch.baddbmm(self.bias_1, x_UND, self.weight_1))
        x_UND = F.relu(torch.baddbmm(self.bias_2, x_UND, self.weight_2))
        out_UN = torch.baddbmm(self.bias_out, x_UND, self.weight_out).squeeze(-1)
        num_users, num_days, _ = states_BFD.shape
        return out_UN.T.reshape(num_users, num_days, num_columns)
