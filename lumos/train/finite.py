"""Numbers that are none: which batch had them, for people to look at.

A loss that is not finite can come from absurd data or from too large a step. Either way the
run ends, and the batch is named beside the states: its users and their origins suffice to
build it again.
"""

import datetime as dt
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from lumos.accio.batch import NOBODY, RaggedBatch
from lumos.config import Recipe
from lumos.dates import from_day_number


def absurd_activity(ragged: RaggedBatch, recipe: Recipe) -> str:
    """The first cell of a batch that is not a finite number, in a sentence; empty if all are."""
    windows = ragged.windows
    is_finite = np.isfinite(windows.values)
    if is_finite.all():
        return ""
    row, column = (int(place) for place in np.argwhere(~is_finite)[0])
    user = int(np.searchsorted(windows.splits, row, side="right")) - 1
    day = _date(windows.first_day[user] + windows.offsets[row])
    return (
        f"activity column {recipe.activity[column].name} of user_id {ragged.user_id[user]} is "
        f"{windows.values[row, column]} on {day}, expected a finite number; mend `activity` "
        "and run `lumos sequences` again"
    )


def not_finite(terms: Iterable[str], sums_N: Tensor) -> list[str]:
    """Names of the terms whose sums are not finite numbers."""
    values = sums_N.tolist()
    return [name for name, value in zip(terms, values, strict=True) if not np.isfinite(value)]


def name_batch(path: Path, ragged: RaggedBatch, **place: object) -> None:
    """Write who was in a batch and at which origins, beside where in the training it was."""
    is_filled = ragged.number != NOBODY
    origins = ragged.windows.origins[is_filled]
    identity = {
        **place,
        "users": ragged.user_id[is_filled].tolist(),
        "origins": [[str(_date(day)) for day in days] for days in origins],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{path.name}")
    draft.write_text(json.dumps(identity, indent=2) + "\n")
    draft.replace(path)


def _date(day: np.integer) -> dt.date:
    return from_day_number(int(day))
