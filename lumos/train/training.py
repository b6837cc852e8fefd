"""The steps of a training: exact to resume, the same for any number of processes.

All that a step depends on is its number: the loader's batches are hashed from seed and epoch,
dropout is seeded anew at each step, the learning rate is a function of the step. So a state is
the weights, the optimiser's moments and where the loader is, and a run that was killed goes on
bit for bit (on a CPU) as if nothing had happened.

Shape suffixes: N terms of the loss.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lumos.accio.batch import RaggedBatch
from lumos.accio.dense import Batch
from lumos.dates import day_number
from lumos.dependencies import VERBS
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.progress import progress
from lumos.train.average import Average, copies
from lumos.train.distributed import StopSignal, World
from lumos.train.finite import absurd_activity, name_batch, not_finite
from lumos.train.gradients import add_gradients, micro_batches
from lumos.train.holdout import VALIDATION, Holdout, best_epoch, is_enough
from lumos.train.mirror import Mirror
from lumos.train.optim import Optimiser, rate_factor
from lumos.train.prepare import Prepared
from lumos.train.saving import Saver
from lumos.train.state import Progress, State, newest_state
from lumos.verbs import RESUME, BadInput

log = logging.getLogger(__name__)

OnEpoch = Callable[[tuple[Mapping[str, float], ...]], None]


@dataclass
class _Sums:
    """Losses of the epoch so far, over all processes; float64 of shape (N,), on the device."""

    losses: Tensor
    counts: Tensor

    def means(self) -> Tensor:
        return self.losses / self.counts.clamp(min=1)


@dataclass(frozen=True)
class _Taken:
    """A step that was taken, and is not yet known to have been finite."""

    number: int
    ragged: RaggedBatch
    own_sums_N: Tensor
    sums_N: Tensor
    norm: Tensor


class Training:
    """One process's part in training the forecaster."""

    def __init__(
        self, prepared: Prepared, world: World, folder: Path, *, mirror: Mirror | None = None
    ) -> None:
        """Build the forecaster, or take it up where the newest state in ``folder`` left it.

        With a ``mirror`` a state counts as saved once it is there too.
        """
        self._prepared, self._world, self._folder = prepared, world, folder
        recipe, scaler = prepared.recipe, prepared.scaler
        self._config = recipe.training
        torch.manual_seed(self._config.seed)
        widths = {"num_static": scaler.num_static, "num_events": scaler.num_events}
        forecaster = Forecaster(ForecasterConfig.of(recipe, **widths))
        self.objective = Objective(forecaster, self._config.loss)
        self.objective.start_at(
            scaler.first_outputs(forecaster.config), scaler.first_losses(forecaster.config)
        )
        self.objective.to(world.device)
        self.steps_per_epoch = prepared.loader.num_steps
        self.epochs: tuple[Mapping[str, float], ...] = ()
        self._optimiser = Optimiser(self.objective, self._config)
        self._average = Average(self.objective, self._config.ema)
        self._best: dict[str, Tensor] = {}
        self._num_done, self._sums = 0, self._no_sums()
        self._taken: _Taken | None = None
        digest = VERBS["train"].digest(recipe)
        self._saver = Saver(folder, mirror, recipe=digest)
        self._is_stopped = False
        self._resume(newest_state(folder, recipe=digest))
        self._holdout = Holdout(prepared, world) if self._config.patience else None
        if self._config.compile:
            self.objective.compile()
        self._replica = world.replicate(self.objective)

    def run(self, stop: StopSignal, on_epoch: OnEpoch) -> float:
        """Train what is left to train.

        Args:
            stop: Whether a SIGTERM came.
            on_epoch: Given the log of all epochs, by the first process, after each of them.

        Returns:
            Samples a second, of all processes together; 0 when nothing was left.

        Raises:
            BadInput: Activity or the loss is no finite number.
            SystemExit: A SIGTERM came; the state was saved.
        """
        first, started = self._num_done, time.monotonic()
        with progress("training", max(self._num_steps - first, 1)) as advance:
            while not self._is_over:
                for _ in self._epoch(stop):
                    speed = self._num_samples(first) / (time.monotonic() - started)
                    advance(note=f"({speed:.0f} samples/s)")
                if not self._num_done % self.steps_per_epoch:
                    self._say_epoch(on_epoch)
                if self._is_stopped:
                    self._leave()
        return self._num_samples(first) / (time.monotonic() - started)

    def trained(self) -> Forecaster:
        """The forecaster with the weights to keep: the average, at its best epoch if judged."""
        self._average.keep(self._best or None)
        return self.objective.forecaster.eval()

    @property
    def _is_over(self) -> bool:
        is_enough_now = is_enough(self.epochs, self._config.patience)
        return len(self.epochs) >= self._config.epochs or is_enough_now

    @property
    def _num_steps(self) -> int:
        return self._config.epochs * self.steps_per_epoch

    def _num_samples(self, first: int) -> int:
        return (self._num_done - first) * self._config.batch_size

    def _resume(self, state: State | None) -> None:
        if state is not None:
            where, tensors = state.progress, state.tensors
            self._prepared.loader.load_state_dict(where.loader)
            self.objective.load_state_dict(tensors["weights"])
            self._optimiser.load_state(tensors["optimiser"])
            self._average.load(tensors["average"])
            device = self._world.device
            self._best = {name: t.to(device) for name, t in tensors.get("best", {}).items()}
            self.epochs = where.epochs
            self._num_done = where.epoch * self.steps_per_epoch + where.step
            if where.sums:
                self._sums = _Sums(self._wide(where.sums), self._wide(where.counts))
            log.info("resuming at epoch %d, step %d", where.epoch + 1, where.step)
        if not self._world.agrees(self._num_done):
            msg = (
                f"the processes found different training states in {self._folder}; all machines "
                "of a training must share LUMOS_HOME, or LUMOS_STATES"
            )
            raise BadInput(msg)

    def _epoch(self, stop: StopSignal) -> Iterator[None]:
        """Take the steps that are left of an epoch, unless a SIGTERM comes; yields after each."""
        self.objective.train()
        for ragged in self._prepared.loader:
            is_due = self._step(ragged, stop)
            self._num_done += 1
            is_last = not self._num_done % self.steps_per_epoch
            if is_last:
                self._finish_epoch()
            if is_last or is_due:
                self._save()
            yield
            if self._is_stopped:
                return

    def _step(self, ragged: RaggedBatch, stop: StopSignal) -> bool:
        """One optimiser step; returns whether a state is due."""
        prepared, world, number = self._prepared, self._world, self._num_done
        absurd = absurd_activity(ragged, prepared.recipe)
        parts = micro_batches(ragged, self._config.accumulate)
        batches = [self._batch(part) for part in parts]
        asked = [stop.is_asked, bool(absurd), self._saver.is_due and world.is_first]
        counts_N = torch.stack([self.objective.counts(batch) for batch in batches]).sum(0)
        shared = world.sum(torch.cat([counts_N, counts_N.new_tensor(asked)]))
        counts_N = shared[: -len(asked)]
        # Here, not after the step: a GPU computes while the next batch is made.
        self._is_stopped, is_absurd, is_due = (shared[-len(asked) :] > 0).tolist()
        self._check_finite()
        if is_absurd:
            raise BadInput(world.first_sentence(absurd))
        self._optimiser.set_rate(self._rate_factor(number))
        # Dropout depends on the step and the process alone, so that it can be resumed.
        torch.manual_seed((self._config.seed * 1_000_003 + number) * 4099 + world.rank)
        self._optimiser.zero_grad()
        own_sums_N, self._log_variance_N = add_gradients(
            self.objective, batches, counts_N, world, replica=self._replica
        )
        sums_N = world.sum(own_sums_N.clone())
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.clip_norm)
        self._taken = _Taken(number, ragged, own_sums_N, sums_N, norm)
        self._optimiser.step()
        self._average.update(number)
        self._sums.losses += sums_N
        self._sums.counts += counts_N
        return bool(is_due or self._is_stopped)

    def _batch(self, ragged: RaggedBatch) -> Batch:
        prepared = self._prepared
        return prepared.scaler.batch(
            ragged,
            prepared.events,
            prepared.recipe,
            last_label=day_number(prepared.origins.last_label),
            hide=(self._config.seed, self._num_done // self.steps_per_epoch),
            device=self._world.device,
        )

    def _rate_factor(self, number: int) -> float:
        return rate_factor(self._config.warmup_share, number, self._num_steps)

    def _check_finite(self) -> None:
        """Refuse to go on from, or to save, what a step has broken; all processes agree."""
        taken, self._taken = self._taken, None
        if taken is None or (torch.isfinite(taken.norm) and torch.isfinite(taken.sums_N).all()):
            return
        terms, world = self.objective.terms, self._world
        bad, own = (not_finite(terms, s) for s in (taken.sums_N, taken.own_sums_N))
        path = self._folder / f"not-finite-{taken.number + 1}-rank-{world.rank}.json"
        if own or not bad:
            place = {"epoch": taken.number // self.steps_per_epoch + 1, "step": taken.number + 1}
            name_batch(path, taken.ragged, **place, rank=world.rank, not_finite=own)
        named = world.first_sentence(str(path) if own or not bad else "")
        where = f"the loss of {', '.join(bad)}" if bad else "the gradient"
        msg = (
            f"{where} is not a finite number at step {taken.number + 1}. Lower "
            f"training.learning_rate={self._config.learning_rate:g} or "
            f"training.clip_norm={self._config.clip_norm:g}, or look for absurd values in the "
            f"data: {named} names the batch's users and origins"
        )
        raise BadInput(msg)

    def _finish_epoch(self) -> None:
        self._check_finite()
        terms, means_N = self.objective.terms, self._sums.means()
        log_variance_N = self._log_variance_N.double()
        is_seen_N = self._sums.counts > 0
        entry = {"loss": float(self.objective.total(means_N, log_variance_N, is_seen_N))}
        entry |= {f"loss_{n}": v for n, v in zip(terms, means_N.tolist(), strict=True)}
        if self._config.loss.weighting == "learned":
            sigmas = torch.exp(log_variance_N / 2).tolist()
            entry |= {f"sigma_{n}": v for n, v in zip(terms, sigmas, strict=True)}
        entry["learning_rate"] = self._config.learning_rate * self._rate_factor(self._num_done - 1)
        if self._holdout:
            with self._average.in_place():
                entry[VALIDATION] = self._holdout.loss(self.objective)
        self.epochs = (*self.epochs, entry)
        if self._holdout and best_epoch(self.epochs) + 1 == len(self.epochs):
            self._best = copies(self._average.weights)
        self._sums = self._no_sums()

    def _say_epoch(self, on_epoch: OnEpoch) -> None:
        """Tell people; the state is saved already, so that nothing is told twice."""
        entry, number = self.epochs[-1], len(self.epochs)
        judged = f", validation {entry[VALIDATION]:.4f}" if VALIDATION in entry else ""
        if self._world.is_first:
            on_epoch(self.epochs)
        log.info("epoch %d/%d: loss %.4f%s", number, self._config.epochs, entry["loss"], judged)
        if is_enough(self.epochs, self._config.patience):
            best, patience = best_epoch(self.epochs) + 1, self._config.patience
            log.info("no better for %d epochs: the weights of epoch %d are kept", patience, best)

    def _save(self) -> None:
        self._check_finite()
        if not self._world.is_first:
            return
        tensors: dict[str, Mapping[str, Tensor]] = {
            "weights": self.objective.state_dict(),
            "optimiser": self._optimiser.state(),
            "average": self._average.weights,
        }
        if self._best:
            tensors["best"] = self._best
        where = Progress(
            loader=self._prepared.loader.state_dict(),
            epochs=self.epochs,
            sums=tuple(self._sums.losses.tolist()),
            counts=tuple(self._sums.counts.tolist()),
        )
        self._saver.save(State(where, tensors), is_leaving=self._is_stopped)

    def _no_sums(self) -> _Sums:
        nothing = (0.0,) * len(self.objective.terms)
        return _Sums(self._wide(nothing), self._wide(nothing))

    def _wide(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._world.device)

    def _leave(self) -> None:
        # torchrun ends all processes once one has left: not before the state is on the disk.
        is_safe = self._world.first_says(self._saver.is_safe)
        where = "saved" if is_safe else "on this machine's disk ONLY"
        log.warning(
            "stopped by SIGTERM after %d steps; the state is %s and the same command goes on "
            "from here",
            self._num_done,
            where,
        )
        raise SystemExit(RESUME)
