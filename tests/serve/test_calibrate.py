"""Calibrators mend what can be mended, change little on little data, and keep the order."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from lumos.config import Task
from lumos.delta import read
from lumos.recipes import load
from lumos.serve.accuracy import auc, calibration_error
from lumos.serve.calibrate import (
    Calibration,
    Evaluated,
    cross_fitted_error,
    fit,
    read_evaluated,
)
from lumos.serve.calibrators import cross_fitted, fit_task, in_first_half
from lumos.serve.logistic import sigmoid
from lumos.serve.publish import read_scores
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World

ANY = Task(name="a", kind="any", column="x", window_days=1)
SUM = Task(name="s", kind="sum", column="y", window_days=1)
MEDIAN = Task(name="m", kind="sum", column="y", window_days=1, metric="wape", has_head=True)


def overconfident(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of a known chance, and forecasts that are far from it in a monotone way."""
    random = np.random.default_rng(seed)
    odds = random.normal(-1, 1.2, num)
    return (random.random(num) < sigmoid(odds)).astype(float), sigmoid(2.5 * odds + 1)


def evaluated(outcome: np.ndarray, forecast: np.ndarray, task: Task = ANY) -> Evaluated:
    """As read from the table, one user a row."""
    users = np.array([f"u{n}" for n in range(len(outcome))], object)
    day = dt.date(2024, 5, 10)
    return Evaluated(day, "1", users, {task.name: forecast}, {task.name: outcome})


@pytest.mark.parametrize("kind", ["isotonic", "logistic"])
def test_a_monotone_error_is_mended_on_users_not_seen(kind: str) -> None:
    num = 40_000 if kind == "isotonic" else 500
    seen, unseen = overconfident(num), overconfident(20_000, seed=1)

    calibrator = fit_task(ANY, *seen)

    assert calibrator.kind == kind
    before = calibration_error(*unseen)
    after = calibration_error(unseen[0], calibrator(unseen[1]))
    assert before > 0.1
    assert after < before / (4 if kind == "isotonic" else 2)
    lost = auc(*unseen) - auc(unseen[0], calibrator(unseen[1]))  # type: ignore[operator]
    assert lost < 0.002


def test_ten_users_hardly_move_a_probability() -> None:
    forecast = np.full(10, 0.3)

    calibrated = fit_task(ANY, np.zeros(10), forecast)(forecast)

    assert 0.1 < calibrated[0] < 0.3


def test_an_order_that_is_upside_down_becomes_no_opinion() -> None:
    outcome, forecast = overconfident(400)

    calibrated = fit_task(ANY, outcome, 1 - forecast)(1 - forecast)

    assert np.ptp(calibrated) < 1e-9
    assert calibrated[0] == pytest.approx(outcome.mean(), abs=0.02)


def test_probabilities_stay_inside_zero_and_one() -> None:
    extremes = np.array([0.0, 1e-9, 0.5, 1.0])
    for size, kind in ((100, "logistic"), (12_000, "isotonic")):
        outcome = np.repeat([0.0, 1.0], size // 2)
        calibrator = fit_task(ANY, outcome, outcome * 0.8 + 0.1)
        assert calibrator.kind == kind
        assert np.all((calibrator(extremes) > 0) & (calibrator(extremes) < 1))
        assert np.all(np.diff(calibrator(extremes)) >= 0)


def test_sums_are_scaled_to_what_came_true() -> None:
    outcome = np.random.default_rng(0).gamma(1, 30, 5000)

    calibrated = fit_task(SUM, outcome, outcome * 0.5)(outcome * 0.5)

    assert calibrated.sum() == pytest.approx(outcome.sum(), rel=0.01)


def test_the_ratio_of_an_amount_does_not_depend_on_its_sign() -> None:
    random = np.random.default_rng(1)
    for num in (1, 30, 400):
        outcome = random.gamma(2, 20, num)
        for forecast in (outcome * 0.7, random.gamma(2, 30, num)):
            ratio = fit_task(SUM, outcome, forecast).ratio
            assert fit_task(SUM, -outcome, -forecast).ratio == ratio
            quotient = outcome.sum() / forecast.sum()
            assert min(1, quotient) <= ratio <= max(1, quotient)


@pytest.mark.parametrize("num", [60, 400])
def test_gains_and_losses_that_cancel_out_do_not_scale_the_forecasts(num: int) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        outcome, forecast = random.normal(0, 50, num), random.normal(0, 20, num)
        ratio = fit_task(SUM, outcome, forecast).ratio
        assert 0.5 < ratio < 2
        assert fit_task(SUM, -outcome, -forecast).ratio == ratio
        known = evaluated(outcome, forecast, SUM)
        assert cross_fitted_error(SUM, known) < 1


def test_outcomes_that_are_all_zero_calibrate_towards_zero_without_a_fault() -> None:
    forecast = np.full(300, 4.0)
    assert 0 <= fit_task(SUM, np.zeros(300), forecast)(forecast)[0] < 1
    assert 0 < fit_task(ANY, np.zeros(300), forecast / 10)(forecast / 10)[0] < 0.1


def test_no_user_is_calibrated_by_the_outcomes_of_their_own_half() -> None:
    outcome, forecast = overconfident(400)
    users = np.array([f"u{n}" for n in range(len(outcome))], object)
    is_first = in_first_half(users)
    turned = np.where(is_first, 1 - outcome, outcome)

    before, after = (cross_fitted(ANY, each, forecast, users) for each in (outcome, turned))

    assert before[is_first].tolist() == after[is_first].tolist()
    assert not np.isclose(before[~is_first], after[~is_first]).any()


def test_the_cross_fitted_error_sees_what_no_monotone_map_can_mend() -> None:
    random = np.random.default_rng(0)
    forecast = random.random(20_000)
    bent = (random.random(20_000) < 1 - 2 * np.abs(forecast - 0.5)).astype(float)
    straight = (random.random(20_000) < forecast**2).astype(float)

    assert cross_fitted_error(ANY, evaluated(bent, forecast)) > 0.1
    assert cross_fitted_error(ANY, evaluated(straight, forecast)) < 0.03


def test_the_cross_fitted_error_does_not_take_chance_for_an_error() -> None:
    errors = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        outcome = random.gamma(0.3, 100, 120)
        errors.append(cross_fitted_error(SUM, evaluated(outcome, np.full(120, 30.0), SUM)))
    assert np.mean(np.array(errors) > 0.1) < 0.05


def test_the_cross_fitted_error_grows_from_zero_as_users_make_a_gap_sure() -> None:
    errors = []
    for size in (200, 2000, 20_000):
        random = np.random.default_rng(0)
        forecast = random.random(size)
        bent = (random.random(size) < 1 - 2 * np.abs(forecast - 0.5)).astype(float)
        errors.append(cross_fitted_error(ANY, evaluated(bent, forecast)))
    assert errors == sorted(errors)
    assert errors[0] < 0.1 < errors[-1]


def visits(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Amounts that are often nothing, and each one's true median."""
    random = np.random.default_rng(seed)
    scale, share = random.gamma(2, 20, num), random.random(num)
    outcome = scale * random.exponential(1, num) * (random.random(num) < share)
    # P(y > m) = share * exp(-m / scale) = 1/2, or nothing where fewer than half do anything.
    return outcome, scale * np.log(np.maximum(2 * share, 1))


def test_a_median_is_not_scaled_to_the_mean() -> None:
    outcome, median = visits(4000)

    calibrator = fit_task(MEDIAN, outcome, median)

    assert (calibrator.kind, calibrator.ratio) == ("ratio", 1)
    assert calibrator(median).tolist() == median.tolist()
    assert fit_task(SUM, outcome, median).ratio > 1.5


def test_the_cross_fitted_error_of_a_true_median_is_none_and_of_a_wrong_one_is_seen() -> None:
    for seed in range(20):
        outcome, median = visits(1000, seed)
        assert cross_fitted_error(MEDIAN, evaluated(outcome, median, MEDIAN)) < 0.01
    outcome, median = visits(4000)
    for factor in (0.5, 1.8):
        wrong = evaluated(outcome, median * factor, MEDIAN)
        assert cross_fitted_error(MEDIAN, wrong) > 0.02, factor
    mean = evaluated(outcome, median + 20, MEDIAN)
    assert cross_fitted_error(MEDIAN, mean) > 0.1


def test_the_version_is_the_hash_of_the_content(tmp_path: Path, scored: World) -> None:
    recipe = load(RECIPE)
    found = read_evaluated(scored.settings, recipe, "1", scored.date)

    once, again = fit(recipe, found), fit(recipe, found)

    assert once.version == again.version
    path = Path(once.store(scored.settings, recipe))
    assert path.name == f"{once.version}.json"
    assert Calibration.model_validate_json(path.read_text()) == once
    assert once.store(scored.settings, recipe) == str(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    other = fit(recipe, Evaluated(**{**vars(found), "model_version": "2"}))
    assert other.version != once.version


def test_an_evaluation_for_other_tasks_is_refused(scored: World) -> None:
    recipe = load(RECIPE)
    renamed = [task.model_dump() | {"name": f"{task.name}_new"} for task in recipe.tasks]
    changed = type(recipe).model_validate(recipe.model_dump() | {"tasks": renamed})

    with pytest.raises(BadInput, match=r"lacks .*visit_10d_new_forecast"):
        read_evaluated(scored.settings, changed, "1", scored.date)


def test_a_sum_is_published_as_its_chance_times_its_amount_summed_over_the_window(
    scored: World,
) -> None:
    recipe = load(RECIPE)
    scored.run("publish")
    days = read(table_uri(scored.settings, recipe, "forecasts"))
    assert days is not None
    expected: dict[str, float] = {}
    for row in days.to_pylist():
        amount = row[f"p_{recipe.active}"] * row["given_minutes"]
        expected[row["user_id"]] = expected.get(row["user_id"], 0.0) + amount
    calibration = fit(recipe, read_evaluated(scored.settings, recipe, "1", scored.date))
    (ratio,) = [c.ratio for c in calibration.calibrators if c.task == "minutes_10d"]

    scores = read_scores(scored.settings, recipe, today=scored.date)

    assert 0 < ratio != 1
    for row in scores.to_pylist():
        assert row["minutes_10d"] == pytest.approx(ratio * expected[row["user_id"]], rel=1e-5)


def test_amounts_are_published_with_their_intervals_and_chances_without(scored: World) -> None:
    recipe = load(RECIPE)
    report = scored.run("publish")

    scores = read_scores(scored.settings, recipe, today=scored.date)

    stored = Calibration.model_validate_json(Path(report.details["calibrator"]).read_text())
    (interval,) = stored.intervals
    assert (interval.task, interval.level) == ("minutes_10d", recipe.calibration.interval_level)
    score, low, high = (scores[f"minutes_10d{end}"].to_numpy() for end in ("", "_low", "_high"))
    assert np.all((low <= score) & (score <= high))
    assert np.all(low >= 0)
    assert (high - low).max() > 0
    assert not {"visit_10d_low", "visit_10d_high"} & set(scores.column_names)
