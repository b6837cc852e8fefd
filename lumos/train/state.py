"""Training states: all that a training needs to go on exactly where it was.

A folder of safetensors (weights, moments of the optimisers, running average, best weights so
far) and ``state.json`` (loader position, log of the epochs, digests). There is no state of a
random generator to save: dropout is seeded anew from the run's seed, the step and the process,
and the loader's choices are hashes. The newest two are kept, in case the last one was damaged.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lumos.train.files import Damaged, appearing, load_tensors, save_tensors, seal, unseal
from lumos.verbs import BadInput

log = logging.getLogger(__name__)

_FORMAT = 1
SEAL, _SUFFIX = "state.json", ".safetensors"
_PREFIX = "state-"
KEPT = 2


@dataclass(frozen=True)
class Progress:
    """How far a training came, and the log of what went before.

    Attributes:
        loader: The loader's ``state_dict``; empty before the first step.
        epochs: One entry a finished epoch: metric name to value.
        sums: Loss sums of each term in the epoch under way, so that a resumed epoch logs the
            same.
        counts: How many things each of them counted.
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


@dataclass(frozen=True)
class State:
    """Progress, and tensors by kind (``weights``, ``optimiser`` ...) and name."""

    progress: Progress
    tensors: Mapping[str, Mapping[str, Tensor]]


def save_state(folder: Path, state: State, *, recipe: str) -> Path:
    """Write the newest state of ``folder``, then drop all but it and the one before.

    Args:
        folder: Of one training.
        state: To write.
        recipe: Digest of the recipe that is trained.

    Returns:
        The state's own folder.
    """
    progress = state.progress
    name = f"{_PREFIX}{progress.epoch:05d}-{progress.step:07d}"
    with appearing(folder / name) as draft:
        for kind, tensors in state.tensors.items():
            save_tensors(draft / f"{kind}{_SUFFIX}", tensors)
        content = {"recipe": recipe, "kinds": list(state.tensors), "progress": asdict(progress)}
        seal(draft, SEAL, content, version=_FORMAT)
    # A damaged state, fallen back from, may claim to be newer.
    kept = [path for path in states(folder) if path.name <= name][-KEPT:]
    for other in states(folder):
        if other not in kept:
            shutil.rmtree(other)
    return folder / name


def newest_state(folder: Path, *, recipe: str) -> State | None:
    """The newest state of ``folder`` that is whole; ``None`` where there is none at all.

    Raises:
        BadInput: All of them are damaged, or they are of another recipe.
    """
    found = states(folder)
    for path in reversed(found):
        try:
            return _read(path, recipe)
        except Damaged as error:
            log.warning("the training state %s is damaged: %s", path, error)
    if not found:
        return None
    msg = f"no training state in {folder} can be used: all are damaged; --force begins anew"
    raise BadInput(msg)


def check_state(path: Path) -> dict[str, Any]:
    """What a state's seal says, once all of its files are found to be as they were saved.

    Raises:
        Damaged: They are not, or some are missing.
    """
    return unseal(path, SEAL, version=_FORMAT)


def states(folder: Path) -> list[Path]:
    """The states in a folder, oldest first; whole or damaged."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if is_state(path.name))


def is_state(name: str) -> bool:
    """Whether a folder is named like a state."""
    return name.startswith(_PREFIX)


def _read(path: Path, recipe: str) -> State:
    content = check_state(path)
    if content["recipe"] != recipe:
        msg = (
            f"the training state {path} is of another recipe (digest {content['recipe']}, now "
            f"{recipe}); it goes on with its own recipe alone. --force begins anew"
        )
        raise BadInput(msg)
    tensors = {kind: load_tensors(path / f"{kind}{_SUFFIX}") for kind in content["kinds"]}
    progress = Progress(**content["progress"])
    return State(replace(progress, epochs=tuple(progress.epochs)), tensors)
