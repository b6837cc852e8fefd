"""Checkpoints on disk: safetensors and JSON, never pickle, whole or not there at all.

Two kinds. A *model checkpoint* is all that serving needs: ``weights.safetensors``,
``config.json`` (recipe, widths, where it came from) and ``scaler.json``. A *training state* is
all that going on needs: the objective's weights, the optimiser's moments and how far it came.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumos.config import Recipe
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.train.scaler import Scaler
from lumos.verbs import BadInput

WEIGHTS, CONFIG, SCALER, PROGRESS = (
    "weights.safetensors",
    "config.json",
    "scaler.json",
    "progress.json",
)
_STATE = "state-"


@dataclass(frozen=True)
class Checkpoint:
    """A trained forecaster with all it needs to be used.

    ``info`` says where it came from: ``as_of``, ``first_training_origin``,
    ``last_training_origin``, ``evaluation_origins`` (dates as text), ``versions`` of the
    tables, ``num_training_users``, ``num_parameters``, ``code``.
    """

    model: Forecaster
    scaler: Scaler
    recipe: Recipe
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a training came, and the log of what went before.

    Attributes:
        loader: The loader's ``state_dict``; empty before the first step.
        epochs: One entry a finished epoch: metric name to value.
        sums: Column loss sums of the epoch under way, so that a resumed epoch logs the same.
        counts: How many days each of them counted.
    """

    loader: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[Mapping[str, float], ...] = ()
    sums: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def epoch(self) -> int:
        """Number of the epoch that is under way."""
        return int(self.loader.get("epoch", 0))

    @property
    def step(self) -> int:
        """Steps of it that are done."""
        return int(self.loader.get("step", 0))


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model checkpoint; ``folder`` appears only when all of it is on disk."""
    with _appearing(folder) as draft:
        save_file(_tensors(checkpoint.model.state_dict()), draft / WEIGHTS)
        config = {
            "forecaster": checkpoint.model.config.model_dump(mode="json"),
            "recipe": checkpoint.recipe.model_dump(mode="json"),
            "info": dict(checkpoint.info),
        }
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (draft / SCALER).write_text(checkpoint.scaler.model_dump_json(indent=2) + "\n")


def load(folder: Path) -> Checkpoint:
    """Build a forecaster again from its folder alone, ready to forecast.

    Raises:
        BadInput: The folder lacks one of its three files.
    """
    missing = [name for name in (WEIGHTS, CONFIG, SCALER) if not (folder / name).exists()]
    if missing:
        msg = f"{folder} is no model checkpoint: {', '.join(missing)} missing; train again"
        raise BadInput(msg)
    config = json.loads((folder / CONFIG).read_text())
    model = Forecaster(ForecasterConfig.model_validate(config["forecaster"]))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return Checkpoint(
        model=model.eval(),
        scaler=Scaler.model_validate_json((folder / SCALER).read_text()),
        recipe=Recipe.model_validate(config["recipe"]),
        info=config["info"],
    )


def save_state(
    folder: Path, objective: Objective, optimiser: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write a training state as the newest of ``folder``, then drop the older ones."""
    name = f"{_STATE}{progress.epoch:05d}-{progress.step:07d}"
    with _appearing(folder / name) as draft:
        save_file(_tensors(objective.state_dict()), draft / WEIGHTS)
        save_file(_moments(optimiser), draft / "optimiser.safetensors")
        (draft / PROGRESS).write_text(json.dumps(vars(progress)))
    for older in _states(folder)[:-1]:
        shutil.rmtree(older)


def load_state(
    folder: Path, objective: Objective, optimiser: torch.optim.Optimizer
) -> Progress | None:
    """Put the newest training state of ``folder`` in place; ``None`` where there is none."""
    states = _states(folder)
    if not states:
        return None
    objective.load_state_dict(load_file(states[-1] / WEIGHTS))
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(states[-1] / "optimiser.safetensors").items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return Progress(**json.loads((states[-1] / PROGRESS).read_text()))


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_STATE}*"))


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    flat = {f"{number}.{name}": t for number, kept in state.items() for name, t in kept.items()}
    return _tensors(flat)


@dataclass
class _appearing:
    """A draft folder that takes its final name only when the block ends well."""

    folder: Path
    draft: Path = field(init=False)

    def __enter__(self) -> Path:
        self.draft = self.folder.with_name(f".draft-{self.folder.name}")
        # A draft of a run that was killed.
        shutil.rmtree(self.draft, ignore_errors=True)
        self.draft.mkdir(parents=True)
        return self.draft

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.draft, ignore_errors=True)
            return
        for path in self.draft.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(self.folder, ignore_errors=True)
        self.draft.rename(self.folder)
