"""The training objective: every term's own loss, weighted by a learned variance or by hand.

Eq. 10: ``sum_i L_i / (2 sigma_i^2) + log sigma_i^2``. Kendall's original has ``log sigma_i``; we
follow the paper, so that at the optimum ``sigma_i^2 = L_i / 2``. L_i is binary cross-entropy for
a binary column; for a continuous one, squared error over the days on which the user is active
(zero-masking), so that its head learns E[value | active]. Beside the paper's terms stand those
of hazards (cross-entropy over the days until the first 1) and of tasks' heads (cross-entropy,
squared error, or absolute error for a median).

Shape suffixes: B users, M origins, F horizon days, U activity columns, A hazards, K tasks with
a head, N terms: U + A + K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.accio.dense import Batch
from lumos.config import LossConfig
from lumos.model.forecaster import Forecast, Forecaster, ForecasterConfig


def term_names(config: ForecasterConfig) -> tuple[str, ...]:
    """Of the N terms: activity columns, then hazards, then tasks' heads."""
    hazards = (f"hazard_{name}" for name in config.hazards)
    return (*config.columns, *hazards, *(f"head_{head.name}" for head in config.heads))


def term_counts(config: ForecasterConfig, batch: Batch) -> Tensor:
    """How many days, or windows, each term's loss is summed over, shape (N,); needs no network."""
    days_BMF, active_BMF = _days(batch)
    columns = [days_BMF if binary else active_BMF for binary in config.is_binary]
    at_risk = [at_risk_BMF for at_risk_BMF, _ in _hazards(config, batch)]
    heads = (batch.weight_BM[..., None] * batch.is_task_known_BMK).sum((0, 1))
    return torch.cat([torch.stack([c.sum() for c in (*columns, *at_risk)]), heads])


def term_sums(forecast: Forecast, batch: Batch) -> Tensor:
    """Loss of each term summed over what counts, float32 of shape (N,).

    Sums, not means, so that processes and micro-batches with different numbers of active days
    can be added up to what one would have computed.
    """
    config = forecast.config
    hazards = [
        (at_risk_BMF * _cross_entropy(forecast.hazards_BMFA[..., number], first_BMF)).sum()
        for number, (at_risk_BMF, first_BMF) in enumerate(_hazards(config, batch))
    ]
    weight_BMK = batch.weight_BM[..., None] * batch.is_task_known_BMK
    targets_BMK = _counted(batch.task_targets_BMK, weight_BMK)
    heads = [
        (weight_BMK[..., number] * _head_loss(forecast, targets_BMK, number)).sum()
        for number in range(len(config.heads))
    ]
    parts = [_column_sums(forecast, batch)]
    return torch.cat([*parts, torch.stack([*hazards, *heads])] if hazards or heads else parts)


def _column_sums(forecast: Forecast, batch: Batch) -> Tensor:
    is_binary_U = torch.tensor(forecast.config.is_binary, device=batch.weight_BM.device)
    days_BMF, active_BMF = _days(batch)
    counts_BMFU = torch.where(is_binary_U, days_BMF[..., None], active_BMF[..., None])
    outputs_BMFU = forecast.outputs_BMFU.float()
    targets_BMFU = _counted(batch.targets_BMFU, counts_BMFU)
    losses_BMFU = torch.where(
        is_binary_U,
        _cross_entropy(outputs_BMFU, torch.where(is_binary_U, targets_BMFU, 0.0)),
        (outputs_BMFU - targets_BMFU).square(),
    )
    return (losses_BMFU * counts_BMFU).sum((0, 1, 2))


def _counted(targets: Tensor, weight: Tensor) -> Tensor:
    """Zero where nothing counts: what is there may be no number, and 0 times that is none."""
    return torch.where(weight > 0, targets, 0.0)


def _days(batch: Batch) -> tuple[Tensor, Tensor]:
    """Weight of each horizon day, and of each on which the user is active, shape (B, M, F)."""
    days_BMF = batch.weight_BM[..., None] * batch.is_known_BMF
    return days_BMF, days_BMF * batch.is_active_BMF


def _hazards(config: ForecasterConfig, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """For each hazard the days up to its first 1, and that 1, both (B, M, F)."""
    days_BMF, _ = _days(batch)
    found = []
    for name in config.hazards:
        came_BMF = (batch.targets_BMFU[..., config.columns.index(name)] > 0).float()
        none_before = came_BMF.cumsum(-1) - came_BMF == 0
        found.append((days_BMF * none_before, came_BMF))
    return found


def _head_loss(forecast: Forecast, targets_BMK: Tensor, number: int) -> Tensor:
    said = forecast.heads_BMK[..., number].float()
    target = targets_BMK[..., number]
    head = forecast.config.heads[number]
    if head.is_binary:
        return _cross_entropy(said, target)
    return (said - target).abs() if head.is_median else (said - target).square()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")


class Objective(nn.Module):
    """The forecaster with the weights of its terms, for DDP to wrap."""

    weight_N: Tensor

    def __init__(self, forecaster: Forecaster, config: LossConfig) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.terms = term_names(forecaster.config)
        self.is_learned = config.weighting == "learned"
        if self.is_learned:
            self.log_variance_N = nn.Parameter(torch.zeros(len(self.terms)))
        else:
            weights = _shared_out(forecaster.config, config)
            self.register_buffer("weight_N", weights, persistent=False)

    def start_at(self, outputs_N: Tensor, losses_N: Tensor) -> None:
        """Begin from forecasts of the averages, each term with the weight that fits them.

        Args:
            outputs_N: What each term's output says of the average.
            losses_N: What forecasting the averages costs, L_i.
        """
        num_heads = len(self.forecaster.config.heads)
        days, heads = torch.split(outputs_N, [len(outputs_N) - num_heads, num_heads])
        self.forecaster.heads.start_at(days)
        if self.forecaster.task_heads is not None:
            self.forecaster.task_heads.start_at(heads)
        if self.is_learned:
            with torch.no_grad():
                self.log_variance_N.copy_(torch.log(losses_N.clamp(min=1e-4) / 2))

    def counts(self, batch: Batch) -> Tensor:
        """How many days or windows each term counts in the batch, shape (N,)."""
        return term_counts(self.forecaster.config, batch)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each term's loss summed over what counts, and log sigma^2 (zeros when not learned)."""
        sums_N = term_sums(self.forecaster(batch), batch)
        return sums_N, self.log_variance_N if self.is_learned else torch.zeros_like(self.weight_N)

    def total(self, losses_N: Tensor, log_variance_N: Tensor, is_seen_N: Tensor) -> Tensor:
        """What a step makes smaller, a scalar.

        Args:
            losses_N: Mean loss of each term, L_i.
            log_variance_N: log sigma_i^2.
            is_seen_N: False for a term without a single day that counts: it has no loss, and is
                left out, or sigma would shrink for want of evidence.
        """
        if self.is_learned:
            return uncertainty_weighted(losses_N, log_variance_N, is_seen_N)
        return (self.weight_N * torch.where(is_seen_N, losses_N, 0.0)).sum()


def _shared_out(config: ForecasterConfig, loss: LossConfig) -> Tensor:
    """The fixed weight of each term: its group's, shared out evenly."""
    groups = [
        *("binary" if is_binary else "continuous" for is_binary in config.is_binary),
        *("hazard" for _ in config.hazards),
        *("chance" if head.is_binary else "amount" for head in config.heads),
    ]
    return torch.tensor([getattr(loss, group) / groups.count(group) for group in groups])


def uncertainty_weighted(losses_N: Tensor, log_variance_N: Tensor, is_seen_N: Tensor) -> Tensor:
    """Eq. 10, a scalar; terms that were not seen are left out."""
    terms_N = losses_N * torch.exp(-log_variance_N) / 2 + log_variance_N
    return torch.where(is_seen_N, terms_N, 0.0).sum()
