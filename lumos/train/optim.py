"""Which weights are moved how: AdamW, or Muon for the matrices; a warm-up with a cosine after it.

Muon makes the update of a matrix orthogonal. Its author (Jordan 2024,
https://kellerjordan.github.io/posts/muon/) recommends it for the matrices *inside* a network;
what reads the inputs, what writes the outputs, and all that is no matrix stays with AdamW.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lumos.config import TrainingConfig
from lumos.verbs import BadInput

# Of ours, not torch's: names of parameters that are vectors in disguise, or have no
# preferred size.
_FREE = ("positions", "padding", "bias", "norm", "log_variance")
# What reads the raw inputs, and what writes the outputs.
_ENDS = (
    "heads.",
    "tokens.static.0.",
    "tokens.user.0.",
    "tokens.event.0.",
    "tokens.event_future.0.",
)


def is_free(name: str) -> bool:
    """Whether a parameter of this name does not decay."""
    return any(word in name for word in _FREE)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is made for it: two dimensions, inside the network."""
    return parameter.ndim == 2 and not is_free(name) and not any(end in name for end in _ENDS)


class Optimiser:
    """AdamW over all parameters, or AdamW and Muon, stepped and saved as one."""

    def __init__(self, objective: nn.Module, config: TrainingConfig) -> None:
        """Biases, norms, positions and variances do not decay."""
        named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        has_muon = config.matrices == "muon"
        matrices = {n: p for n, p in named.items() if has_muon and is_hidden_matrix(n, p)}
        others = {n: p for n, p in named.items() if n not in matrices}
        self._names = {id(parameter): name for name, parameter in named.items()}
        self.parts: dict[str, torch.optim.Optimizer] = {"adamw": _adamw(others, config)}
        if matrices:
            self.parts["muon"] = torch.optim.Muon(
                list(matrices.values()),
                lr=config.muon_learning_rate,
                weight_decay=config.muon_weight_decay,
            )
        for group in self._groups():
            group["full_lr"] = group["lr"]

    def set_rate(self, factor: float) -> None:
        """Use this share of each part's own learning rate in the next step."""
        for group in self._groups():
            group["lr"] = factor * group["full_lr"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts.values():
            part.zero_grad()

    def step(self) -> None:
        """Move all weights once."""
        for part in self.parts.values():
            part.step()

    def state(self) -> dict[str, Tensor]:
        """The moments, as ``part.parameter.moment``; empty before the first step."""
        return {
            f"{kind}.{self._names[id(parameter)]}.{moment}": tensor
            for kind, part in self.parts.items()
            for parameter, kept in part.state.items()
            for moment, tensor in kept.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the moments of :meth:`state` in place.

        Raises:
            BadInput: They are of other parameters, or of another choice of optimisers.
        """
        moments: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            owner, moment = key.rsplit(".", 1)
            moments.setdefault(owner, {})[moment] = tensor
        for kind, part in self.parts.items():
            ordered = [p for group in part.param_groups for p in group["params"]]
            owners = [f"{kind}.{self._names[id(parameter)]}" for parameter in ordered]
            mine = {n: moments.pop(owner) for n, owner in enumerate(owners) if owner in moments}
            part.load_state_dict({**part.state_dict(), "state": mine})
        if moments:
            msg = f"the saved optimiser has moments of {sorted(moments)}, which nothing here has"
            raise BadInput(msg)

    def _groups(self) -> Iterator[dict[str, float]]:
        for part in self.parts.values():
            yield from part.param_groups


def _adamw(named: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    decaying = [parameter for name, parameter in named.items() if not is_free(name)]
    free = [parameter for name, parameter in named.items() if is_free(name)]
    return torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": config.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )


def rate_factor(warmup_share: float, step: int, num_steps: int) -> float:
    """Share of the full learning rate: linear up over the warm-up, then half a cosine to zero."""
    warm_up = max(1, round(warmup_share * num_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    share = (step - warm_up) / max(1, num_steps - warm_up)
    return 0.5 * (1 + math.cos(math.pi * share))
