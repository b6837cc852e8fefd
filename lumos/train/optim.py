"""AdamW, a warm-up with a cosine after it, and which weights decay."""

import math

import torch
from torch import nn

from lumos.config import TrainingConfig

# Of ours, not torch's: names of parameters that are vectors in disguise, or have no
# preferred size.
_FREE = ("positions", "padding", "bias", "norm", "log_variance")


def adamw(objective: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; biases, norms, positions and variances do not decay."""
    decaying: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        (free if any(word in name for word in _FREE) else decaying).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": config.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )


def learning_rate(config: TrainingConfig, step: int, num_steps: int) -> float:
    """The rate of a step: linear up over the warm-up, then half a cosine down to zero."""
    warm_up = max(1, round(config.warmup_share * num_steps))
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    share = (step - warm_up) / max(1, num_steps - warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
