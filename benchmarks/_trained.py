"""The forecaster of Complete Journey that benchmarks share: trained once, kept by what made it."""

import hashlib
import json
import shutil
from pathlib import Path

import lumos.model
import lumos.train
from benchmarks.accuracy import LAST_LABEL, Data, train_in
from lumos.overrides import override
from lumos.train import checkpoint
from lumos.train.checkpoint import Checkpoint

# Of a recipe, what no training reads.
_SERVING = {"evaluation", "scoring", "publishing", "calibration", "quality"}


def trained_forecaster(given: Data, seed: int = 0) -> Checkpoint:
    """The shipped recipe with labels up to October 7, from ``$LUMOS_HOME/bench`` if it is there.

    Kept by the recipe's fields that a training reads, the code of ``lumos.model`` and
    ``lumos.train``, the tables' versions and the seed: a change of any of them trains anew. A
    training that was stopped goes on where it was.
    """
    recipe = override(given.recipe, {"training.seed": seed})
    made_from = [recipe.model_dump_json(exclude=_SERVING), _code(), json.dumps(given.inputs)]
    key = hashlib.sha256("\n".join([*made_from, str(LAST_LABEL)]).encode()).hexdigest()[:16]
    folder = given.settings.home / "trained" / key
    if not folder.exists():
        state = folder.with_suffix(".state")
        trained, _ = train_in(state, given, seed)
        checkpoint.save(folder, trained)
        shutil.rmtree(state)
    return checkpoint.load(folder)


def _code() -> str:
    folders = [Path(path) for room in (lumos.model, lumos.train) for path in room.__path__]
    files = sorted(path for folder in folders for path in folder.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
