import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from lumos.tasks import DayForecasts, auc, log_loss, task_outcomes, task_scores, wape
from tests.accio import small

RECIPE = small.recipe()  # visit_10d: any, visit_3d: any, minutes_10d: sum


def test_a_task_joins_the_days_of_its_window_alone() -> None:
    p = np.full((2, 10, 2), 0.5, np.float32)
    p[1, :3, 0] = [0.1, 0.0, 1.0]
    mean = np.ones((2, 10, 2), np.float32)
    scores = task_scores(RECIPE, DayForecasts(p, mean * 9, mean))
    assert scores["visit_3d"] == pytest.approx([1 - 0.5**3, 1.0])
    assert scores["visit_10d"] == pytest.approx([1 - 0.5**10, 1.0])
    assert scores["minutes_10d"] == pytest.approx([10, 10])


def test_outcomes_ask_the_same_questions_of_what_came_true() -> None:
    targets = np.zeros((3, 10, 4), np.float32)
    targets[0, 5, 0] = 1
    targets[1, 2, 0] = 1
    targets[0, 5, 2] = 45
    outcomes = task_outcomes(RECIPE, targets)
    assert outcomes["visit_10d"].tolist() == [1, 1, 0]
    assert outcomes["visit_3d"].tolist() == [0, 1, 0]
    assert outcomes["minutes_10d"].tolist() == [45, 0, 0]


def test_measures_match_scikit_learn() -> None:
    random = np.random.default_rng(0)
    outcome, p = random.random(500) < 0.3, random.random(500).round(2)
    assert auc(outcome, p) == pytest.approx(roc_auc_score(outcome, p))
    inside = np.clip(p, 0.01, 0.99)
    assert log_loss(outcome, inside) == pytest.approx(sklearn_log_loss(outcome, inside))


def test_a_measure_that_is_undefined_is_none_and_not_a_guess() -> None:
    assert auc(np.zeros(3), np.arange(3)) is None
    assert wape(np.zeros(3), np.ones(3)) is None
    assert wape(np.array([1.0, 3.0]), np.array([2.0, 1.0])) == pytest.approx(0.75)
    assert np.isfinite(log_loss(np.array([1.0]), np.array([0.0])))
