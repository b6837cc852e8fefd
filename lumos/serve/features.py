"""Hand-made features, as a good analyst would build them: what the forecaster must beat.

The baselines see the same users, the same origins and the same future calendar as the
forecaster. All windows come from running sums over the ragged sequences, so that there is no
loop over users, and nothing after the origin can enter: a window ends at the origin's row.

Shape suffixes: N examples (a user at an origin), U users, R active days of all users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.config import Recipe, Task
from lumos.serve.accuracy import Floats
from lumos.tasks import task_columns, task_outcomes

Integers = NDArray[np.int64]

_WINDOWS = (7, 14, 28, 56)
_RECENT = 56
_STRIDE = 1 << 21  # day numbers are far below it: (user, day) as one sortable number


@dataclass(frozen=True)
class Examples:
    """Users at origins, with what is known there and, where it has matured, what came true.

    Attributes:
        user: Number of the user, shape (N,).
        origin: Day number, shape (N,).
        values: Named features, each of shape (N,); NaN is missing.
        categorical: Names of those that are codes of a category.
        horizon: By task name, the mean calendar and event columns of its window, (N, d_s).
        outcomes: By task name, shape (N,); NaN where it must not be learned from.
    """

    user: Integers
    origin: Integers
    values: dict[str, Floats]
    categorical: tuple[str, ...]
    horizon: dict[str, Floats]
    outcomes: dict[str, Floats]

    def known(self, task: Task) -> "Examples":
        """Those whose outcome of the task is known."""
        is_known = np.isfinite(self.outcomes[task.name])
        if is_known.all():
            return self
        return Examples(
            user=self.user[is_known],
            origin=self.origin[is_known],
            values={name: column[is_known] for name, column in self.values.items()},
            categorical=self.categorical,
            horizon={name: rows[is_known] for name, rows in self.horizon.items()},
            outcomes={name: column[is_known] for name, column in self.outcomes.items()},
        )

    def matrix(self, task: Task) -> Floats:
        """All features of a task, shape (N, features)."""
        return np.column_stack([*self.values.values(), self.horizon[task.name]])


class History:
    """Users' activity as running sums, from which any window is one subtraction away."""

    def __init__(self, users: Users, recipe: Recipe) -> None:
        """Sum once; :meth:`examples` then costs a search and a subtraction a window."""
        self._users, self._recipe = users, recipe
        names = [column.name for column in recipe.activity]
        self._key_R = users.owner * _STRIDE + users.days
        values = users.values.astype(np.float64)
        weekday = (users.days[:, None] % 7 == np.arange(7)) & self._nonzero(recipe.active)[:, None]
        starts = np.zeros(len(users.days), bool)
        starts[users.splits[:-1][np.diff(users.splits) > 0]] = True
        gap = np.where(starts, 0, np.diff(users.days, prepend=0)).astype(np.float64)
        self._sums = {name: _running(values[:, index]) for index, name in enumerate(names)}
        self._weekdays = _running(weekday.astype(np.float64))
        self._gaps = _running(np.stack([gap > 0, gap, gap**2], axis=1).astype(np.float64))
        columns = [name for task in recipe.tasks for name in task_columns(task)]
        asked = dict.fromkeys([recipe.active, *columns])
        self._asked = tuple(asked)
        rows = np.arange(len(self._key_R))
        self._last = {
            name: np.maximum.accumulate(np.r_[-1, np.where(self._nonzero(name), rows, -1)])
            for name in asked
        }
        self._static, self._categorical = _static(users, recipe)

    def examples(self, origins: Sequence[int], events: EventCalendar) -> Examples:
        """Every user registered by each origin; the labels are those that have been recorded."""
        parts = [self._at(origin, events) for origin in origins]
        first = parts[0]
        return Examples(
            user=np.concatenate([part.user for part in parts]),
            origin=np.concatenate([part.origin for part in parts]),
            values=_joined([part.values for part in parts]),
            categorical=first.categorical,
            horizon=_joined([part.horizon for part in parts]),
            outcomes=_joined([part.outcomes for part in parts]),
        )

    def _at(self, origin: int, events: EventCalendar) -> Examples:
        recipe, users = self._recipe, self._users
        user = np.flatnonzero(users.registered <= origin)
        targets = cut(users, np.full(len(users), origin), 0, recipe.horizon_days).targets[user]
        ahead = events.window(origin, origin + 1, recipe.horizon_days).astype(np.float64)
        horizon = {task.name: ahead[: task.window_days].mean(axis=0) for task in recipe.tasks}
        return Examples(
            user=user,
            origin=np.full(len(user), origin, np.int64),
            values=self._values(user, origin),
            categorical=self._categorical,
            horizon={name: np.tile(row, (len(user), 1)) for name, row in horizon.items()},
            outcomes=task_outcomes(recipe, targets),
        )

    def _values(self, user: Integers, origin: int) -> dict[str, Floats]:
        tenure = (origin - self._users.registered[user] + 1).astype(np.float64)
        stop = self._row(user, origin)
        start = {days: self._row(user, origin - days) for days in _WINDOWS}
        start_of_all = self._users.splits[user]
        values: dict[str, Floats] = {"tenure": tenure}
        for name, sums in self._sums.items():
            values[f"{name}_all"] = (sums[stop] - sums[start_of_all]) / tenure
            for days in _WINDOWS if name in self._asked else (28,):
                total = sums[stop] - sums[start[days]]
                values[f"{name}_{days}"] = total / np.minimum(tenure, days)
        for name in self._asked:
            values[f"{name}_recency"] = self._recency(name, user, origin, tenure)
        values |= self._rhythm(stop, start_of_all, values[f"{self._recipe.active}_recency"])
        values |= self._profile(origin, stop, start[_RECENT])
        active = values[f"{self._recipe.active}_{_RECENT}"]
        for name in [name for name in self._asked if name in self._recipe.continuous]:
            per_day = values[f"{name}_{_RECENT}"]
            values[f"{name}_a_visit"] = np.divide(
                per_day, active, out=np.zeros_like(active), where=active > 0
            )
        return values | {name: column[user] for name, column in self._static.items()}

    def _recency(self, name: str, user: Integers, origin: int, tenure: Floats) -> Floats:
        """Days since the column was last above zero; all of a user's days if it never was."""
        start, stop = self._users.splits[user], self._row(user, origin)
        # Row 0 of `_last` stands before the first row of all: nobody's.
        row = self._last[name][stop]
        ever = row >= start
        since = np.full(len(user), np.nan)
        since[ever] = origin - self._users.days[row[ever]]
        return np.where(ever, since, tenure)

    def _rhythm(self, stop: Integers, start: Integers, recency: Floats) -> dict[str, Floats]:
        """Gaps between active days, and how overdue the next one is."""
        count, total, squares = (self._gaps[stop] - self._gaps[start]).T
        known = np.maximum(count, 1)
        mean = np.where(count > 0, total / known, np.nan)
        spread = np.sqrt(np.maximum(squares / known - (total / known) ** 2, 0))
        return {
            "gap_mean": mean,
            "gap_spread": np.where(count > 0, spread, np.nan),
            "overdue": recency / mean,
        }

    def _profile(self, origin: int, stop: Integers, start: Integers) -> dict[str, Floats]:
        """Recent active days on the weekday of each of the next seven days."""
        by_weekday = self._weekdays[stop] - self._weekdays[start]
        return {f"weekday_of_day_{k}": by_weekday[:, (origin + k) % 7] for k in range(1, 8)}

    def _row(self, user: Integers, day: int) -> Integers:
        """First row of each user after ``day``: rows before it are on or before ``day``."""
        return np.searchsorted(self._key_R, user * _STRIDE + day, side="right")

    def _nonzero(self, name: str) -> NDArray[np.bool_]:
        names = [column.name for column in self._recipe.activity]
        nonzero: NDArray[np.bool_] = self._users.values[:, names.index(name)] > 0
        return nonzero


def _running(values: Floats) -> Floats:
    """Sum of the rows before each row; one row longer than ``values``."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


def _joined(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _static(users: Users, recipe: Recipe) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Attributes as numbers: categories by their alphabetical order, missing as NaN."""
    columns: dict[str, Floats] = {}
    for column in recipe.static:
        cells = users.static[column.name]
        if column.kind == "categorical":
            known = pc.unique(cells.drop_null())
            cells = pc.index_in(cells, known.take(pc.array_sort_indices(known)))
        columns[column.name] = cells.cast("double").to_numpy().astype(np.float64)
    return columns, tuple(c.name for c in recipe.static if c.kind == "categorical")
