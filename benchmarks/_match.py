"""The shipped network against literal readings of its equations: how equal, and how fast.

Shape suffixes: B users, F horizon days, U activity columns.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import _literal as literal
from lumos.accio.batch import ragged_batch
from lumos.accio.contract import load_events, open_sequences
from lumos.accio.dense import Batch
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import LossConfig, Recipe
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.progress import progress
from lumos.settings import Settings
from lumos.train.scaler import Scaler, ScalerFit
from tests.model.literal import forecast_literally, loss_literally

# float32, summed in another order through a dozen layers: outputs to so much, gradients to so
# much of the largest of their parameter.
OUTPUTS_CLOSE, GRADIENTS_CLOSE = 1e-4, 1e-3
# What an operation of PyTorch is, by the start of its name.
_KINDS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product", "aten::_softmax"),
    "norms": ("aten::native_layer_norm",),
    "lookups": ("aten::embedding", "aten::index", "aten::_index", "aten::gather"),
}
_LOSS = LossConfig(weighting="learned")
Said = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Peers:
    """The network, and the same weights for the literal readings.

    Attributes:
        objective: The shipped network under the published loss, dropout off.
        batch: Windows with one origin.
    """

    objective: Objective
    batch: Batch

    @property
    def config(self) -> ForecasterConfig:
        """The network's."""
        return self.objective.forecaster.config

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The very parameters, by name."""
        return dict(self.objective.forecaster.named_parameters())

    def shipped_loss(self) -> Tensor:
        """The loss of a step, as a training takes it."""
        sums_N, log_variance_N = self.objective(self.batch)
        counts_N = self.objective.counts(self.batch)
        return self.objective.total(sums_N / counts_N.clamp(min=1), log_variance_N, counts_N > 0)

    def literal_outputs(self) -> Tensor:
        """By the equations for all users and days at once, shape (B, F, U)."""
        return literal.forecast(self.state, self.config, self.batch)

    def literal_loss(self) -> Tensor:
        """The loss of the same step."""
        return self._loss(self.literal_outputs())

    def literal_by_user_loss(self) -> Tensor:
        """The loss of the same step, one user and one number at a time."""
        said = forecast_literally(self.state, self.config, self.batch)
        return self._loss(said[0][:, 0])

    def _loss(self, outputs_BFU: Tensor) -> Tensor:
        nothing = outputs_BFU.new_zeros(len(outputs_BFU), 1, outputs_BFU.shape[1], 0)
        said: Said = (outputs_BFU[:, None], nothing, nothing[:, :, 0])
        log_variance_N = self.objective.log_variance_N
        return loss_literally(said, self.config, self.batch, _LOSS, log_variance_N)


@dataclass(frozen=True)
class Ground:
    """A network that was not trained, and typical users to ask it about.

    Attributes:
        shaped: Its recipe.
        objective: In evaluation mode.
        scaler: Fitted on all users.
        events: The calendar.
        users: Registered by the origin, by how active they were before it.
        origin: Day number.
    """

    shaped: Recipe
    objective: Objective
    scaler: Scaler
    events: EventCalendar
    users: Users
    origin: int

    @classmethod
    def of(cls, settings: Settings, shaped: Recipe, origin: int) -> "Ground":
        """Built anew, with weights drawn from a fixed seed."""
        table = open_sequences(settings, shaped, None)
        events = load_events(settings, shaped, None)
        users = Users.concat(list(table.users()))
        users = users.take(users.registered <= origin)
        fit = ScalerFit(shaped, origin, origin + shaped.horizon_days)
        fit.add(users)
        scaler = fit.scaler(events, origin - shaped.history_days)
        spans = shaped.history_days, shaped.horizon_days
        windows = ragged_batch(users, np.full(len(users), origin), *spans).windows
        by_activity = np.argsort(np.diff(windows.splits), kind="stable")
        torch.manual_seed(0)
        widths = {"num_static": scaler.num_static, "num_events": scaler.num_events}
        forecaster = Forecaster(ForecasterConfig.of(shaped, **widths))
        objective = Objective(forecaster, shaped.training.loss).eval()
        with torch.no_grad():
            for parameter in objective.parameters():
                if not parameter.any():  # zeros hide mistakes, and learned positions are zero
                    parameter.normal_(std=0.1)
        return cls(shaped, objective, scaler, events, users.take(by_activity), origin)

    def peers(self, size: int, num_origins: int = 1) -> Peers:
        """The network on users at even quantiles of how active they are.

        So few users drawn at random are never typical; these are as active as all on average.
        Several origins are four weeks apart.
        """
        places = (len(self.users) * (np.arange(size) + 0.5) / size).astype(int)
        back = 28 * np.arange(num_origins)[::-1]
        origins = np.tile(self.origin - back, (size, 1))
        spans = self.shaped.history_days, self.shaped.horizon_days
        ragged = ragged_batch(self.users.take(places), origins, *spans)
        return Peers(self.objective, self.scaler.batch(ragged, self.events, self.shaped))


def differences(pair: Peers, *, by_user: bool) -> dict[str, float]:
    """How far outputs and gradients of the literal reading are from those of the network.

    Args:
        pair: Both.
        by_user: Compare with the slow, plain reading instead.
    """
    with torch.no_grad():
        outputs = pair.objective.forecaster(pair.batch).outputs_BMFU[:, 0]
        if by_user:
            other = forecast_literally(pair.state, pair.config, pair.batch)[0][:, 0]
        else:
            other = pair.literal_outputs()
    ours = gradients(pair, pair.shipped_loss())
    theirs = gradients(pair, pair.literal_by_user_loss() if by_user else pair.literal_loss())
    # The bias of all keys of a query cancels in a softmax: its gradient is rounding alone.
    largest = max(float(g.abs().max()) for g in ours)
    relative = [
        float((a - b).abs().max()) / max(float(a.abs().max()), 1e-6 * largest)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return {
        "outputs": float((outputs - other).abs().max()),
        "gradients": max(relative),
    }


def gradients(pair: Peers, loss: Tensor) -> tuple[Tensor, ...]:
    """Of every parameter."""
    return torch.autograd.grad(loss, list(pair.objective.parameters()))


def seconds(runs: Mapping[str, Callable[[], Tensor]], pair: Peers, rounds: int) -> dict[str, float]:
    """Medians of rounds in which everyone takes a step (forward and backward) in turn.

    Seconds of processor time, of one thread: what else runs on the machine is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    with progress("measuring", rounds * len(runs)) as advance:
        for number in range(rounds + 1):
            for name, loss in runs.items():
                pair.objective.zero_grad()
                started = time.process_time()
                loss().backward()
                spent = time.process_time() - started
                if number:  # the first round warms up
                    found[name].append(spent)
                    advance(note=f"{name} {spent:.2f} s")
    return {name: statistics.median(times) for name, times in found.items()}


def split(loss: Callable[[], Tensor], pair: Peers) -> dict[str, float]:
    """Seconds of a step by kind of operation, of this thread and the backward pass."""
    pair.objective.zero_grad()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loss().backward()
    found = dict.fromkeys([*_KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        kinds = (kind for kind, names in _KINDS.items() if event.key.startswith(names))
        found[next(kinds, "everything else")] += event.self_cpu_time_total / 1e6
    return found
