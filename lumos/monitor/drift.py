"""How unlike two histograms are: the population stability index, and Kolmogorov and Smirnov's.

The index is the symmetric relative entropy of two distributions over some ten bins of equally many
of the reference (Siddiqi, *Credit Risk Scorecards*, 2006); the distance is the largest difference
of the cumulated shares over all bins. Both are of values, not of counts: half the rows with the
same values is no drift.

Shape suffixes: K bins.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lumos.monitor.histograms import MISSING, Histogram

_NUM_BINS = 10
_HALF_A_ROW = 0.5  # in every bin, so that an empty one does not make the index infinite


def psi(ours_K: Sequence[float], theirs_K: Sequence[float]) -> float:
    """Population stability index of two lists of counts over the same bins: 0 for equal ones."""
    ours, theirs = (_shares(np.asarray(each, np.float64)) for each in (ours_K, theirs_K))
    return float(np.sum((ours - theirs) * np.log(ours / theirs)))


def _shares(counts_K: NDArray[np.float64]) -> NDArray[np.float64]:
    smoothed = counts_K + _HALF_A_ROW
    return np.asarray(smoothed / smoothed.sum(), np.float64)


def stability(ours: Histogram, reference: Histogram) -> float | None:
    """:func:`psi` over bins of about equally many of the reference; ``None`` if one is empty."""
    if not sum(ours.values()) or not sum(reference.values()):
        return None
    group = _groups(reference, {*ours, *reference})
    size = max(group.values()) + 1
    sums = np.zeros((2, size))
    for row, histogram in enumerate((ours, reference)):
        for number, amount in histogram.items():
            sums[row, group[number]] += amount
    return psi(sums[0].tolist(), sums[1].tolist())


def _groups(reference: Histogram, numbers: set[int]) -> Mapping[int, int]:
    """The coarse bin of each fine one. Missing values are always a bin of their own."""
    least = sum(reference.values()) / _NUM_BINS
    group, inside, found = 0, 0.0, {}
    for number in sorted(numbers - {MISSING}):
        found[number] = group
        inside += reference.get(number, 0)
        if inside >= least:
            group, inside = group + 1, 0.0
    return {**found, MISSING: max(found.values(), default=-1) + 1}


def distance(ours: Histogram, reference: Histogram) -> float | None:
    """Kolmogorov and Smirnov's distance, 0 to 1; ``None`` if one of them is empty."""
    totals = sum(ours.values()), sum(reference.values())
    if not all(totals):
        return None
    order = sorted({*ours, *reference})
    ahead = [
        np.cumsum([each.get(number, 0) for number in order]) / total
        for each, total in zip((ours, reference), totals, strict=True)
    ]
    return float(np.abs(ahead[0] - ahead[1]).max())
