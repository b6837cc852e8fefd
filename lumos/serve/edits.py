"""A calendar that somebody imagines: what it changes, and whether such days were ever seen.

A forecaster says something about any numbers. About days unlike all that it learned from, what it
says is worth nothing, and nothing in the answer shows that; so such questions are refused.

Shape suffixes: H horizon days, S days of the training period, E event columns of the recipe.
"""

import csv
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lumos.accio.events import EventCalendar
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.verbs import BadInput

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Edits:
    """What is changed.

    Attributes:
        cells: New values by day of the horizon and event column.
    """

    cells: Mapping[dt.date, Mapping[str, float]]

    @property
    def days(self) -> list[dt.date]:
        """Edited days, ascending."""
        return sorted(self.cells)

    @property
    def canonical(self) -> str:
        """Equal for files that say the same."""
        return repr([(str(day), sorted(self.cells[day].items())) for day in self.days])


def read_edits(path: Path, recipe: Recipe, date: dt.date) -> Edits:
    """Read a CSV with the column ``day`` and event columns of the recipe.

    An empty cell leaves what is known as it is, and so does a day that is not there.

    Raises:
        BadInput: Not such a file; says which line and what was expected.
    """
    if not path.is_file():
        msg = f"--what-if {path}: there is no such file"
        raise BadInput(msg)
    if path.stat().st_size > _MOST_BYTES:
        msg = f"--what-if {path} has over {_MOST_BYTES} bytes, far more than a calendar of days"
        raise BadInput(msg)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        msg = f"--what-if {path} is no CSV file in UTF-8: {error}"
        raise BadInput(msg) from error
    _check_header(path, recipe, list(rows[0]) if rows else [])
    cells: dict[dt.date, dict[str, float]] = {}
    for line, row in enumerate(rows, start=2):
        day = _day(f"--what-if {path}, line {line}", row.pop("day"), recipe, date)
        if day in cells:
            msg = f"--what-if {path}, line {line}: {day} stands there twice"
            raise BadInput(msg)
        where = f"--what-if {path}, line {line}"
        cells[day] = {
            name: _number(f"{where}, {name}", text)
            for name, text in row.items()
            if (text or "").strip()
        }
    return Edits({day: values for day, values in cells.items() if values})


def _check_header(path: Path, recipe: Recipe, header: Sequence[str | None]) -> None:
    names = [column.name for column in recipe.events]
    unknown = [name for name in header if name != "day" and name not in names]
    if "day" not in header or unknown or len(header) < 2:
        found = [name for name in header if name is not None] or "nothing"
        msg = (
            f"--what-if {path} has the columns {found}; expected day and some of the recipe's "
            f"event columns {names}, and a row for each day to change"
        )
        raise BadInput(msg)


def _day(where: str, text: str | None, recipe: Recipe, date: dt.date) -> dt.date:
    first, last = date + dt.timedelta(days=1), date + dt.timedelta(days=recipe.horizon_days)
    try:
        day = dt.date.fromisoformat(text or "")
    except ValueError as error:
        msg = f"{where}: {text!r} is not a day written as YYYY-MM-DD"
        raise BadInput(msg) from error
    if not first <= day <= last:
        msg = f"{where}: {day} is not among the days that are forecast, {first} to {last}"
        raise BadInput(msg)
    return day


def _number(where: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{where}: {text!r} is no number"
        raise BadInput(msg)
    return value


def edited(recipe: Recipe, calendar: EventCalendar, edits: Edits, date: dt.date) -> EventCalendar:
    """The calendar as it would be known on ``date`` with the edits.

    Raises:
        BadInput: It would be no other than it is.
    """
    known_HE = announced(recipe, calendar, date, date + dt.timedelta(days=1), recipe.horizon_days)
    changed_HE = known_HE.copy()
    names = [column.name for column in recipe.events]
    for day, values in edits.cells.items():
        for name, value in values.items():
            changed_HE[(day - date).days - 1, names.index(name)] = value
    if np.array_equal(known_HE, changed_HE):
        msg = "--what-if changes nothing: every cell is what the calendar says already"
        raise BadInput(msg)
    days = day_number(date) + 1 + np.arange(recipe.horizon_days)
    return calendar.with_rows(days, np.full_like(days, day_number(date)), changed_HE)


def announced(
    recipe: Recipe, calendar: EventCalendar, as_of: dt.date, first: dt.date, num_days: int
) -> np.ndarray:
    """The recipe's own event columns of days as known on ``as_of``, shape (num_days, E)."""
    window = calendar.window(day_number(as_of), day_number(first), num_days)
    return window[:, window.shape[1] - len(recipe.events) :]


def refuse_unseen(
    recipe: Recipe,
    calendar: EventCalendar,
    edits: Edits,
    *,
    date: dt.date,
    seen: tuple[dt.date, dt.date],
) -> None:
    """Refuse days unlike those of the training period.

    Each edited cell must lie within the column's range there. And an edited day as a whole must
    not be farther from the nearest day of that period than the loneliest of its days is from its
    own nearest: the distance is Euclidean, each column over its deviation.

    Args:
        recipe: Names the event columns.
        calendar: With the edits.
        edits: Only edited days are judged.
        date: What is known, is known on this day.
        seen: First and last day of the training period.

    Raises:
        BadInput: Says which day, in which way, and what was seen.
    """
    first, last = seen
    seen_SE = announced(recipe, calendar, date, first, (last - first).days + 1).astype(np.float64)
    low_E, high_E = seen_SE.min(axis=0), seen_SE.max(axis=0)
    deviation_E = seen_SE.std(axis=0)
    deviation_E[deviation_E == 0] = 1.0
    names = [column.name for column in recipe.events]
    farthest = _loneliest(seen_SE / deviation_E)
    for day in edits.days:
        (row_E,) = announced(recipe, calendar, date, day, 1).astype(np.float64)
        for place in np.flatnonzero((row_E < low_E) | (row_E > high_E)):
            if names[place] in edits.cells[day]:
                msg = (
                    f"--what-if: {names[place]} = {row_E[place]:g} on {day} is outside what "
                    f"training saw from {first} to {last}, {low_E[place]:g} to "
                    f"{high_E[place]:g}: the forecaster cannot know what users would do"
                )
                raise BadInput(msg)
        distance_S = np.linalg.norm((seen_SE - row_E) / deviation_E, axis=1)
        nearest = int(distance_S.argmin())
        if distance_S[nearest] > farthest:
            like = first + dt.timedelta(days=nearest)
            msg = (
                f"--what-if: no day from {first} to {last} was like {day} with these values: the "
                f"nearest, {like}, is {distance_S[nearest]:.2f} deviations away, and no day of "
                f"training is more than {farthest:.2f} from its nearest. Change less of it"
            )
            raise BadInput(msg)


def _loneliest(rows_SE: np.ndarray) -> float:
    """The greatest distance of a row from its nearest other row."""
    distinct, counts = np.unique(rows_SE, axis=0, return_counts=True)
    if len(distinct) == 1:
        return 0.0
    squares = (distinct**2).sum(axis=1)
    between = squares[:, None] + squares - 2 * distinct @ distinct.T
    np.fill_diagonal(between, np.inf)
    nearest = np.where(counts > 1, 0.0, between.min(axis=1))
    return float(np.sqrt(max(nearest.max(), 0.0)))


def training_period(info: Mapping[str, object]) -> tuple[dt.date, dt.date]:
    """First and last day whose events a checkpoint learned from: of its training horizons."""
    first = dt.date.fromisoformat(str(info["first_training_origin"])) + dt.timedelta(days=1)
    return first, dt.date.fromisoformat(str(info["last_label"]))
