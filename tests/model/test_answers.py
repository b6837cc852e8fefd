"""From the network's numbers to answers: chances, amounts, and both means of an amount."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumos.tasks import task_scores
from lumos.train.predict import in_raw_units
from tests.model.ready import USERS, a_batch, batch_at, objective_of, recipe_of, said_of, scaler_of


def test_an_any_task_is_the_mean_of_its_head_and_of_its_hazards() -> None:
    recipe = recipe_of()
    forecast = objective_of(recipe).forecaster(a_batch(recipe, 3))
    answers = forecast.answers()
    _, hazards, heads = (part.detach().double().numpy() for part in said_of(forecast))

    def chance(logit: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-logit))

    asked = {"visit_10d": (0, 10, 0), "visit_3d": (1, 3, 0), "class_7d": (2, 7, 1)}
    for name, (number, window_days, hazard) in asked.items():
        none = np.ones(heads.shape[:2])
        for day in range(window_days):
            none = none * (1 - chance(hazards[:, :, day, hazard]))
        expected = (chance(heads[..., number]) + 1 - none) / 2
        np.testing.assert_allclose(answers[name].detach(), expected, atol=1e-6)
    np.testing.assert_allclose(answers["busy_week"].detach(), chance(heads[..., 5]), atol=1e-6)
    np.testing.assert_allclose(answers["spend_7d"].detach(), heads[..., 3], rtol=1e-6)
    np.testing.assert_allclose(answers["minutes_10d"].detach(), heads[..., 4], rtol=1e-6)
    assert list(answers) == [task.name for task in recipe.tasks if task.has_head]


def test_a_chance_stays_one_however_sure_the_hazards_are() -> None:
    recipe = recipe_of()
    forecast = objective_of(recipe).forecaster(a_batch(recipe))
    for sure, expected in ((200.0, 1.0), (-200.0, 0.0)):
        certain = replace(
            forecast,
            hazards_BMFA=torch.full_like(forecast.hazards_BMFA, sure),
            heads_BMK=torch.full_like(forecast.heads_BMK, sure),
        )
        for name in ("visit_10d", "visit_3d", "class_7d", "busy_week"):
            assert certain.answers()[name].unique().tolist() == [expected]


def test_both_means_of_an_amount_are_given_in_raw_units() -> None:
    recipe = recipe_of()
    scaler, forecaster = scaler_of(recipe), objective_of(recipe).forecaster
    origins = USERS.registered + 45
    with torch.inference_mode():
        forecast = forecaster(batch_at(recipe, USERS, origins[:, None]))
    days = in_raw_units(forecast, recipe, scaler)
    outputs = forecast.outputs_BMFU[:, 0].double().numpy()
    assert days.p.shape == days.given.shape == days.mean.shape == (len(USERS), 10, 2)
    np.testing.assert_allclose(days.p, 1 / (1 + np.exp(-outputs[..., :2])), atol=1e-6)
    scales = np.array([scaler.scale["minutes"], scaler.scale["spend"]])
    raw = outputs[..., 2:] * scales
    np.testing.assert_allclose(days.given, np.maximum(raw, 0), rtol=1e-5, atol=1e-4)
    assert (raw < 0).any()  # and nobody spends less than nothing
    np.testing.assert_allclose(days.mean, days.p[..., :1] * days.given, rtol=1e-6)


def test_heads_answer_in_raw_units_and_are_what_a_task_scores() -> None:
    recipe = recipe_of()
    scaler, forecaster = scaler_of(recipe), objective_of(recipe).forecaster
    with torch.inference_mode():
        forecast = forecaster(batch_at(recipe, USERS, (USERS.registered + 45)[:, None]))
    days = in_raw_units(forecast, recipe, scaler)
    answers = {name: answer[:, 0].numpy() for name, answer in forecast.answers().items()}
    for name in ("spend_7d", "minutes_10d"):
        scaled = np.maximum(answers[name] * scaler.heads[name].scale, 0)
        np.testing.assert_allclose(days.heads[name], scaled, rtol=1e-5)
        assert scaler.heads[name].scale > 10
    scores = task_scores(recipe, days)
    for name in ("visit_10d", "visit_3d", "class_7d", "busy_week"):
        np.testing.assert_allclose(days.heads[name], answers[name], rtol=1e-6)
    for name, answer in days.heads.items():
        np.testing.assert_array_equal(scores[name], answer)
    # Without a head the days answer.
    expected = 1 - np.prod(1 - days.p[:, :3, 1].astype(float), axis=1)
    assert scores["class_3d"] == pytest.approx(expected, abs=1e-6)


def test_forecasts_are_those_of_the_last_origin() -> None:
    recipe = recipe_of()
    scaler, forecaster = scaler_of(recipe), objective_of(recipe).forecaster
    with torch.inference_mode():
        forecast = forecaster(a_batch(recipe, 3))
    last = replace(
        forecast,
        outputs_BMFU=forecast.outputs_BMFU[:, -1:],
        hazards_BMFA=forecast.hazards_BMFA[:, -1:],
        heads_BMK=forecast.heads_BMK[:, -1:],
    )
    ours, theirs = (in_raw_units(each, recipe, scaler) for each in (forecast, last))
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-6)
    for name, answer in ours.heads.items():
        np.testing.assert_allclose(answer, theirs.heads[name], rtol=1e-6)
