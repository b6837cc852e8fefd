"""The verb ``train``: pinned tables in, a registered challenger out.

Run it under ``torchrun --nproc-per-node N -m lumos train ...`` for N processes, or as it is for
one. Killed at any moment, the same command goes on from the last state.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import lumos
from lumos import ledger
from lumos.config import Config
from lumos.dependencies import VERBS
from lumos.model.forecaster import Forecaster
from lumos.train import tracking
from lumos.train.card import draw_calibration, draw_losses, model_card
from lumos.train.checkpoint import Checkpoint, save
from lumos.train.distributed import StopSignal, World, joined
from lumos.train.epoch_log import EpochLog
from lumos.train.holdout import VALIDATION, best_epoch
from lumos.train.machine import machine_metrics
from lumos.train.mirror import Mirror, training_folder
from lumos.train.prepare import Origins, Prepared, find_origins, pinned, prepare
from lumos.train.training import OnEpoch, Training
from lumos.train.validate import SPLITS, Judged, figures, judge
from lumos.verbs import BAD_INPUT, REFUSED, BadInput, GateRefused, Report, Request, TableWritten

log = logging.getLogger(__name__)


def train(request: Request) -> Report:
    """Train, validate on both splits, register the result as the challenger.

    Raises:
        BadInput: A table is not ready, history is too short, nobody is left to train on, or
            the loss is not finite.
        GateRefused: Data quality was refused for the date.
    """
    with joined() as world, _first_speaks(world):
        inputs = pinned(request) if world.is_first else {}
        done = ledger.already_done(request, "model", inputs) if world.is_first else None
        if world.first_says(done is not None):
            return done or request.report(already_done=True)
        inputs = inputs or pinned(request)
        origins = find_origins(request.settings, request.recipe, request.date)
        return _Job(request, inputs, origins, world).run()


@contextmanager
def _first_speaks(world: World) -> Iterator[None]:
    """Let the first process alone say what is wrong: all of them found the same."""
    try:
        yield
    except (BadInput, GateRefused) as error:
        if world.is_first:
            raise
        world.wait_for_the_end()
        code = BAD_INPUT if isinstance(error, BadInput) else REFUSED
        raise SystemExit(code) from error


class _Job:
    """One process's part in one run of the verb."""

    def __init__(
        self, request: Request, inputs: dict[str, int | str], origins: Origins, world: World
    ) -> None:
        self._request, self._inputs, self._origins = request, inputs, origins
        self._world = world
        self._fingerprint = ledger.fingerprint(request, inputs)
        named = (request.settings, request.recipe, self._fingerprint)
        self._folder, self._mirror = training_folder(*named), Mirror.of(*named)

    def run(self) -> Report:
        """Train, validate, register, enter in the ledger."""
        world, request = self._world, self._request
        prepared = prepare(request, self._inputs, self._origins, world)
        self._look_for_states()
        run = self._start_run(prepared) if world.is_first else None
        training = Training(prepared, world, self._folder, mirror=self._mirror)
        with self._epoch_log(run) as epoch_log:
            with StopSignal().listening() as stop:
                speed = training.run(stop, self._on_epoch(epoch_log))
            return self._conclude(prepared, training, speed, run, epoch_log)

    def _conclude(
        self,
        prepared: Prepared,
        training: Training,
        speed: float,
        run: tracking.Run | None,
        epoch_log: EpochLog | None,
    ) -> Report:
        """Validate what was trained, register it, enter it in the ledger."""
        world, request = self._world, self._request
        model = training.trained()
        checkpoint = Checkpoint(
            model=model,
            scaler=prepared.scaler,
            recipe=request.recipe,
            info=self._info(prepared, model, training.epochs),
        )
        judged = {split: judge(split, checkpoint, prepared, world) for split in SPLITS}
        self._check_finite(judged)
        if run is None or epoch_log is None:
            return request.report()
        metrics: dict[str, float | None] = {}
        for split in SPLITS:
            metrics |= figures(split, judged[split], request.recipe)
        epoch_log.finish(training.epochs)
        card = model_card(request.recipe, checkpoint.info, metrics)
        folder = self._write(checkpoint, training, judged["time_split"], card)
        try:
            run.log_metrics({**metrics, **({"samples_per_second": speed} if speed else {})})
            version = run.register(folder, card)
        except Exception:
            log.error(
                "MLflow did not take the trained model; its training is not lost: run the same "
                "command again once MLflow answers, and it registers the model from its last state"
            )
            raise
        return self._record(prepared, run, version, metrics)

    def _look_for_states(self) -> None:
        """Forget them all if forced; else see to it that each machine holds the newest."""
        world, mirror = self._world, self._mirror
        if self._request.force:
            if world.is_first and mirror is not None:
                mirror.remove()
            if world.is_first_here:
                shutil.rmtree(self._folder, ignore_errors=True)
            world.first_says(True)  # nobody looks for a state before it is gone
        elif mirror is not None:
            mirror.fetch(world)

    def _forget_states(self) -> None:
        """When they are of no more use; what stays behind costs a little storage, no run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._mirror is None or not self._world.is_first:
            return
        try:
            self._mirror.remove()
        except OSError as error:
            log.warning("remove what is left of the training states: %s", error)

    @contextmanager
    def _epoch_log(self, run: tracking.Run | None) -> Iterator[EpochLog | None]:
        """Of the first process; the others have none."""
        if run is None:
            yield None
            return
        with EpochLog(run) as epoch_log:
            yield epoch_log

    def _on_epoch(self, epoch_log: EpochLog | None) -> OnEpoch:
        """What is logged after each epoch: its losses, and how busy this machine is."""
        device = self._world.device
        machine_metrics(device)  # its first figure has no beginning

        def on_epoch(epochs: tuple[Mapping[str, float], ...]) -> None:
            if epoch_log is not None:
                epoch_log.add(epochs, machine_metrics(device))

        return on_epoch

    def _check_finite(self, judged: dict[str, Judged]) -> None:
        """Refuse what the very last step may have broken, when no later step could notice."""
        for split, part in judged.items():
            forecasts = part.forecasts
            if not (np.isfinite(forecasts.p).all() and np.isfinite(forecasts.given).all()):
                rate = self._request.recipe.training.learning_rate
                self._forget_states()
                msg = (
                    f"the trained forecaster's forecasts of the {split} are not finite numbers; "
                    f"lower training.learning_rate={rate:g}. Nothing was registered"
                )
                raise BadInput(msg)

    def _start_run(self, prepared: Prepared) -> tracking.Run:
        request = self._request
        run = tracking.Run.start(
            request.settings,
            request.recipe,
            self._fingerprint,
            tags={"as_of": str(request.date), "code": lumos.__version__},
            is_fresh=request.force,
        )
        run.log_params(
            {
                **_flat("model", request.recipe.model),
                **_flat("training", request.recipe.training),
                "history_days": request.recipe.history_days,
                "horizon_days": request.recipe.horizon_days,
                "recipe_digest": VERBS["train"].digest(request.recipe),
                "num_training_users": prepared.num_training,
                "num_held_out_users": prepared.num_held_out,
                "num_late_users": prepared.num_late,
                **{f"version_{name}": version for name, version in self._inputs.items()},
            }
        )
        return run

    def _info(
        self, prepared: Prepared, model: Forecaster, epochs: Sequence[Mapping[str, float]]
    ) -> dict[str, Any]:
        origins = self._origins
        return {
            "as_of": str(self._request.date),
            "first_day": str(origins.first_day),
            "first_training_origin": str(origins.training[0]),
            "last_training_origin": str(origins.training[1]),
            "last_label": str(origins.last_label),
            "evaluation_origins": [str(origin) for origin in origins.evaluation],
            "num_training_users": prepared.num_training,
            "num_held_out_users": prepared.num_held_out,
            "num_late_users": prepared.num_late,
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_epochs": len(epochs),
            **({"best_epoch": best_epoch(epochs) + 1} if VALIDATION in epochs[-1] else {}),
            "versions": dict(self._inputs),
            "code": lumos.__version__,
        }

    def _write(self, checkpoint: Checkpoint, training: Training, judged: Judged, card: str) -> Path:
        """All artefacts in one folder, ready to be uploaded as they lie."""
        folder = self._folder / "artifacts"
        save(folder / tracking.CHECKPOINT_FOLDER, checkpoint)
        (folder / "model_card.md").write_text(card)
        (folder / "scaler.json").write_text(checkpoint.scaler.model_dump_json(indent=2) + "\n")
        (folder / "plots").mkdir(exist_ok=True)
        draw_losses(folder / "plots/loss.png", training.epochs)
        draw_calibration(folder / "plots/calibration.png", judged, checkpoint.recipe)
        return folder

    def _record(
        self,
        prepared: Prepared,
        run: tracking.Run,
        version: str,
        metrics: dict[str, float | None],
    ) -> Report:
        request = self._request
        tasks = tuple(f"/{task.name}_" for task in request.recipe.tasks)
        report = request.report(
            tables=(TableWritten(table="model", version=int(version), rows=prepared.num_training),),
            metrics={k: v for k, v in metrics.items() if any(task in k for task in tasks)},
            details={
                "model": tracking.model_name(request.recipe),
                "alias": tracking.CHALLENGER,
                "run_id": run.run_id,
                "num_held_out_users": prepared.num_held_out,
                "num_late_users": prepared.num_late,
            },
        )
        ledger.record(request, report, inputs=self._inputs, first_day=self._origins.first_day)
        self._forget_states()  # MLflow has all of it now
        return report


def _flat(prefix: str, config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config:
        inner = _flat(f"{prefix}.{key}", value) if isinstance(value, Config) else None
        flat |= {f"{prefix}.{key}": value} if inner is None else inner
    return flat
