"""What the result of each verb depends on: parts of a recipe, and the verb's own revision.

A run is done, or may go on from its saved state, while these and its pinned inputs are the same;
whatever else changes in a recipe or in the code is no reason to do the work again. So each verb
declares here every field of the recipe that it reads, which the tests hold it to: a run in a test
that reads another one fails. Raise a verb's revision with the commit that changes its results.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumos.config import Recipe

# Where tables lie, what pages are called, and how fast a machine works: no result differs for them.
_WITHOUT_EFFECT = frozenset({"name", "description", "scoring.batch_size", "scoring.processes"})
# The past of users, the known calendar and who they are, as a forecaster reads them.
_FEATURES = (
    "active", "activity", "calendar", "country", "events", "history_days", "horizon_days", "static",
    "tasks",
)  # fmt: skip


@dataclass(frozen=True)
class Dependencies:
    """Of one verb.

    Attributes:
        parts: Fields of the recipe that the result depends on, or, with a dot, of a part of it.
        revision: Raised when the same inputs give another result.
    """

    parts: tuple[str, ...]
    revision: int = 1

    def digest(self, recipe: Recipe) -> str:
        """Changes whenever one of the parts, or the revision, does."""
        fields = recipe.model_dump(mode="json")
        found: dict[str, Any] = {}
        for part in self.parts:
            field, _, leaf = part.partition(".")
            found[part] = fields[field][leaf] if leaf else fields[field]
        text = json.dumps([self.revision, found], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def undeclared(self, read: set[str]) -> set[str]:
        """Those of the fields that were read on which a result may depend unnoticed."""
        whole = {name for name in read if name.partition(".")[0] in self.parts}
        return read - whole - {*self.parts} - _WITHOUT_EFFECT


_EXPERIMENTS = ("active", "activity", "dataset", "sql", "static", "tasks", "timezone")

# The other verbs' results are not kept by a fingerprint.
VERBS: Mapping[str, Dependencies] = {
    "land": Dependencies(tuple(sorted({*Recipe.model_fields} - _WITHOUT_EFFECT))),
    "aggregate": Dependencies(
        ("active", "activity", "dataset", "events", "late_days", "raw", "sql", "sql_parameters",
         "static", "timezone"),
        revision=2,  # raw files are read as what they are, see docs/decisions/0019-raw-files.md
    ),
    "sequences": Dependencies(("activity", "num_buckets", "static")),
    "validate": Dependencies(("active", "activity", "events", "quality", "static")),
    "train": Dependencies(
        (*_FEATURES, "evaluation.days_between_origins", "evaluation.num_origins", "model",
         "training")
    ),
    "evaluate": Dependencies(
        (*_FEATURES, "calibration", "evaluation", "model", "scoring", "training")
    ),
    # With --what-if it calibrates too.
    "score": Dependencies((*_FEATURES, "calibration.interval_level", "model", "scoring")),
    "shadow": Dependencies((*_FEATURES, "calibration", "evaluation", "model", "scoring")),
    "publish": Dependencies(
        ("activity", "calibration", "horizon_days", "publishing", "scoring.active_within_days",
         "tasks", "timezone")
    ),
    "embed": Dependencies((*_FEATURES, "embedding", "model", "num_buckets", "scoring")),
    "assign": Dependencies(("activity", "dataset", "sql", "static", "tasks")),
    "measure": Dependencies(_EXPERIMENTS),
    "power": Dependencies(_EXPERIMENTS),
    "replay": Dependencies(_EXPERIMENTS),
    "monitor": Dependencies((*_FEATURES, "evaluation", "quality", "raw")),
}  # fmt: skip
