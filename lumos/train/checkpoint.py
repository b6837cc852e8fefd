"""Model checkpoints: all that serving needs of a trained forecaster, and never pickle.

A folder of ``weights.safetensors``, ``scaler.json`` and ``config.json``: recipe, widths, where
it came from, and the digests of the other two. What a *training* needs to go on is in
:mod:`lumos.train.state`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lumos.config import Recipe, explain
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.train.files import Damaged, appearing, load_tensors, save_tensors, seal, unseal
from lumos.train.scaler import Scaler
from lumos.verbs import BadInput

WEIGHTS, CONFIG, SCALER = "weights.safetensors", "config.json", "scaler.json"
_FORMAT = 2  # 1, which did not say so, had no digests


@dataclass(frozen=True)
class Checkpoint:
    """A trained forecaster with all it needs to be used.

    ``info`` says where it came from: ``as_of``, ``first_training_origin``,
    ``last_training_origin``, ``last_label``, ``evaluation_origins`` (dates as text),
    ``versions`` of the tables, ``num_training_users``, ``num_parameters``, ``code``.
    """

    model: Forecaster
    scaler: Scaler
    recipe: Recipe
    info: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model checkpoint; ``folder`` appears only when all of it is on disk."""
    with appearing(folder) as draft:
        save_tensors(draft / WEIGHTS, checkpoint.model.state_dict())
        (draft / SCALER).write_text(checkpoint.scaler.model_dump_json(indent=2) + "\n")
        config = {
            "forecaster": checkpoint.model.config.model_dump(mode="json"),
            "recipe": checkpoint.recipe.model_dump(mode="json"),
            "info": dict(checkpoint.info),
        }
        seal(draft, CONFIG, config, version=_FORMAT)


def load(folder: Path) -> Checkpoint:
    """Build a forecaster again from its folder alone, ready to forecast.

    Raises:
        BadInput: The folder lacks one of its three files, one of them is not what was saved,
            another version of LUMOS wrote them, or they do not belong together.
    """
    missing = [name for name in (WEIGHTS, CONFIG, SCALER) if not (folder / name).exists()]
    if missing:
        msg = f"{folder} is no model checkpoint: {', '.join(missing)} missing; train again"
        raise BadInput(msg)
    try:
        return _load(folder)
    except ValidationError as error:
        why = f"another version of LUMOS wrote it ({explain(error)})"
    except Damaged as error:
        why = str(error)
    msg = f"the model checkpoint {folder} cannot be used: {why}; fetch it anew, or train again"
    raise BadInput(msg)


def _load(folder: Path) -> Checkpoint:
    config = unseal(folder, CONFIG, version=_FORMAT)
    recipe = Recipe.model_validate(config["recipe"])
    scaler = Scaler.model_validate_json((folder / SCALER).read_text())
    _check_columns(scaler, recipe)
    model = Forecaster(ForecasterConfig.model_validate(config["forecaster"]))
    try:
        model.load_state_dict(load_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        msg = f"{WEIGHTS} belongs to another network ({' '.join(str(error).split())[:300]})"
        raise Damaged(msg) from error
    return Checkpoint(model=model.eval(), scaler=scaler, recipe=recipe, info=config["info"])


def _check_columns(scaler: Scaler, recipe: Recipe) -> None:
    """A scaler fitted on other columns would scale one thing by the size of another."""
    for kind, wanted, fitted in (
        ("activity", [column.name for column in recipe.activity], list(scaler.scale)),
        (
            "event",
            [*recipe.calendar, *(column.name for column in recipe.events)],
            list(scaler.events),
        ),
        (
            "static",
            sorted(column.name for column in recipe.static),
            sorted([*scaler.categories, *scaler.statics]),
        ),
        ("task", [task.name for task in recipe.tasks if task.has_head], list(scaler.heads)),
    ):
        if wanted != fitted:
            msg = (
                f"{SCALER} was fitted on the {kind} columns {fitted}, and the recipe "
                f"{recipe.name} has {wanted}"
            )
            raise Damaged(msg)
