"""The training objective (eq. 10): every column's own loss, weighted by a learned variance.

``sum_i L_i / (2 sigma_i^2) + log sigma_i^2``. Kendall's original has ``log sigma_i``; we follow
the paper, so that at the optimum ``sigma_i^2 = L_i / 2``. L_i is binary cross-entropy for a
binary column; for a continuous one, squared error over the days on which the user is active
(zero-masking), so that its head learns E[value | active].

Shape suffixes: B users, F horizon days, U activity columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.accio.dense import Batch
from lumos.model.forecaster import Forecast, Forecaster


def column_loss_sums(forecast: Forecast, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss of each column summed over days that count, and how many days those are.

    Sums, not means, so that processes with different numbers of active days can be added up
    to what one process would have computed.

    Returns:
        Two float32 tensors of shape (U,).
    """
    is_binary_U = torch.tensor(forecast.is_binary, device=batch.weight_B.device)
    outputs_BFU = forecast.outputs_BFU.float()
    weight_BF1 = batch.weight_B[:, None, None].expand(*outputs_BFU.shape[:2], 1)
    counts_BFU = torch.where(is_binary_U, weight_BF1, weight_BF1 * batch.is_active_BF[..., None])
    losses_BFU = torch.where(
        is_binary_U,
        F.binary_cross_entropy_with_logits(
            outputs_BFU, torch.where(is_binary_U, batch.targets_BFU, 0.0), reduction="none"
        ),
        (outputs_BFU - batch.targets_BFU).square(),
    )
    return (losses_BFU * counts_BFU).sum((0, 1)), counts_BFU.sum((0, 1))


class Objective(nn.Module):
    """The forecaster with its learned variances: ``Batch -> (sums, counts)`` for DDP to wrap."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.log_variance_U = nn.Parameter(torch.zeros(len(forecaster.config.is_binary)))

    def start_at(self, output_U: Tensor, log_variance_U: Tensor) -> None:
        """Begin from forecasts of the averages, each column with the weight that fits them."""
        self.forecaster.heads.start_at(output_U)
        with torch.no_grad():
            self.log_variance_U.copy_(log_variance_U)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Column loss sums, their counts, and log sigma^2, each of shape (U,)."""
        sums_U, counts_U = column_loss_sums(self.forecaster(batch), batch)
        return sums_U, counts_U, self.log_variance_U


def uncertainty_weighted(
    losses_U: Tensor, log_variance_U: Tensor, is_seen_U: Tensor | None = None
) -> Tensor:
    """Eq. 10, a scalar.

    Args:
        losses_U: L_i.
        log_variance_U: log sigma_i^2.
        is_seen_U: False for a column without a single day that counts in the batch: it has no
            loss, and its term is left out, or sigma would shrink for want of evidence.
    """
    terms_U = losses_U * torch.exp(-log_variance_U) / 2 + log_variance_U
    return (terms_U if is_seen_U is None else torch.where(is_seen_U, terms_U, 0.0)).sum()
