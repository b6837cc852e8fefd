"""Ways to calibrate a chance that the shipped one is compared with.

Each takes outcomes and forecasts and returns a map. Beta calibration is Kull, Silva Filho and Flach
(2017): a logistic regression on log p and -log(1 - p), neither slope below zero. ForeCal is Nigam
(2024, arXiv 2409.02446): a random forest on the forecast alone, held monotone, whose leaves are
means of outcomes and so stay within 0 and 1; the size of its leaves is chosen by the log loss out
of the bag.
"""

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lumos.config import Task
from lumos.serve.accuracy import log_loss
from lumos.serve.calibrators import centred_isotonic, fit_task
from lumos.serve.logistic import fit_logistic, log_odds, sigmoid

Map = Callable[[np.ndarray], np.ndarray]
_CHANCE = Task(name="chance", kind="any", column="any", window_days=1)
_LEAVES = (50, 150, 450)
_TREES = 100


def raw(_outcome: np.ndarray, _forecast: np.ndarray) -> Map:
    """As the forecaster said it."""
    return lambda forecast: forecast


def ours(outcome: np.ndarray, forecast: np.ndarray) -> Map:
    """What `lumos publish` does."""
    return fit_task(_CHANCE, outcome, forecast)


def centred(outcome: np.ndarray, forecast: np.ndarray) -> Map:
    """What `lumos publish` does with very many outcomes, here with any number."""
    x, y = centred_isotonic(outcome, forecast)
    return lambda said: np.interp(said, x, y)


def isotonic(outcome: np.ndarray, forecast: np.ndarray) -> Map:
    """Plain isotonic regression."""
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(forecast, outcome)
    return lambda x: np.asarray(fitted.predict(x))


def platt(outcome: np.ndarray, forecast: np.ndarray) -> Map:
    """Log odds shifted and stretched, without a penalty."""
    odds = log_odds(forecast)[:, None]
    fitted = LogisticRegression(C=np.inf).fit(odds, outcome)
    return lambda x: np.asarray(fitted.predict_proba(log_odds(x)[:, None])[:, 1])


def beta(outcome: np.ndarray, forecast: np.ndarray) -> Map:
    """Beta calibration, by the weakest prior that keeps Newton's steps finite."""
    columns = [0, 1, 2]
    while True:
        prior = np.array([0.0, 1.0, 1.0])[columns]
        inputs = _beta_inputs(forecast)[:, columns]
        weights = fit_logistic(inputs, outcome, prior_K=prior, strength=1e-3)
        falling = [c for c, w in zip(columns, weights, strict=True) if c and w < 0]
        if not falling:
            return lambda x: sigmoid(_beta_inputs(x)[:, columns] @ weights)
        columns.remove(falling[0])


def _beta_inputs(forecast: np.ndarray) -> np.ndarray:
    p = np.clip(forecast, 1e-9, 1 - 1e-9)
    return np.column_stack([np.ones_like(p), np.log(p), -np.log1p(-p)])


def forecal(outcome: np.ndarray, forecast: np.ndarray) -> Map:
    """A monotone random forest on the forecast alone."""
    forests = []
    for leaf in _LEAVES:
        forest = RandomForestRegressor(
            _TREES,
            min_samples_leaf=leaf,
            monotonic_cst=[1],
            oob_score=True,
            random_state=0,
        ).fit(forecast[:, None], outcome)
        forests.append((log_loss(outcome, np.asarray(forest.oob_prediction_)), leaf, forest))
    best = min(forests, key=lambda found: found[:2])[2]
    return lambda x: np.asarray(best.predict(x[:, None]))


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], Map]] = {
    "raw": raw,
    "ours": ours,
    "centred": centred,
    "isotonic": isotonic,
    "platt": platt,
    "beta": beta,
    "forecal": forecal,
}
