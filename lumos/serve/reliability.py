"""How far off forecasts are on the mean, cell by cell, and how sure that is.

A cell is a bin of like forecasts (the publishing gate) or a segment of users (``lumos evaluate``).

Shape suffixes: N forecasts, K cells.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumos.config import Task
from lumos.serve.accuracy import Floats, beside_median


@dataclass(frozen=True)
class Cells:
    """How far off each cell is on the mean, the variance of that, and its share of all rows."""

    gap_K: Floats
    variance_K: Floats
    share_K: Floats


def off_by_cell(
    task: Task,
    outcome_N: Floats,
    forecast_N: Floats,
    user_N: NDArray[np.integer[Any]],
    cell_N: NDArray[np.int64],
    num_cells: int,
) -> Cells:
    """Forecast less outcome. A median is off by how much more than half lies on one side of it.

    The variance is estimated over users: their forecasts at several origins err together.

    Args:
        task: What is forecast.
        outcome_N: What came true.
        forecast_N: What was said.
        user_N: Equal for the rows of one user.
        cell_N: Numbers of cells from 0; some may be empty.
        num_cells: K.
    """
    size = np.maximum(np.bincount(cell_N, minlength=num_cells), 1)
    off = forecast_N - outcome_N
    if task.is_median:
        below, above = beside_median(outcome_N, forecast_N)
        is_high = np.bincount(cell_N, below, num_cells) > np.bincount(cell_N, above, num_cells)
        off = np.where(is_high[cell_N], below, above) - 0.5
    gap = np.bincount(cell_N, off, num_cells) / size
    residual = off - gap[cell_N]
    _, user = np.unique(user_N, return_inverse=True)
    _, first, pair = np.unique(user * num_cells + cell_N, return_index=True, return_inverse=True)
    squares = np.bincount(cell_N[first], np.bincount(pair, residual) ** 2, num_cells)
    if task.is_median:
        gap = np.maximum(gap, 0)  # where many outcomes tie with it, neither side has half of them
    return Cells(gap, squares / size**2, size / len(outcome_N))
