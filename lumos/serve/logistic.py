"""Logistic regression in a dozen lines, for fits of two or three numbers.

scikit-learn has it too, at two seconds of import in tasks that take two seconds in all.
"""

import numpy as np

from lumos.serve.accuracy import Floats

_STEPS = 50
_SMALLEST_PROBABILITY = 1e-9


def fit_logistic(
    inputs_NK: Floats, outcome_N: Floats, *, prior_K: Floats, strength: float
) -> Floats:
    """Weights by Newton's method, drawn towards a prior.

    Args:
        inputs_NK: One row an example.
        outcome_N: 0 or 1.
        prior_K: The weights to believe in without data.
        strength: How firmly: the inverse variance of the prior.
    """
    weights = np.array(prior_K, np.float64)
    ridge = strength * np.eye(len(weights))
    for _ in range(_STEPS):
        p = sigmoid(inputs_NK @ weights)
        slope = inputs_NK.T @ (p - outcome_N) + strength * (weights - prior_K)
        curve = (inputs_NK * (p * (1 - p))[:, None]).T @ inputs_NK + ridge
        step = np.linalg.solve(curve, slope)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return weights


def sigmoid(odds: Floats) -> Floats:
    """Log odds to probability."""
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.float64)


def log_odds(p: Floats) -> Floats:
    """Probability to log odds, finite for 0 and 1."""
    inside = np.clip(p, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)
