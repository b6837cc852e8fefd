"""For whom is calibration off? What came true against what would be published, group by group.

Groups are those of each categorical attribute (a missing one is a group of its own), of how often
a user was active lately, and of users that training saw or did not. Calibrators are fitted on all
users alike, so that a group may well be off where all together are not. Nothing is refused for
it; it is a warning to whoever decides by group.

A group is named if it is off by more than the recipe tolerates, beyond chance, with the share of
groups named by chance held at one in twenty over all tasks and groups (Benjamini & Hochberg 1995).

Shape suffixes: N forecasts, K groups, J judged pairs of a task and a group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import false_discovery_control

from lumos.accio.chance import hash_users
from lumos.accio.users import Users
from lumos.config import Recipe, Task
from lumos.serve.accuracy import Floats
from lumos.serve.features import Examples
from lumos.serve.metrics import Metric
from lumos.serve.reliability import Cells, off_by_cell

_LEAST_USERS = 50
# Standard errors that what is expected (of a chance, its rarer outcome) or what is off must be
# worth: sixteen independent outcomes. Of fewer, their number is too far from normal to judge.
_LEAST_KNOWN = 4.0
_MOST_VALUES = 30  # of an attribute, the commonest; the others together are one group
_FALSE_SHARE = 0.05
# Days of the last 28, up to and including.
_FREQUENCIES = {"0": 0, "1": 1, "2-3": 3, "4-7": 7, "8-14": 14, "15-28": 28}


@dataclass(frozen=True)
class Grouping:
    """One way to divide forecasts: names of K groups, and each forecast's group."""

    names: tuple[str, ...]
    group_N: NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """One task's forecasts in one group.

    Attributes:
        task: What is forecast.
        name: ``attribute=value``.
        num_users: With at least one forecast in it.
        observed: Mean outcome; of a median, the larger of the shares above and below it.
        expected: Mean forecast; of a median, a half.
        p_value: That it is off by no more than is tolerated, two-sided.
    """

    task: Task
    name: str
    num_users: int
    observed: float
    expected: float
    p_value: float


def groupings(
    recipe: Recipe, users: Users, examples: Examples, is_held_out: NDArray[np.bool_]
) -> list[Grouping]:
    """Every way to divide the examples.

    Args:
        recipe: Names the attributes.
        users: Whom the examples number.
        examples: N users at origins.
        is_held_out: Which of ``users`` no training saw.
    """
    found = [
        _by_attribute(column.name, users, examples.user)
        for column in recipe.static
        if column.kind == "categorical"
    ]
    tenure = np.minimum(examples.values["tenure"], 28)
    days = np.rint(examples.values[f"{recipe.active}_28"] * tenure)
    names = tuple(f"active_days_of_28={days}" for days in _FREQUENCIES)
    found.append(Grouping(names, np.searchsorted(list(_FREQUENCIES.values()), days)))
    seen = ("seen_in_training=yes", "seen_in_training=no")
    found.append(Grouping(seen, is_held_out[examples.user].astype(np.int64)))
    return found


def _by_attribute(name: str, users: Users, user_N: NDArray[np.int64]) -> Grouping:
    cells = pc.fill_null(users.static[name], "(missing)")
    counts = pc.value_counts(cells).sort(order="descending", by="counts")
    common = counts.field("values")[:_MOST_VALUES]
    group = pc.fill_null(pc.index_in(cells, common), len(common)).to_numpy().astype(np.int64)
    names = tuple(f"{name}={value}" for value in [*common.to_pylist(), "(others)"])
    return Grouping(names, group[user_N])


def judge(
    tasks: Sequence[Task],
    tolerance: float,
    divided: Sequence[Grouping],
    user_id: NDArray[np.object_],
    outcomes: Mapping[str, Floats],
    calibrated: Mapping[str, Floats],
) -> list[Segment]:
    """Every task in every group of enough users.

    Args:
        tasks: Those of the recipe.
        tolerance: How far off is no matter, as a share of what is expected; of a chance, of its
            rarer outcome.
        divided: Ways to divide the forecasts.
        user_id: Whose each forecast is, shape (N,).
        outcomes: By task name, shape (N,).
        calibrated: As published, but by calibrators that did not see the user's own outcomes.
    """
    _, user_N = np.unique(hash_users(user_id), return_inverse=True)
    return [
        segment
        for grouping in divided
        for task in tasks
        for segment in _judged(
            task, tolerance, grouping, user_N, outcomes[task.name], calibrated[task.name]
        )
    ]


def _judged(
    task: Task,
    tolerance: float,
    grouping: Grouping,
    user_N: NDArray[np.int64],
    outcome_N: Floats,
    forecast_N: Floats,
) -> Iterator[Segment]:
    group_N, num_groups = grouping.group_N, len(grouping.names)
    cells = off_by_cell(task, outcome_N, forecast_N, user_N, group_N, num_groups)
    size = np.maximum(np.bincount(group_N, minlength=num_groups), 1)
    variance = np.maximum(
        cells.variance_K, _usual_variance(task, grouping, cells, size, forecast_N)
    )
    if task.is_median:
        expected = rarer = np.full(num_groups, 0.5)
        observed = expected + cells.gap_K
    else:
        expected = np.bincount(group_N, forecast_N, num_groups) / size
        observed = expected - cells.gap_K
        rarer = np.minimum(expected, 1 - expected) if task.is_binary else np.abs(expected)
    error = np.sqrt(np.maximum(variance, 1e-300))
    beyond = np.abs(cells.gap_K) - tolerance * rarer
    p_value = np.minimum(2 * ndtr(-beyond / error), 1)
    pairs = np.unique(user_N * num_groups + group_N)
    num_users = np.bincount(pairs % num_groups, minlength=num_groups)
    is_known = np.maximum(rarer, np.abs(cells.gap_K)) >= _LEAST_KNOWN * error
    for k in np.flatnonzero((num_users >= _LEAST_USERS) & is_known):
        numbers = (float(x[k]) for x in (observed, expected, p_value))
        yield Segment(task, grouping.names[k], int(num_users[k]), *numbers)


def _usual_variance(
    task: Task, grouping: Grouping, cells: Cells, size_K: NDArray[np.int64], forecast_N: Floats
) -> Floats:
    """What a group's variance would be if it were like all users': p(1 - p), or the mean, scaled.

    Where nobody did anything yet, outcomes seem to have no variance.
    """
    if task.is_median:
        shape_N = np.full_like(forecast_N, 0.25)
    else:
        shape_N = forecast_N * (1 - forecast_N) if task.is_binary else np.abs(forecast_N)
    shape_K = np.bincount(grouping.group_N, shape_N, len(grouping.names))
    scale = cells.variance_K @ size_K.astype(np.float64) ** 2 / max(shape_K.sum(), 1e-300)
    # A user's outcomes at several origins are alike, never the contrary.
    is_share = task.is_binary or task.is_median
    factor = float(max(scale, 1.0) if is_share else scale)
    return np.asarray(shape_K / size_K**2 * factor, np.float64)


def off(judged: Sequence[Segment]) -> list[Segment]:
    """Those off beyond chance and tolerance, the surest first."""
    if not judged:
        return []
    adjusted_J = false_discovery_control([segment.p_value for segment in judged])
    order = np.argsort(adjusted_J, kind="stable")
    return [judged[j] for j in order if adjusted_J[j] <= _FALSE_SHARE]


def warnings(judged: Sequence[Segment], contestant: str) -> list[Metric]:
    """Rows of `metrics`: how many are off, and each of them with what is wrong."""
    found = off(judged)
    number = Metric("segments_off", float(len(found)), segment=contestant)
    return [number, *(_warning(segment, contestant) for segment in found)]


def _warning(segment: Segment, contestant: str) -> Metric:
    said = f"{segment.observed:.4g} came true and {segment.expected:.4g} was forecast"
    if segment.task.is_median:
        said = f"{segment.observed:.0%} of outcomes lie on one side of the median forecast"
    return Metric(
        f"{segment.task.name}.observed_to_expected",
        segment.observed / segment.expected if segment.expected else None,
        segment=f"{contestant}|{segment.name}",
        verdict="warning",
        message=f"{segment.task.name} of {segment.num_users} users with {segment.name}: {said}",
    )
