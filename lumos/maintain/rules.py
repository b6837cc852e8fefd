"""What stays for how long, by table: the recipe's ``retention`` as days of rows, files, logs."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from lumos.config import Recipe
from lumos.settings import Settings
from lumos.tables import ALERTS, alerts_uri, table_uri, tables

# Longer than any job: what it pinned just before an entry left the ledger is still there.
GRACE_DAYS = 14
# Each of their commits adds a small file, and no reader or builder goes by how rows lie in files.
# In `sequences`, `forecasts`, `activity` and `scores` order and names of files mean something.
_COMPACTED = ("audit", "event_context", "exposures", "ledger", "looks", "users")
# Of all days, so that days can be counted on from the first: never taken out of the ledger.
_COUNTED_ON = (
    *("activity", "event_context", "users", "evaluations", "model", "cohorts"),
    *("experiments", "exposures", "outcomes", "moments", "effects", "looks"),
)
_DAY_COLUMN = {"metrics": "day", "histograms": "day", "quarantine": "day"}


@dataclass(frozen=True)
class Rule:
    """How one table is kept.

    Attributes:
        table: Its name.
        uri: Where it lies.
        file_days: Files that no version of so many days needs are removed.
        log_days: So far back a version can be opened.
        day_column: By which rows are removed; empty if they stay.
        row_days: How long they stay.
        is_compacted: Whether small files become large ones.
    """

    table: str
    uri: str
    file_days: int
    log_days: int
    day_column: str = ""
    row_days: int = 0
    is_compacted: bool = False


def row_days(recipe: Recipe) -> Mapping[str, int]:
    """For how many days rows stay, by table; the others stay for good."""
    keep = recipe.retention
    matured = recipe.horizon_days + keep.versions_days
    forecasts = max(keep.forecasts_days, matured, recipe.embedding.compare_days)
    metrics = max(keep.metrics_days, recipe.quality.usual_days + keep.versions_days)
    return {
        "forecasts": forecasts,
        "what_ifs": forecasts,
        "embeddings": forecasts,
        "profiles": forecasts,
        "shadows": max(forecasts, matured + recipe.evaluation.shadow_days),
        "scores": max(keep.scores_days, matured),
        "metrics": metrics,
        "histograms": metrics,
        "quarantine": metrics,
    }


def entry_days(recipe: Recipe, table: str) -> int | None:
    """For how many days the ledger keeps what it says of a table; ``None``: for good."""
    if table in _COUNTED_ON:
        return None
    if table == "sequences":  # one version a date
        return recipe.retention.versions_days
    days = row_days(recipe)
    return days["scores" if table == "manifests" else table if table in days else "metrics"]


def rules(settings: Settings, recipe: Recipe) -> list[Rule]:
    """One for each table of the recipe, and one for the alerts of all recipes."""
    days, keep = row_days(recipe), recipe.retention
    least = keep.versions_days + GRACE_DAYS
    found = []
    for name in tables(recipe):
        # A publication must be readable while it is valid, and a date as long as its rows are.
        versions = max(least, recipe.publishing.valid_days + GRACE_DAYS if name == "scores" else 0)
        found.append(
            Rule(
                table=name,
                uri=table_uri(settings, recipe, name),
                file_days=versions,
                log_days=max(versions, days.get(name, 0) + GRACE_DAYS),
                day_column=_DAY_COLUMN.get(name, "as_of") if name in days else "",
                row_days=days.get(name, 0),
                is_compacted=name in _COMPACTED,
            )
        )
    return [*found, Rule(ALERTS.name, alerts_uri(settings), least, least)]


def before(day: dt.date, days: int) -> dt.date:
    """The first day that stays."""
    return max(day, dt.date.min + dt.timedelta(days=days)) - dt.timedelta(days=days)
