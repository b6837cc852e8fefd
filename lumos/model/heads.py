"""One head a question: two hidden layers with ReLU, then one scalar (SPEC, model 7).

The heads are separate networks, computed together as batched matrix products.

Shape suffixes: U questions, N states, D model width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.model.layers import RELU_GAIN

FIRST_OUTPUT_GAIN = 0.1  # first forecasts are the averages that ``start_at`` gives


class Heads(nn.Module):
    """States in, one scalar a question out: a logit, or a scaled value."""

    def __init__(self, d_model: int, num_questions: int) -> None:
        super().__init__()

        def start(*shape: int, gain: float) -> nn.Parameter:
            deviation = gain / math.sqrt(d_model)
            return nn.Parameter(torch.randn(num_questions, *shape) * deviation)

        self.weight_1 = start(d_model, d_model, gain=RELU_GAIN)
        self.bias_1 = start(1, d_model, gain=0)
        self.weight_2 = start(d_model, d_model, gain=RELU_GAIN)
        self.bias_2 = start(1, d_model, gain=0)
        self.weight_out = start(d_model, 1, gain=FIRST_OUTPUT_GAIN)
        self.bias_out = start(1, 1, gain=0)

    def start_at(self, output_U: Tensor) -> None:
        """Begin training from the questions' average answers instead of from zero."""
        with torch.no_grad():
            self.bias_out.copy_(output_U[:, None, None])

    def forward(self, states_UND: Tensor) -> Tensor:
        """One scalar a question and state.

        Args:
            states_UND: The states each question is asked of; shape (1, N, D) where all are
                asked of the same ones.

        Returns:
            Shape (N, U).
        """
        x_UND = states_UND.expand(len(self.bias_out), -1, -1)
        x_UND = F.relu(torch.baddbmm(self.bias_1, x_UND, self.weight_1))
        x_UND = F.relu(torch.baddbmm(self.bias_2, x_UND, self.weight_2))
        return torch.baddbmm(self.bias_out, x_UND, self.weight_out).squeeze(-1).T
