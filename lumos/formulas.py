"""One formula over days, asked twice: of what happened, and of the forecasts of days.

For days that are independent given the forecast, what a sum of products of different days is on
average is the same sum of products of the days' averages. So a task that is such a sum needs no
second formula for its score. Whatever is not (a threshold, a maximum) needs a head of its own,
and is refused without.

Shape suffixes: N users, W days of the window, F of the horizon.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lumos.config import Recipe, Task, explain
from lumos.verbs import BadInput

Floats = NDArray[np.float64]

ROUNDING = 1e-9
_PROBES = 512


class Days:
    """The first days after the origin, as a formula sees them: W days of N users.

    A cell is what a user did on a day (0 or 1, or an amount in raw units) or, where forecasts
    are asked, its chance or its mean. A formula need not know which.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], binary: frozenset[str], window: range
    ) -> None:
        """Columns of shape (N, F), and which days of them (from 0) the window has."""
        self._columns, self._binary, self._window = columns, binary, window

    def __getitem__(self, column: str) -> Floats:
        """A column, float64 of shape (N, W)."""
        if column not in self._columns:
            msg = f"there is no activity column {column!r}; choose from {sorted(self._columns)}"
            raise BadInput(msg)
        first, stop = self._window.start, self._window.stop
        return np.asarray(self._columns[column][:, first:stop], np.float64)

    def on(self, day: int, column: str) -> Floats:
        """A column on one day, counted from 1; shape (N,)."""
        return self.between(day, day)[column][:, 0]

    def between(self, first: int, last: int) -> "Days":
        """These days alone, both counted from 1 and included."""
        if not 1 <= first <= last <= len(self._window):
            msg = f"days {first} to {last} are not among days 1 to {len(self._window)}"
            raise BadInput(msg)
        part = copy(self)
        part._window = self._window[first - 1 : last]
        return part

    def any(self, column: str) -> Floats:
        """Whether (or the chance that) a binary column is 1 on at least one day; shape (N,)."""
        return self.at_least(1, column)

    def at_least(self, times: int, column: str) -> Floats:
        """The same for so many days, whichever they are; shape (N,)."""
        chance_NW = self._chance(column)
        if times < 1:
            msg = f"at_least({times}, {column!r}): count from 1"
            raise BadInput(msg)
        exactly = np.zeros((len(chance_NW), times))  # so many days so far; `times` and more: lost
        exactly[:, 0] = 1
        for chance_N in chance_NW.T:
            came = exactly[:, :-1] * chance_N[:, None]
            exactly *= 1 - chance_N[:, None]
            exactly[:, 1:] += came
        return np.asarray(1 - exactly.sum(axis=1), np.float64)

    def sum(self, column: str) -> Floats:
        """A column summed over the days: an amount, or a number of days; shape (N,)."""
        return np.asarray(self[column].sum(axis=1), np.float64)

    def _chance(self, column: str) -> Floats:
        if column in self._columns and column not in self._binary:
            msg = (
                f"{column!r} is an amount, and amounts have no chance; choose from "
                f"{sorted(self._binary)}"
            )
            raise BadInput(msg)
        return self[column]


Formula = Callable[[Days], Floats]


@dataclass(frozen=True)
class Declared:
    """A formula, the columns it asks for, and whether day forecasts can answer it."""

    formula: Formula
    columns: tuple[str, ...]
    is_sum_of_products: bool


# By `module:function`: a recipe read from a file names a formula and can run nothing else.
_DECLARED: dict[str, Declared] = {}


def task(
    *,
    answer: Literal["binary", "amount"],
    window_days: int,
    metric: Literal["auc", "log_loss", "squared_error", "wape"] | None = None,
    has_head: bool = False,
) -> Callable[[Formula], Task]:
    """Declare a task by its formula; the function's name becomes the task's.

    Args:
        answer: A chance, or an amount.
        window_days: How many days the formula is given.
        metric: What it is judged by, and hence trained for (see :class:`~lumos.config.Task`).
        has_head: Whether the network forecasts it itself as well, trained jointly.

    Raises:
        ValueError: The fields do not fit each other, the function depends on more than its name
            can stand for, or day forecasts cannot answer it and it has no head.
    """

    def declare(formula: Formula) -> Task:
        try:
            made = Task(
                name=formula.__name__,
                kind="formula",
                window_days=window_days,
                formula=f"{formula.__module__}:{formula.__name__}",
                answer=answer,
                metric=metric,
                has_head=has_head,
            )
        except ValidationError as error:
            raise ValueError(explain(error)) from error
        _register(made, formula)
        return made

    return declare


def _register(made: Task, formula: Formula) -> None:
    if getattr(formula, "__closure__", None):
        msg = (
            f"task {made.name}: its formula depends on variables of the function around it, "
            "which a recipe cannot name; declare it at the top of a module"
        )
        raise ValueError(msg)
    try:
        binary, columns = _asked_for(formula, made.window_days)
    except BadInput as error:
        msg = f"task {made.name}: {error}"
        raise ValueError(msg) from error
    if not columns:
        msg = f"task {made.name}: its formula asks for no activity column"
        raise ValueError(msg)
    is_fit = _is_sum_of_products(formula, columns, binary, made.window_days)
    if not (is_fit or made.has_head):
        msg = (
            f"task {made.name}: day forecasts cannot answer it, for it is no sum of products "
            "of different days (but a threshold, a maximum, columns of one day multiplied ...). "
            "Use days.any or days.at_least, or give it has_head=True"
        )
        raise ValueError(msg)
    assert made.formula is not None, "a declared task has one"
    _DECLARED[made.formula] = Declared(formula, columns, is_fit)


class _Notebook(Days):
    """Has every column, and notes which are asked for, and which of them as chances."""

    def __init__(self, window_days: int) -> None:
        super().__init__({}, frozenset(), range(window_days))
        self.columns: dict[str, None] = {}
        self.chances: set[str] = set()

    def __getitem__(self, column: str) -> Floats:
        self.columns[column] = None
        return np.full((1, len(self._window)), 0.5)

    def _chance(self, column: str) -> Floats:
        self.chances.add(column)
        return self[column]


def _asked_for(formula: Formula, window_days: int) -> tuple[frozenset[str], tuple[str, ...]]:
    notebook = _Notebook(window_days)
    with np.errstate(all="ignore"):
        formula(notebook)
    return frozenset(notebook.chances), tuple(notebook.columns)


def _is_sum_of_products(
    formula: Formula, columns: tuple[str, ...], binary: frozenset[str], window_days: int
) -> bool:
    """Whether the formula is a straight line in each day, the other days held: by trying.

    Between two random versions of one random day the answer must lie half-way. Cells are zeros,
    ones and numbers between; those of amounts are of any size.
    """
    random = np.random.default_rng(0)

    def cells(scale: Floats, num_days: int) -> Floats:
        share, dice, value = random.random((3, _PROBES, num_days))
        return np.where(dice < share[:, :1], np.where(value < 0.5, 1.0, value), 0.0) * scale

    size = 10.0 ** random.uniform(0, 6, (_PROBES, 1))
    row, day = np.arange(_PROBES), random.integers(0, window_days, _PROBES)
    tried = {}
    for column in columns:
        scale = np.ones_like(size) if column in binary else size
        base, one, other = cells(scale, window_days), cells(scale, 1), cells(scale, 1)
        versions = [base.copy() for _ in range(3)]
        for version, value in zip(versions, (one, other, (one + other) / 2), strict=True):
            version[row, day] = value[:, 0]
        tried[column] = np.concatenate(versions)
    with np.errstate(all="ignore"):
        answers = np.asarray(formula(Days(tried, binary, range(window_days))), np.float64)
    if answers.shape != (3 * _PROBES,):
        return True  # said better when it is asked
    one, other, between = answers.reshape(3, -1)
    allowed = 1e-6 * np.maximum(np.maximum(np.abs(one), np.abs(other)), 1e-3)
    with np.errstate(all="ignore"):
        off = np.abs(between - (one + other) / 2)
    return not np.any(off[np.isfinite(off)] > allowed[np.isfinite(off)])


def declared(task: Task) -> Declared:
    """What stands behind a task; a BadInput where its formula was not declared here."""
    if task.kind != "formula":
        assert task.column is not None, "its recipe has checked it"
        column = task.column
        if task.kind == "any":
            return Declared(lambda days: days.any(column), (column,), True)
        return Declared(lambda days: days.sum(column), (column,), True)
    assert task.formula is not None, "its recipe has checked it"
    if task.formula not in _DECLARED:
        module = task.formula.split(":")[0]
        msg = (
            f"task {task.name}: its formula {task.formula!r} is not declared in this process; "
            f"import {module}, or load the recipe by its name, and see that @task is still there"
        )
        raise BadInput(msg)
    return _DECLARED[task.formula]


def task_columns(task: Task) -> tuple[str, ...]:
    """The activity columns that a task asks for."""
    return declared(task).columns


def ask(recipe: Recipe, task: Task, columns: Mapping[str, np.ndarray]) -> Floats:
    """A task's answer for N users, from any numbers a day.

    Args:
        recipe: Names the columns.
        task: Whose formula to ask.
        columns: Outcomes or forecasts of every activity column, each of shape (N, F).

    Raises:
        BadInput: The formula is not declared, asks for what is not there, or gives what cannot
            be an answer though the days are sound.
    """
    found, window = declared(task), range(task.window_days)
    try:
        answer = np.asarray(
            found.formula(Days(columns, frozenset(recipe.binary), window)), np.float64
        )
    except BadInput as error:
        msg = f"task {task.name}: {error}"
        raise BadInput(msg) from error
    num_rows = len(next(iter(columns.values())))
    if answer.shape != (num_rows,):
        msg = (
            f"task {task.name}: its formula gave shape {answer.shape}, expected one number a "
            f"user, {(num_rows,)}; sum over the days, axis 1"
        )
        raise BadInput(msg)
    if task.is_binary:
        inside = np.clip(answer, 0, 1)
        answer = np.where(np.abs(answer - inside) < ROUNDING, inside, answer)
        refuse(task, recipe, columns, answer, ~((answer >= 0) & (answer <= 1)), "from 0 to 1")
    refuse(task, recipe, columns, answer, ~np.isfinite(answer), "a finite number")
    return answer


def refuse(
    task: Task,
    recipe: Recipe,
    columns: Mapping[str, np.ndarray],
    answer: Floats,
    is_wrong: NDArray[np.bool_],
    expected: str,
) -> None:
    """Blame the formula for a wrong answer, unless the days that it was given are wrong already.

    Forecasts that are no numbers are for the gate of `publish` to see.
    """
    if not is_wrong.any():
        return
    for name in task_columns(task):
        cells = columns[name][:, : task.window_days]
        low, high = (0, 1) if name in recipe.binary else (-np.inf, np.inf)
        is_wrong = is_wrong & (np.isfinite(cells) & (cells >= low) & (cells <= high)).all(axis=1)
    if is_wrong.any():
        msg = (
            f"task {task.name}: its formula gave {answer[is_wrong][0]:g} for "
            f"{int(is_wrong.sum())} users, expected {expected}"
        )
        if task.is_binary:
            msg += "; an amount is declared with answer='amount'"
        raise BadInput(msg)
