"""The steps of a training: exact to resume, the same for any number of processes.

All that a step depends on is its number: the loader's batches are hashed from seed and epoch,
dropout is seeded anew at each step, the learning rate is a function of the step. So a state is
the weights, the optimiser's moments and where the loader is, and a run that was killed goes on
bit for bit (on a CPU) as if nothing had happened.

Shape suffixes: U activity columns.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lumos.accio.dense import Batch
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective, uncertainty_weighted
from lumos.progress import progress
from lumos.train.checkpoint import Progress, load_state, save_state
from lumos.train.distributed import StopSignal, World
from lumos.train.optim import adamw, learning_rate
from lumos.train.prepare import Prepared
from lumos.verbs import BadInput

log = logging.getLogger(__name__)

OnEpoch = Callable[[tuple[Mapping[str, float], ...]], None]
_TERMINATED = 128 + 15  # what a shell says of a process that a SIGTERM ended


@dataclass
class _Sums:
    """Column losses of the epoch so far, over all processes; float64 of shape (U,)."""

    losses: Tensor
    counts: Tensor

    def means(self) -> Tensor:
        return self.losses / self.counts.clamp(min=1)


class Training:
    """One process's part in training the forecaster."""

    def __init__(self, prepared: Prepared, world: World, folder: Path) -> None:
        """Build the forecaster, or take it up where the newest state in ``folder`` left it."""
        self._prepared, self._world, self._folder = prepared, world, folder
        recipe, scaler = prepared.recipe, prepared.scaler
        self._config = recipe.training
        torch.manual_seed(self._config.seed)
        widths = {"num_static": scaler.num_static, "num_events": scaler.num_events}
        forecaster = Forecaster(ForecasterConfig.of(recipe, **widths))
        self.objective = Objective(forecaster)
        self.objective.start_at(scaler.first_outputs(recipe), scaler.first_log_variances())
        self.objective.to(world.device)
        self._optimiser = adamw(self.objective, self._config)
        found = load_state(folder, self.objective, self._optimiser)
        self.progress = found or Progress()
        if found:
            prepared.loader.load_state_dict(found.loader)
            log.info("resuming at epoch %d, step %d", found.epoch + 1, found.step)
        self._is_stopped = False
        self._replica = world.replicate(self.objective)
        self.steps_per_epoch = prepared.loader.num_steps

    def run(self, stop: StopSignal, on_epoch: OnEpoch) -> float:
        """Train what is left to train.

        Returns:
            Samples a second, of all processes together; 0 when nothing was left.

        Raises:
            BadInput: The loss is no longer a finite number.
            SystemExit: A SIGTERM came; the state was saved.
        """
        left = self._config.epochs * self.steps_per_epoch - self._num_done
        if left <= 0:
            return 0.0
        first, started = self._num_done, time.monotonic()
        with progress("training", left) as advance:
            while self._num_done < self._config.epochs * self.steps_per_epoch:
                for _ in self._epoch(stop):
                    num_samples = (self._num_done - first) * self._config.batch_size
                    speed = num_samples / (time.monotonic() - started)
                    advance(note=f"({speed:.0f} samples/s)")
                if self._world.is_first:
                    save_state(self._folder, self.objective, self._optimiser, self.progress)
                    on_epoch(self.progress.epochs)
                self._log_epoch()
                if self._is_stopped:
                    self._leave()
        return left * self._config.batch_size / (time.monotonic() - started)

    def _log_epoch(self) -> None:
        if not self.progress.step:
            done, loss = self.progress.epoch, self.progress.epochs[-1]["loss"]
            log.info("epoch %d/%d: loss %.4f", done, self._config.epochs, loss)

    @property
    def _num_done(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def _epoch(self, stop: StopSignal) -> Iterator[None]:
        """Take the steps that are left of an epoch, unless a SIGTERM comes; yields after each."""
        prepared = self._prepared
        sums, hide = self._sums(), (self._config.seed, self.progress.epoch)
        self.objective.train()
        for ragged in prepared.loader:
            batch = prepared.scaler.batch(
                ragged, prepared.events, prepared.recipe, hide=hide, device=self._world.device
            )
            self._is_stopped = self._step(batch, self._num_done, sums, stop)
            if self.progress.step + 1 == self.steps_per_epoch:
                self._finish_epoch(sums)
            else:
                self._count_step(sums)
            yield
            if self._is_stopped:
                return

    def _step(self, batch: Batch, number: int, sums: _Sums, stop: StopSignal) -> bool:
        """One optimiser step; returns whether any process was asked to stop."""
        rate = learning_rate(self._config, number, self._config.epochs * self.steps_per_epoch)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        # Dropout depends on the step and the process alone, so that it can be resumed.
        torch.manual_seed((self._config.seed * 1_000_003 + number) * 4099 + self._world.rank)
        with torch.autocast("cuda", torch.bfloat16, enabled=self._world.device != "cpu"):
            sums_U, counts_U, log_variance_U = self._replica(batch)
        asked = torch.tensor([float(stop.is_asked)], device=sums_U.device)
        shared = self._world.sum(torch.cat([sums_U.detach(), counts_U, asked]))
        all_sums_U, all_counts_U = shared[:-1].chunk(2)
        # DDP averages gradients over processes; times their number it is the sum.
        losses_U = sums_U * self._world.size / all_counts_U.clamp(min=1)
        loss = uncertainty_weighted(losses_U, log_variance_U, all_counts_U > 0)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.clip_norm)
        self._check_finite(norm, all_sums_U, number)
        self._optimiser.step()
        sums.losses += all_sums_U.double().cpu()
        sums.counts += all_counts_U.double().cpu()
        return bool(shared[-1] > 0)

    def _check_finite(self, norm: Tensor, sums_U: Tensor, number: int) -> None:
        if torch.isfinite(norm) and torch.isfinite(sums_U).all():
            return
        names = [column.name for column in self._prepared.recipe.activity]
        bad = [n for n, value in zip(names, sums_U.tolist(), strict=True) if not abs(value) < 1e38]
        where = f"the loss of {', '.join(bad)}" if bad else "the gradient"
        msg = (
            f"{where} is not a finite number at step {number + 1}. Lower "
            f"training.learning_rate={self._config.learning_rate:g} or "
            f"training.clip_norm={self._config.clip_norm:g}, or look for absurd values in the data"
        )
        raise BadInput(msg)

    def _sums(self) -> _Sums:
        width = len(self._prepared.recipe.activity)
        kept = self.progress.sums or (0.0,) * width, self.progress.counts or (0.0,) * width
        return _Sums(*(torch.tensor(part, dtype=torch.float64) for part in kept))

    def _finish_epoch(self, sums: _Sums) -> None:
        names = [column.name for column in self._prepared.recipe.activity]
        means_U = sums.means()
        log_variance_U = self.objective.log_variance_U.detach().double().cpu()
        entry = {"loss": float(uncertainty_weighted(means_U, log_variance_U))}
        entry |= {f"loss_{n}": v for n, v in zip(names, means_U.tolist(), strict=True)}
        sigmas = torch.exp(log_variance_U / 2).tolist()
        entry |= {f"sigma_{n}": v for n, v in zip(names, sigmas, strict=True)}
        state = self._prepared.loader.state_dict()
        self.progress = Progress(state, (*self.progress.epochs, entry))

    def _count_step(self, sums: _Sums) -> None:
        self.progress = replace(
            self.progress,
            loader=self._prepared.loader.state_dict(),
            sums=tuple(sums.losses.tolist()),
            counts=tuple(sums.counts.tolist()),
        )

    def _leave(self) -> None:
        log.warning(
            "stopped by SIGTERM after %d steps; the state is saved and the same command goes on "
            "from here",
            self._num_done,
        )
        raise SystemExit(_TERMINATED)
