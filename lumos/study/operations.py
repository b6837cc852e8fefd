"""What the report says of the platform itself: experiments, data quality, rejected rows."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumos import ledger
from lumos.config import Experiment
from lumos.delta import predicate, read
from lumos.experiment.effects import METRICS, SIMULATED_SPLIT
from lumos.study.pinned import pinned
from lumos.tables import table_uri
from lumos.verbs import Request


@dataclass(frozen=True)
class Outcome:
    """One experiment: effects, the share of users active by day and variant, and what to say."""

    experiment: Experiment
    effects: Sequence[Mapping[str, Any]]
    days: Sequence[dt.date] = ()
    active: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def is_split_broken(self) -> bool:
        """The sample-ratio check failed."""
        return any(row["srm_p_value"] < self.experiment.srm_alpha for row in self.effects)


def experiments(request: Request) -> list[Outcome]:
    """Every experiment of the recipe, measured or not."""
    entry = ledger.find(request.settings, request.recipe, "effects", request.date)
    effects = pinned(request, "effects", entry=entry, as_of=request.date)
    rows = [] if effects is None else effects.to_pylist()
    return [
        _outcome(request, item, [row for row in rows if row["experiment"] == item.name])
        for item in request.recipe.experiments
    ]


def _outcome(
    request: Request, experiment: Experiment, effects: Sequence[Mapping[str, Any]]
) -> Outcome:
    if not effects:
        return Outcome(experiment, effects)
    order = [variant.name for variant in experiment.variants]
    rows = pinned(
        request,
        "outcomes",
        entry=ledger.find(request.settings, request.recipe, "outcomes", request.date),
        experiment=experiment.name,
        day=(experiment.start, request.date),
    )
    by_day = [] if rows is None else rows.sort_by("day").to_pylist()
    active = {
        name: [
            row["num_active"] / row["num_users"] if row["num_users"] else 0.0
            for row in by_day
            if row["variant"] == name
        ]
        for name in order
    }
    day = (request.date - experiment.start).days + 1
    notes = [f"Day {day} of {experiment.planned_days} planned."]
    if day < experiment.planned_days:
        notes.append("A p-value that is read every day until the end finds too much.")
    if experiment.is_simulated_split:
        notes.insert(0, SIMULATED_SPLIT)
    return Outcome(
        experiment=experiment,
        effects=sorted(effects, key=lambda row: list(METRICS).index(row["metric"])),
        days=sorted({row["day"] for row in by_day}),
        active=active,
        notes=notes,
    )


def quarantined(request: Request) -> list[dict[str, Any]] | None:
    """Rejected rows of the last days, counted by raw table and reason."""
    uri = table_uri(request.settings, request.recipe, "quarantine")
    first = request.date - dt.timedelta(days=request.recipe.quality.usual_days - 1)
    rows = read(uri, where=predicate(day=(first, request.date)))
    if rows is None:
        return None
    grouped = rows.group_by(["raw_table", "reason"]).aggregate([("num_rows", "sum")])
    order = [("num_rows_sum", "descending"), ("reason", "ascending"), ("raw_table", "ascending")]
    counted: list[dict[str, Any]] = grouped.sort_by(order).to_pylist()
    return counted
