"""A day's column as counts in bins that were fixed in advance, so that any days can be compared.

Bins are quarter octaves of either sign, from a thousandth to 10^15, with one bin for zero and one
for missing values: amounts of any unit fit, and a column that is multiplied by two moves by four
bins. Histograms of several days or parts are merged by adding them; no row is needed again.

Shape suffixes: N values.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Histogram = Mapping[int, int]

_PER_OCTAVE = 4
_SMALLEST_OCTAVE, _LARGEST_OCTAVE = -10, 50
ZERO, MISSING = 0, 1000
_LAST = _PER_OCTAVE * (_LARGEST_OCTAVE - _SMALLEST_OCTAVE)


def bins(values_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each value: 0 is zero, k > 0 grows with the size, -k is its mirror image."""
    size = np.abs(np.nan_to_num(values_N, nan=0.0, posinf=np.finfo(float).max))
    with np.errstate(divide="ignore"):
        octave = np.where(size > 0, np.log2(size), 0.0)
    number = np.floor((octave - _SMALLEST_OCTAVE) * _PER_OCTAVE).astype(np.int64) + 1
    signed = np.sign(np.nan_to_num(values_N)).astype(np.int64) * np.clip(number, 1, _LAST)
    return np.where(np.isnan(values_N), MISSING, signed)


def least_of(number: int) -> float:
    """The size at which a bin begins; infinite for missing values."""
    if number in (ZERO, MISSING):
        return 0.0 if number == ZERO else float("inf")
    size = math.pow(2, (abs(number) - 1) / _PER_OCTAVE + _SMALLEST_OCTAVE)
    return size if number > 0 else -size


def count(values_N: NDArray[np.float64]) -> Counter[int]:
    """Values by bin; bins without any are absent."""
    number, size = np.unique(bins(np.asarray(values_N, np.float64)), return_counts=True)
    return Counter(dict(zip(number.tolist(), size.tolist(), strict=True)))


def merged(parts: Iterable[Histogram]) -> Counter[int]:
    """All of them together."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return total
