"""What are vectors of users worth to someone who only fits a logistic regression on them?

Rows are users at origins. The regression is fitted on the first origins, its shrinkage chosen on
later ones, and the last are judged once. Inputs of any kind pass the same way: standardised on the
first origins, missing as their mean.

Shape suffixes: N rows, K inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lumos.serve.accuracy import Floats, auc
from lumos.serve.features import Examples
from lumos.serve.logistic import fit_logistic

# Inverse variance of the prior of a weight of a standardised input.
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)


@dataclass(frozen=True)
class Parts:
    """Which rows are for what, masks of shape (N,); parts follow each other in time."""

    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    test: NDArray[np.bool_]

    @classmethod
    def of(cls, origin_N: NDArray[np.int64], *, num_train: int, num_validation: int) -> Self:
        """The first origins, the next, and the rest."""
        days = np.unique(origin_N)
        place = np.searchsorted(days, origin_N)
        is_train = place < num_train
        is_test = place >= num_train + num_validation
        return cls(is_train, ~is_train & ~is_test, is_test)


@dataclass(frozen=True)
class Fit:
    """One task's regression, chosen on validation."""

    strength: float
    validation: float
    said_N: Floats


def downstream(inputs_NK: Floats, outcome_N: Floats, parts: Parts) -> Fit:
    """Log-odds of all rows, of the strength with the best validation AUC.

    Raises:
        ValueError: One of the parts has only one kind of outcome.
    """
    standard_NK = standardised(inputs_NK, parts.train)
    zero_K = np.zeros(standard_NK.shape[1])
    fits = []
    for strength in STRENGTHS:
        weights_K = fit_logistic(
            standard_NK[parts.train], outcome_N[parts.train], prior_K=zero_K, strength=strength
        )
        said_N = standard_NK @ weights_K
        found = auc(outcome_N[parts.validation], said_N[parts.validation])
        if found is None:
            msg = "all validation outcomes are alike; take more origins or another task"
            raise ValueError(msg)
        fits.append(Fit(strength, found, said_N))
    return max(fits, key=lambda fit: fit.validation)


def standardised(inputs_NK: Floats, is_train_N: NDArray[np.bool_]) -> Floats:
    """Mean 0 and deviation 1 on the training rows, and a column of ones, (N, K + 1)."""
    known = inputs_NK[is_train_N]
    mean_K = np.nan_to_num(np.nanmean(known, axis=0))
    deviation_K = np.nan_to_num(np.nanstd(known, axis=0))
    deviation_K = np.where(deviation_K > 0, deviation_K, 1.0)
    scaled_NK = (inputs_NK - mean_K) / deviation_K
    # Far outside of what was fitted is no evidence: a weight times that would be.
    clipped_NK = np.clip(np.nan_to_num(scaled_NK), -10, 10)
    return np.column_stack([np.ones(len(inputs_NK)), clipped_NK])


def hand_made(examples: Examples, columns: Mapping[str, Sequence[float]] | None = None) -> Floats:
    """Hand-made features as a linear model likes them, shape (N, K).

    Amounts and counts also as their logarithm, categories one-hot, and whether a feature is
    missing as an input of its own.
    """
    made = []
    for name, column_N in examples.values.items():
        is_known = np.isfinite(column_N)
        if name in examples.categorical:
            codes = np.unique(column_N[is_known])
            made += [(column_N == code).astype(np.float64) for code in codes]
        else:
            made += [column_N, np.sign(column_N) * np.log1p(np.abs(column_N))]
        if not is_known.all():
            made.append((~is_known).astype(np.float64))
    made += [np.asarray(column, np.float64) for column in (columns or {}).values()]
    return np.column_stack(made)


def difference(
    outcome_N: Floats, ours_N: Floats, theirs_N: Floats, user_N: NDArray[np.int64], *, draws: int
) -> tuple[float, float, float]:
    """Difference in AUC and its 95% interval, resampling users, whose rows hang together."""
    random = np.random.default_rng(0)
    order = np.argsort(user_N, kind="stable")
    starts = np.flatnonzero(np.diff(user_N[order], prepend=-1))
    rows = np.split(order, starts[1:])

    def gain(index: NDArray[np.int64]) -> float:
        ours, theirs = auc(outcome_N[index], ours_N[index]), auc(outcome_N[index], theirs_N[index])
        return float("nan") if ours is None or theirs is None else ours - theirs

    drawn = []
    for _ in range(draws):
        chosen = random.integers(0, len(rows), len(rows))
        drawn.append(gain(np.concatenate([rows[n] for n in chosen.tolist()])))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return gain(np.arange(len(outcome_N))), float(low), float(high)
