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

    def __init__(self, d_model: int, num_questions: int, num_layers: int = 2) -> None:
        """Give each question so many hidden layers; with none it is one linear read-out."""
        super().__init__()

        def start(*shape: int, gain: float) -> nn.Parameter:
            deviation = gain / math.sqrt(d_model)
            return nn.Parameter(torch.randn(num_questions, *shape) * deviation)

        self.num_layers = num_layers
        for layer in range(1, num_layers + 1):
            self.register_parameter(f"weight_{layer}", start(d_model, d_model, gain=RELU_GAIN))
            self.register_parameter(f"bias_{layer}", start(1, d_model, gain=0))
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
        num_questions = len(self.bias_out)
        if not self.num_layers and len(states_UND) == 1:
            return F.linear(states_UND[0], self.weight_out[..., 0], self.bias_out[:, 0, 0])
        x_UND = states_UND.expand(num_questions, -1, -1)
        for layer in range(1, self.num_layers + 1):
            weight, bias = (self.get_parameter(f"{what}_{layer}") for what in ("weight", "bias"))
            x_UND = F.relu(torch.baddbmm(bias, x_UND, weight))
        return torch.baddbmm(self.bias_out, x_UND, self.weight_out).squeeze(-1).T
