"""A model version of the registry, ready to forecast a date."""

import datetime as dt

from lumos.serve.inputs import check_columns
from lumos.train import checkpoint, tracking
from lumos.train.checkpoint import Checkpoint
from lumos.verbs import BadInput, Request


def usable(request: Request, version: str) -> Checkpoint:
    """The version's checkpoint, if it may forecast what comes after ``request.date``.

    Raises:
        BadInput: There is no such version, it was made for other columns than the recipe has,
            or it has already seen days after the date.
    """
    folder = tracking.checkpoint_of(request.settings, request.recipe, version)
    model = checkpoint.load(folder)
    check_columns(model.recipe, request.recipe, version)
    trained = dt.date.fromisoformat(str(model.info["as_of"]))
    if trained > request.date:
        msg = (
            f"model version {version} was trained on days up to {trained}, after "
            f"{request.date}: it would forecast days that it has seen. Name an earlier version "
            "with --model, or score a later date"
        )
        raise BadInput(msg)
    return model
