"""Some steps of the real training in processes of their own: what `benchmarks.train_step` starts.

    [torchrun --nproc-per-node 2] -m benchmarks._steps HOME FORM --batch-size N [--steps S]

As many threads a process as ``OMP_NUM_THREADS`` says. The first prints one JSON line: mean loss of
steps; the median step in seconds and in processor seconds, and how many of these went into the
loader and scaling; parameters; and the seconds to add up as many numbers over all processes. With
``--epoch-alone`` also what a step's windows cost the loader, timed over an epoch of it alone: a
training reads ahead in its first step, for hundreds of steps to come.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lumos.accio.batch import RaggedBatch
from lumos.accio.dense import Batch
from lumos.accio.loader import Accio
from lumos.compute import keep_memory
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World, recipe
from lumos.overrides import override
from lumos.presets import lumos, paper, paper_training
from lumos.settings import Settings
from lumos.train.distributed import StopSignal, joined
from lumos.train.distributed import World as Processes
from lumos.train.prepare import Prepared, find_origins, pinned, prepare
from lumos.train.scaler import Scaler
from lumos.train.training import Training
from lumos.verbs import Request

_WARM_UP, _REDUCTIONS = 2, 5
FORMS = ("lumos", "paper_tiny", "paper_small")


class Enough(Exception):
    """As many steps as were wanted are done."""


class Clock:
    """When each step began, and how much processor time it spent on its data.

    Attributes:
        began: Seconds by the wall's clock.
        began_cpu: Processor seconds of this process.
        on_data: Of these, spent in the loader and in scaling.
    """

    def __init__(self) -> None:
        self.began: list[float] = []
        self.began_cpu: list[float] = []
        self.on_data: list[float] = []

    def begin(self) -> None:
        """A step begins."""
        self.began.append(time.perf_counter())
        self.began_cpu.append(time.process_time())


def typical(moments: list[float]) -> float:
    """Median of what lay between these moments, those of the warm-up left out."""
    return statistics.median(after - before for before, after in pairwise(moments[_WARM_UP:]))


class TimedLoader:
    """A loader that notes how long the training waits for it, and ends after some steps."""

    def __init__(self, loader: Accio, clock: Clock, num_steps: int) -> None:
        self._loader, self._clock, self._num_wanted = loader, clock, num_steps

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the loader has
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[RaggedBatch]:
        batches = iter(self._loader)
        while True:
            self._clock.begin()
            if len(self._clock.began) > self._num_wanted:
                raise Enough
            batch = next(batches)
            self._clock.on_data.append(time.process_time() - self._clock.began_cpu[-1])
            yield batch


class TimedScaler(Scaler):
    """A scaler whose time counts as waiting."""

    _clock: Clock

    def batch(self, *arguments: Any, **options: Any) -> Batch:  # noqa: ANN401 - as it is given
        """Scale a batch."""
        started = time.process_time()
        made = super().batch(*arguments, **options)
        self._clock.on_data[-1] += time.process_time() - started
        return made


def main() -> None:
    """Take the steps."""
    made = argparse.ArgumentParser(prog="benchmarks._steps")
    made.add_argument("home", type=Path)
    made.add_argument("form", choices=FORMS)
    made.add_argument("--users", type=int, required=True)
    made.add_argument("--batch-size", type=int, required=True)
    made.add_argument("--steps", type=int, default=1_000_000, help="at most, of an epoch")
    made.add_argument("--epoch-alone", action="store_true")
    # Drawn by each process for itself: losses of one and of two would differ.
    made.add_argument("--without-dropout", action="store_true")
    arguments = made.parse_args()
    keep_memory()  # as a training does
    settings = Settings.from_environment({"LUMOS_HOME": str(arguments.home)})
    has_dropout = not arguments.without_dropout
    shaped = shape(arguments.form, arguments.batch_size, has_dropout=has_dropout)
    last_day = World(arguments.users).last_day
    request = Request(verb="train", recipe=shaped, date=last_day, settings=settings)
    with joined() as processes, tempfile.TemporaryDirectory() as folder:
        prepared = ready(request, processes)
        found = {"loader_cpu_s": epoch_alone(prepared.loader) if arguments.epoch_alone else 0.0}
        found |= take(prepared, processes, Path(folder), arguments.steps)
        found["all_reduce_s"] = reduction(processes, int(found["num_parameters"]))
        if processes.is_first:
            sys.stdout.write(json.dumps(found) + "\n")


def shape(form: str, batch_size: int, *, has_dropout: bool = True) -> Recipe:
    """The recipe with a form of the forecaster and the training that goes with it."""
    training: dict[str, object] = {"training.batch_size": batch_size}
    model, history_days = lumos(), 364
    if form != "lumos":
        model, history_days = paper(form.removeprefix("paper_")), 360
        training = {"training": paper_training(batch_size=batch_size).model_dump()}
    changes = {"model": model.model_dump(), "history_days": history_days, "num_buckets": 1}
    if not has_dropout:
        changes["model.dropout"] = 0.0
    return override(recipe(), changes | training)


def ready(request: Request, processes: Processes) -> Prepared:
    """What a training works on."""
    origins = find_origins(request.settings, request.recipe, request.date)
    return prepare(request, pinned(request), origins, processes)


def epoch_alone(loader: Accio) -> float:
    """Processor seconds a step that the loader takes alone; it is left where it was."""
    before, started = loader.state_dict(), time.process_time()
    num_steps = sum(1 for _ in loader)
    spent = time.process_time() - started
    loader.load_state_dict(before)
    return spent / num_steps


def take(
    prepared: Prepared, processes: Processes, folder: Path, num_steps: int
) -> dict[str, float]:
    """What this process sees of some steps."""
    clock = Clock()
    # The last step of an epoch saves a state, which is no part of a step.
    num_steps = min(num_steps, prepared.loader.num_steps - 1)
    scaler = TimedScaler.model_validate(prepared.scaler.model_dump())
    scaler._clock = clock
    timed: Any = TimedLoader(prepared.loader, clock, num_steps)
    training = Training(replace(prepared, loader=timed, scaler=scaler), processes, folder)
    with suppress(Enough):
        training.run(StopSignal(), lambda _epochs: None)
    losses_N, counts_N = training._sums.losses, training._sums.counts
    return {
        "loss": float((losses_N / counts_N.clamp(min=1)).mean()),
        "step_s": typical(clock.began),
        "step_cpu_s": typical(clock.began_cpu),
        "data_cpu_s": statistics.median(clock.on_data[_WARM_UP:]),
        "num_steps": len(clock.on_data),
        "num_parameters": sum(p.numel() for p in training.objective.parameters()),
    }


def reduction(processes: Processes, count: int) -> float:
    """Seconds to add up so many float32 numbers over all processes, a median."""
    numbers, spent = torch.ones(count), []
    for _ in range(_REDUCTIONS):
        started = time.perf_counter()
        processes.sum(numbers)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
