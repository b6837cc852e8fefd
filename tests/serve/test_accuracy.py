"""The measures are the ones everybody means by their names."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, mean_absolute_error, roc_auc_score

from lumos.config import Task
from lumos.serve import accuracy

ANY = Task(name="a", kind="any", column="x", window_days=1)
SUM = Task(name="s", kind="sum", column="y", window_days=1)
MEDIAN = Task(name="m", kind="sum", column="y", window_days=1, metric="wape", has_head=True)


def binary(seed: int, num: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes, and forecasts with many ties."""
    random = np.random.default_rng(seed)
    forecast = np.round(random.beta(1, 3, num), 2)
    return (random.random(num) < forecast**1.3).astype(float), forecast


@pytest.mark.parametrize("seed", range(5))
def test_binary_measures_equal_those_of_scikit_learn(seed: int) -> None:
    outcome, forecast = binary(seed)

    measured = accuracy.measure(ANY, outcome, forecast)

    assert measured["auc"] == pytest.approx(roc_auc_score(outcome, forecast), abs=1e-12)
    assert measured["brier"] == pytest.approx(brier_score_loss(outcome, forecast), abs=1e-12)
    inside = np.clip(forecast, 1e-6, 1 - 1e-6)
    assert measured["log_loss"] == pytest.approx(log_loss(outcome, inside), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_equals_the_gaps_of_scikit_learns_curve(seed: int) -> None:
    outcome, forecast = binary(seed)
    forecast = forecast + np.random.default_rng(seed).random(len(forecast)) * 1e-4
    forecast /= forecast.max()

    shown, expected = calibration_curve(outcome, forecast, n_bins=10, strategy="quantile")

    # Ten bins of 200 forecasts each.
    gaps = np.abs(shown - expected).mean()
    assert accuracy.calibration_error(outcome, forecast) == pytest.approx(gaps, abs=1e-9)


def test_sum_measures_are_their_definitions() -> None:
    random = np.random.default_rng(3)
    outcome = random.gamma(1, 30, 500) * (random.random(500) < 0.6)
    forecast = np.round(outcome * 0.5 + random.gamma(2, 10, 500))

    measured = accuracy.measure(SUM, outcome, forecast)

    assert measured["mae"] == pytest.approx(mean_absolute_error(outcome, forecast))
    assert measured["wape"] == pytest.approx(np.abs(outcome - forecast).sum() / outcome.sum())
    assert measured["bias"] == pytest.approx(forecast.sum() / outcome.sum())
    assert measured["spearman"] == pytest.approx(spearmanr(outcome, forecast).statistic)


def test_the_relative_loss_is_one_for_the_mean_and_zero_for_the_truth() -> None:
    outcome, _ = binary(1)
    mean = np.full_like(outcome, outcome.mean())
    for task in (ANY, SUM):
        assert accuracy.relative_loss(task, outcome, mean) == pytest.approx(1)
        assert accuracy.relative_loss(task, outcome, outcome) == pytest.approx(0, abs=1e-4)


def test_forecasting_too_little_never_lowers_the_relative_loss() -> None:
    outcome = np.random.default_rng(0).gamma(0.2, 30, 5000)
    mean, median = (np.full_like(outcome, f(outcome)) for f in (np.mean, np.median))
    # WAPE is the one that rewards it.
    wape = [accuracy.measure(SUM, outcome, f)["wape"] for f in (median, mean)]
    assert wape[0] < wape[1]  # type: ignore[operator]

    losses = [accuracy.relative_loss(SUM, outcome, f) for f in (median, mean)]

    assert losses[0] > losses[1]  # type: ignore[operator]


def test_a_median_is_judged_by_its_distance_and_not_by_its_mean() -> None:
    outcome = np.random.default_rng(0).gamma(0.5, 30, 5000)
    mean, median = (np.full_like(outcome, f(outcome)) for f in (np.mean, np.median))

    assert accuracy.relative_loss(MEDIAN, outcome, median) == pytest.approx(1)
    assert accuracy.relative_loss(MEDIAN, outcome, outcome) == 0
    assert accuracy.relative_loss(MEDIAN, outcome, mean) > 1.05  # type: ignore[operator]
    measured = accuracy.measure(MEDIAN, outcome, median)
    assert measured["median_error"] == pytest.approx(0, abs=0.01)
    assert "bias" not in measured
    assert accuracy.measure(MEDIAN, outcome, mean)["median_error"] > 0.1  # type: ignore[operator]


def test_a_median_of_zero_is_right_for_whoever_mostly_does_nothing() -> None:
    random = np.random.default_rng(1)
    usually = np.repeat([0.0, 40.0], 2000)
    outcome = np.where(usually > 0, random.gamma(4, 10, 4000), 0) * (random.random(4000) < 0.9)
    # The halves tie at zero, and at whatever share of the active ones is below their median.
    half = float(np.quantile(outcome[2000:], 0.5))

    right = accuracy.median_error(outcome, np.where(usually > 0, half, 0.0))

    assert right == pytest.approx(0, abs=1e-3)
    assert accuracy.median_error(outcome, np.where(usually > 0, half, 0.1)) == right
    assert accuracy.median_error(outcome, np.where(usually > 0, half * 1.5, 0.0)) > 0.1
    assert accuracy.median_error(outcome, np.where(usually > 0, half * 0.6, 0.0)) > 0.1


def test_what_cannot_be_measured_is_none_and_not_a_number_that_looks_good() -> None:
    nobody = np.zeros(20)
    measured = accuracy.measure(ANY, nobody, np.full(20, 0.1))
    assert measured["auc"] is None
    assert accuracy.relative_loss(ANY, nobody, np.full(20, 0.1)) is None
    assert accuracy.measure(SUM, nobody, np.ones(20))["wape"] is None
    assert accuracy.measure(SUM, nobody, np.ones(20))["spearman"] is None
    assert accuracy.primary_loss([None, 0.5, 1.0]) == 0.75
    assert accuracy.primary_loss([None]) is None
