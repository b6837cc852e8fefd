"""The gate before Pacman reads: what is measured of a day's scores, and what is refused.

Measures are sums over parts of the day, so that no more than a part is in memory. Verdicts are
pure functions of them and of earlier manifests.
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lumos.config import Recipe, Task
from lumos.serve import spread
from lumos.serve.manifest import LIVE, Manifest
from lumos.serve.metrics import Metric
from lumos.serve.rolls import Compared
from lumos.serve.stage import Part

_RECENT_PUBLICATIONS = 7  # with a week of them, each day is compared with its own weekday
_RECENT_DAYS = 28


@dataclass
class Measures:
    """Sums over the parts of a day."""

    num_rows: int = 0
    num_nulls: int = 0
    model_versions: set[str] = field(default_factory=set)
    out_of_range: Counter[str] = field(default_factory=Counter)
    spreads: dict[str, spread.Counts] = field(default_factory=dict)

    def add(self, recipe: Recipe, part: Part) -> None:
        """Count the users of a part."""
        self.num_rows += part.rows.num_rows
        self.num_nulls += part.num_nulls
        self.model_versions |= part.model_versions
        for task in recipe.tasks:
            values = part.rows[task.name].to_numpy()
            outside = _outside(recipe, task, values)
            for name, is_wrong in (("low", np.greater), ("high", np.less)):
                if (column := f"{task.name}_{name}") in part.rows.column_names:
                    bound = part.rows[column].to_numpy()
                    outside |= ~np.isfinite(bound) | is_wrong(bound, values)
            self.out_of_range[task.name] += int(outside.sum())
            counted = spread.count(task, values)
            self.spreads[task.name] = self.spreads.get(task.name, 0) + counted

    def spread_json(self) -> str:
        """For the manifest: what the next days are compared with."""
        return json.dumps({name: spread.to_json(c) for name, c in self.spreads.items()})


def _outside(recipe: Recipe, task: Task, values: np.ndarray) -> np.ndarray:
    outside: np.ndarray = ~np.isfinite(values)
    # What a formula of amounts may give at least, it alone knows.
    minimum = [column.minimum for column in recipe.activity if column.name == task.column]
    if task.is_binary:
        outside |= (values < 0) | (values > 1)
    elif minimum and minimum[0] is not None:
        outside |= values < min(minimum[0], 0.0) * task.window_days
    return outside


def recent(manifests: Sequence[Manifest], date: dt.date) -> list[Manifest]:
    """The live publications shortly before a date, oldest first: what is usual."""
    since = date - dt.timedelta(days=_RECENT_DAYS)
    found = [m for m in manifests if m.state == LIVE and since <= m.as_of < date]
    return found[-_RECENT_PUBLICATIONS:]


def verdicts(
    recipe: Recipe,
    measures: Measures,
    users: Compared,
    errors: Mapping[str, float],
    model_version: str,
    usual: Sequence[Manifest],
) -> list[Metric]:
    """What was measured; each ``critical`` one has a message that says what is wrong.

    Args:
        recipe: Its tasks and limits.
        measures: Of the scores about to be published.
        users: Who has a score, against who should.
        errors: Calibration error of each task on matured days.
        model_version: That the forecasts are meant to be of.
        usual: Publications of the days before, from :func:`recent`.
    """
    measured = [
        _coverage(recipe, users),
        _none("strangers", users.num_strangers, "users have a score and are not active"),
        _none("repeated_users", users.num_repeated, "users stand there more than once"),
        _none("nulls", measures.num_nulls, "cells of the forecasts are null"),
        _one_model(measures, model_version),
        _volume(recipe, measures, usual),
    ]
    for task in recipe.tasks:
        wrong = f"users have a {task.name} that is no number or out of range"
        measured += [
            _calibration(recipe, task, errors[task.name]),
            _none(f"{task.name}.out_of_range", measures.out_of_range[task.name], wrong),
            _drift(recipe, task, measures, model_version, usual),
        ]
    return measured


def _verdict(name: str, value: float | None, problem: str) -> Metric:
    return Metric(name, value, verdict="critical" if problem else "ok", message=problem)


def _none(name: str, number: int, what: str) -> Metric:
    return _verdict(name, float(number), f"{number} {what}" if number else "")


def _coverage(recipe: Recipe, users: Compared) -> Metric:
    least = recipe.publishing.min_coverage
    share = users.num_met / users.num_expected if users.num_expected else 0.0
    problem = (
        f"{users.num_met} active users have whole forecasts, of {users.num_expected} "
        f"(at least {least:.0%} of them expected)"
    )
    return _verdict("coverage", share, "" if share >= least else problem)


def _one_model(measures: Measures, model_version: str) -> Metric:
    found = sorted(measures.model_versions)
    problem = f"forecasts are of model versions {found}, not of {model_version} alone"
    is_right = found == [model_version]
    return _verdict("num_model_versions", float(len(found)), "" if is_right else problem)


def _calibration(recipe: Recipe, task: Task, error: float) -> Metric:
    most = recipe.publishing.max_calibration_error
    problem = f"{task.name} is off by {error:.3f} on matured days (at most {most} allowed)"
    return _verdict(f"{task.name}.calibration_error", error, "" if error <= most else problem)


def _volume(recipe: Recipe, measures: Measures, usual: Sequence[Manifest]) -> Metric:
    """Of its change against the median of the last publications."""
    typical = float(np.median([m.num_rows for m in usual])) if usual else 0.0
    if not typical:
        return Metric("volume_change", None)
    change, most = measures.num_rows / typical - 1, recipe.publishing.max_volume_change
    problem = (
        f"{measures.num_rows} users have a score, {measures.num_rows / typical:.0%} of the usual "
        f"{typical:.0f} (at most {most:.0%} more or less; if that is real, publish with "
        f"--set publishing.max_volume_change={abs(change) + 0.01:.2f})"
    )
    return _verdict("volume_change", change, "" if abs(change) <= most else problem)


def _drift(
    recipe: Recipe,
    task: Task,
    measures: Measures,
    model_version: str,
    usual: Sequence[Manifest],
) -> Metric:
    """How unlike all of the last publications a task's scores are, at least.

    The nearest counts, not yesterday's: a Saturday may be unlike a Friday as long as it is like
    the Saturday before. Another model may rightly spread its scores in another way: evaluation,
    promotion and the calibration above have judged it, so that its drift is a warning.
    """
    name, most = f"{task.name}.drift", recipe.publishing.max_drift
    known = [(m, json.loads(m.spread)) for m in usual]
    peers = [(m, cells[task.name]) for m, cells in known if task.name in cells]
    same = [(m, cells) for m, cells in peers if m.model_version == model_version]
    distances = {
        m.as_of: spread.distance(measures.spreads[task.name], spread.from_json(task, cells))
        for m, cells in same or peers
        if task.name in measures.spreads
    }
    if not distances:
        return Metric(name, None)
    nearest = min(distances, key=lambda day: distances[day])
    drift = distances[nearest]
    if drift <= most:
        return _verdict(name, drift, "")
    problem = (
        f"{task.name} is unlike the last publications: {drift:.2f} from the nearest, of {nearest} "
        f"(at most {most}; if that is real, publish with "
        f"--set publishing.max_drift={min(drift + 0.01, 1):.2f})"
    )
    if same:
        return _verdict(name, drift, problem)
    return Metric(name, drift, verdict="warning", message=f"{problem}; the model is another one")
