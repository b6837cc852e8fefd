"""How a task's scores are spread over all users: counts in fixed bins, comparable between days.

Bins are fixed, so that days can be compared without their rows: steps of a quarter in log odds for
chances, half octaves of either sign for amounts of any unit.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lumos.config import Task
from lumos.serve.logistic import sigmoid

Counts = NDArray[np.int64]

_TOLERANCE = 2  # bins
_CHANCES = sigmoid(np.linspace(-8, 8, 65))
_SIZES = 2.0 ** (np.arange(-20, 81) / 2)
_AMOUNTS = np.concatenate([-_SIZES[::-1], [0.0], _SIZES])


def _edges(task: Task) -> NDArray[np.float64]:
    edges: NDArray[np.float64] = _CHANCES if task.is_binary else _AMOUNTS
    return edges


def count(task: Task, values_N: NDArray[np.float64]) -> Counts:
    """Users by bin; a score that is no number is in none."""
    edges = _edges(task)
    values = values_N[~np.isnan(values_N)]
    number = np.searchsorted(edges, values)
    return np.bincount(number, minlength=len(edges) + 1).astype(np.int64)


def to_json(counts: Counts) -> dict[str, int]:
    """Those of the bins that are not empty."""
    return {str(number): int(counts[number]) for number in np.flatnonzero(counts)}


def from_json(task: Task, cells: Mapping[str, int]) -> Counts:
    """Inverse of :func:`to_json`."""
    counts = np.zeros(len(_edges(task)) + 1, np.int64)
    counts[[int(number) for number in cells]] = list(cells.values())
    return counts


def distance(ours: Counts, theirs: Counts) -> float:
    """The share of users by which two days differ more than by a shift of two bins; 0 to 1.

    Kolmogorov and Smirnov's distance with a tolerance (as Lévy's has): that much every score may
    move, half in log odds or a factor of two, which a weekend does to all users at once. Without
    it, scores that are all much alike would be worlds apart whenever they cross an edge.
    """
    if not ours.sum() or not theirs.sum():
        return 1.0
    one, other = np.cumsum(ours) / ours.sum(), np.cumsum(theirs) / theirs.sum()
    ahead = np.maximum(
        one[:-_TOLERANCE] - other[_TOLERANCE:], other[:-_TOLERANCE] - one[_TOLERANCE:]
    )
    return max(float(ahead.max()), 0.0)
