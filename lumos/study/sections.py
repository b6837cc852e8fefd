"""What the report says of the forecasts: how good, for whom, and on which calendar.

A section whose table is not there yet is ``None``, and the page says which verb makes it.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.calendar import CALENDAR_COLUMNS, calendar_columns
from lumos.dates import EPOCH
from lumos.study.curves import at_quantiles
from lumos.study.pinned import latest, metric_rows, pinned
from lumos.study.plots import Timeline
from lumos.verbs import Request

SEGMENTS = ("challenger", "champion", "lightgbm", "recency")
_HIGHER_IS_BETTER = {"auc", "spearman"}
_RATIO_TO_ONE = {"bias"}
_FIRST_MEASURES = (
    "auc", "wape", "mae", "bias", "median_error", "spearman", "log_loss", "brier", "ece",
)  # fmt: skip
_PAST_DAYS = 42
_CALENDAR_PAST_DAYS = 7
_QUANTILES = (0.98, 0.9, 0.75, 0.5, 0.25)
_NO_HEAT = {"year_sin", "year_cos", *CALENDAR_COLUMNS[:7]}  # the head of the table has weekdays


@dataclass(frozen=True)
class Cell:
    """One value of a heat map: its text, and how strong it is among its row, 0 to 1."""

    text: str
    heat: float = 0.0


@dataclass(frozen=True)
class Calendar:
    """Rows of cells over days; ``None`` for a day of which nothing was announced by then."""

    days: tuple[dt.date, ...]
    as_of: dt.date
    rows: Mapping[str, tuple[Cell | None, ...]]


@dataclass(frozen=True)
class Accuracy:
    """Measures by name, then segment; ``best`` holds each name's best segments."""

    day: dt.date
    segments: tuple[str, ...]
    values: Mapping[str, Mapping[str, float | None]]
    best: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Evaluation:
    """Rows of ``evaluations`` of the last evaluation made by the date."""

    day: dt.date
    rows: pa.Table

    @property
    def origins(self) -> list[dt.date]:
        """Forecast origins, oldest first."""
        return sorted(pc.unique(self.rows["origin"]).to_pylist())


def evaluation(request: Request) -> Evaluation | None:
    """The last evaluation made by the date."""
    entry = latest(request, "evaluations")
    if entry is None:
        return None
    # A date may have evaluated several versions; the entry is about the last of them.
    where: dict[str, str | dt.date] = {"as_of": entry.business_date}
    if "challenger" in entry.inputs:
        where["model_version"] = str(entry.inputs["challenger"])
    rows = pinned(request, "evaluations", entry=entry, **where)
    if rows is None:
        return None
    order = [("origin", "ascending"), ("user_id", "ascending")]
    return Evaluation(entry.business_date, rows.sort_by(order))


def accuracy(request: Request, suffix: str = "") -> Accuracy | None:
    """The forecaster beside the champion and the baselines; ``suffix`` picks a group of users."""
    entry = latest(request, "evaluations")
    if entry is None:
        return None
    values: dict[str, dict[str, float | None]] = {}
    for row in metric_rows(request, "evaluate", entry.business_date):
        segment = row["segment"].removesuffix(suffix)
        if row["segment"] == f"{segment}{suffix}" and segment in SEGMENTS:
            values.setdefault(row["name"], {})[segment] = row["value"]
    if not values:
        return None
    tasks = ["", *(task.name for task in request.recipe.tasks)]
    values = dict(sorted(values.items(), key=lambda item: _place(item[0], tasks)))
    present = {segment for by_segment in values.values() for segment in by_segment}
    return Accuracy(
        day=entry.business_date,
        segments=tuple(segment for segment in SEGMENTS if segment in present),
        values=values,
        best={name: _best(name, by_segment) for name, by_segment in values.items()},
    )


def _place(name: str, tasks: Sequence[str]) -> tuple[int, int, str]:
    """All tasks together first, then in the recipe's order; the best known measures first."""
    task, _, measure = name.rpartition(".")
    known = (*_FIRST_MEASURES, measure)
    return (tasks.index(task) if task in tasks else len(tasks), known.index(measure), measure)


def _best(name: str, by_segment: Mapping[str, float | None]) -> frozenset[str]:
    measure = name.rsplit(".", 1)[-1]
    known = {segment: value for segment, value in by_segment.items() if value is not None}
    if len(known) < 2:
        return frozenset()
    if measure in _HIGHER_IS_BETTER:
        distance = {segment: -value for segment, value in known.items()}
    elif measure in _RATIO_TO_ONE:
        distance = {segment: abs(value - 1) for segment, value in known.items()}
    else:
        distance = known
    least = min(distance.values())
    return frozenset(segment for segment, value in distance.items() if value == least)


def timelines(
    request: Request, evaluated: Evaluation | None
) -> tuple[tuple[Timeline, ...], str] | None:
    """A few users from the most to the least active, and the task whose windows are shown."""
    first = request.date - dt.timedelta(days=_PAST_DAYS - 1)
    rows = pinned(request, "activity", entry=latest(request, "activity"), day=(first, request.date))
    if rows is None:
        return None
    active = rows.filter(pc.equal(rows[request.recipe.active], 1.0))
    counts = active.group_by("user_id").aggregate([("day", "count")]).sort_by("user_id")
    names = counts["user_id"].to_pylist()
    chosen = [names[i] for i in at_quantiles(counts["day_count"].to_pylist(), _QUANTILES)]
    wanted = pa.array(chosen, pa.string())
    shown = active.filter(pc.is_in(active["user_id"], wanted)).sort_by("day")
    days: dict[str, list[dt.date]] = {}
    for user, day in zip(shown["user_id"].to_pylist(), shown["day"].to_pylist(), strict=True):
        days.setdefault(user, []).append(day)
    windows, label = _windows(request, evaluated, wanted)
    chances = _chances(request, wanted, first)
    return tuple(
        Timeline(name, tuple(days[name]), windows.get(name, ()), chances.get(name, {}))
        for name in chosen
    ), label


_Windows = dict[str, tuple[tuple[dt.date, dt.date, float], ...]]


def _windows(
    request: Request, evaluated: Evaluation | None, users: pa.Array
) -> tuple[_Windows, str]:
    """Past forecasts of activity within a window, from origins whose windows do not overlap."""
    tasks = [
        task
        for task in request.recipe.tasks
        if task.kind == "any" and task.column == request.recipe.active
    ]
    if evaluated is None or not tasks:
        return {}, ""
    task = max(tasks, key=lambda task: task.window_days)
    origins: list[dt.date] = []
    for origin in reversed(evaluated.origins):
        if not origins or (origins[-1] - origin).days >= task.window_days:
            origins.append(origin)
    rows = evaluated.rows.filter(pc.is_in(evaluated.rows["user_id"], users))
    found: _Windows = {}
    for row in rows.select(["user_id", "origin", f"{task.name}_forecast"]).to_pylist():
        if row["origin"] in origins:
            start = row["origin"] + dt.timedelta(days=1)
            end = row["origin"] + dt.timedelta(days=task.window_days)
            chance = row[f"{task.name}_forecast"]
            found[row["user_id"]] = (*found.get(row["user_id"], ()), (start, end, chance))
    return found, task.name


def _chances(request: Request, users: pa.Array, first: dt.date) -> dict[str, dict[dt.date, float]]:
    """Each day's chance of activity, by the last forecast made before the day."""
    rows = pinned(
        request, "forecasts", entry=latest(request, "forecasts"), as_of=(first, request.date)
    )
    if rows is None:
        return {}
    rows = rows.filter(pc.is_in(rows["user_id"], users)).sort_by("as_of")
    found: dict[str, dict[dt.date, float]] = {}
    columns = ["user_id", "horizon_day", f"p_{request.recipe.active}"]
    for user, day, chance in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        found.setdefault(user, {})[day] = chance
    return found


def calendar(request: Request) -> Calendar | None:
    """The days around the date as they were known on it; ``None`` for a recipe without any."""
    recipe = request.recipe
    first = request.date - dt.timedelta(days=_CALENDAR_PAST_DAYS - 1)
    num_days = _CALENDAR_PAST_DAYS + recipe.horizon_days
    days = tuple(first + dt.timedelta(days=n) for n in range(num_days))
    rows: dict[str, tuple[Cell | None, ...]] = {}
    known = _known(request, days)
    for column in recipe.events:
        if known is not None:
            rows[column.name] = _cells([known.get(day, {}).get(column.name) for day in days])
    built_in = calendar_columns(recipe.calendar, first, num_days, recipe.country)
    for index, name in enumerate(recipe.calendar):
        if name not in _NO_HEAT:
            rows[name] = _cells([float(value) for value in built_in[:, index]])
    return Calendar(days, request.date, rows) if rows else None


def _known(request: Request, days: Sequence[dt.date]) -> dict[dt.date, Mapping[str, float]] | None:
    """Per day, the newest row that was known on the business date."""
    entry = latest(request, "event_context")
    if entry is None:
        return None
    where = {"day": (days[0], days[-1]), "known_on": (EPOCH, request.date)}
    rows = pinned(request, "event_context", entry=entry, **where)
    found = [] if rows is None else rows.sort_by("known_on").to_pylist()
    return {row["day"]: row for row in found}


def _cells(values: Sequence[float | None]) -> tuple[Cell | None, ...]:
    known = np.array([value for value in values if value is not None])
    low, high = (min(float(known.min()), 0.0), float(known.max())) if len(known) else (0.0, 0.0)
    span = high - low
    return tuple(
        None if value is None else Cell(f"{value:.3g}", (value - low) / span if span else 0.0)
        for value in values
    )
