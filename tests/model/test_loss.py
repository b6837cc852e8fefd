"""The objective: what each term counts, how terms are weighted, and sums that can be added up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumos.config import LossConfig, Recipe
from lumos.model.loss import term_names, term_sums, uncertainty_weighted
from lumos.overrides import override
from tests.accio import small
from tests.model.ready import (
    a_batch,
    batch_at,
    gradients,
    loss_of,
    objective_of,
    part_of,
    recipe_of,
    said_of,
)


def test_terms_are_columns_then_hazards_then_heads() -> None:
    config = objective_of(recipe_of()).forecaster.config
    assert term_names(config) == (
        *("visited", "took_class", "minutes", "spend"),
        *("hazard_visited", "hazard_took_class"),
        *("head_visit_10d", "head_visit_3d", "head_class_7d", "head_spend_7d"),
        *("head_minutes_10d", "head_busy_week"),
    )
    assert [head.is_median for head in config.heads] == [False] * 4 + [True, False]
    assert [head.hazard for head in config.heads] == [0, 0, 1, None, None, None]


@pytest.mark.parametrize("weighting", ["fixed", "learned"])
def test_a_term_without_a_day_that_counts_adds_nothing(weighting: str) -> None:
    recipe = recipe_of(training__loss__weighting=weighting)
    batch, objective = a_batch(recipe), objective_of(recipe)
    quiet = replace(
        batch,
        is_active_BMF=torch.zeros_like(batch.is_active_BMF),
        is_task_known_BMK=torch.zeros_like(batch.is_task_known_BMK),
    )
    is_seen = objective.counts(quiet) > 0
    assert is_seen.tolist() == [True, True, False, False, True, True] + [False] * 6
    found = gradients(objective, loss_of(objective, quiet))
    assert not any(g.any() for name, g in found.items() if "task_heads" in name)
    assert found["forecaster.heads.bias_out"].flatten().ne(0).tolist() == is_seen[:6].tolist()
    if weighting == "learned":
        assert found["log_variance_N"].ne(0).tolist() == is_seen.tolist()


def test_a_batch_of_empty_slots_has_no_loss() -> None:
    recipe = recipe_of()
    batch, objective = a_batch(recipe), objective_of(recipe)
    nobody = replace(batch, weight_BM=torch.zeros_like(batch.weight_BM))
    assert not objective.counts(nobody).any()
    loss = loss_of(objective, nobody)
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients(objective, loss).values())


@pytest.mark.parametrize("num_origins", [1, 3])
def test_sums_and_counts_of_two_parts_are_those_of_the_whole(num_origins: int) -> None:
    recipe = recipe_of()
    batch, objective = a_batch(recipe, num_origins), objective_of(recipe)
    parts = [part_of(batch, 0, 2), part_of(batch, 2, 5)]
    whole = term_sums(objective.forecaster(batch), batch)
    sums = [term_sums(objective.forecaster(part), part) for part in parts]
    torch.testing.assert_close(sums[0] + sums[1], whole)
    counts = [objective.counts(part) for part in parts]
    assert torch.equal(counts[0] + counts[1], objective.counts(batch))


def test_fixed_weights_are_shared_out_within_their_group() -> None:
    recipe = recipe_of(training__loss=LossConfig(binary=0.4, amount=3.0).model_dump())
    weights = objective_of(recipe).weight_N.tolist()
    assert weights == pytest.approx(
        [0.2, 0.2, 0.05, 0.05, 0.5, 0.5] + [0.25] * 3 + [1.5, 1.5, 0.25]
    )


def test_learned_weights_start_where_they_fit_and_are_best_at_half_the_loss() -> None:
    recipe = recipe_of(training__loss__weighting="learned")
    objective, losses = objective_of(recipe), torch.linspace(0.1, 3.0, 12)
    objective.start_at(torch.zeros(12), losses)
    log_variance = objective.log_variance_N
    torch.testing.assert_close(log_variance.exp(), losses / 2)
    loss = uncertainty_weighted(losses, log_variance, torch.ones(12, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, log_variance)
    torch.testing.assert_close(gradient, torch.zeros(12), atol=1e-6, rtol=0)


FORMS = {
    "ours": {},
    "published": {
        "model.positions": "learned",
        "model.encoder": "bidirectional",
        "model.patch_days": 1,
        "training.origins_per_window": 1,
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("has_head", [False, True])
@pytest.mark.parametrize(
    "activity", [["visited"], ["visited", "took_class"], ["visited", "minutes"]]
)
def test_a_platform_may_have_one_column_no_events_and_no_static_features(
    activity: list[str], has_head: bool, form: dict
) -> None:
    whole = small.recipe("gym_world.recipe:recipe_without_events")
    bare = {"calendar": (), "static": (), "model.num_heads": 1, **form}
    fields = override(whole, bare).model_dump()
    fields["activity"] = [c for c in fields["activity"] if c["name"] in activity]
    tasks = [t | {"has_head": has_head} for t in fields["tasks"] if t["column"] in activity]
    fields |= {"tasks": tasks}
    recipe = Recipe.model_validate(fields)
    everyone = small.users(6)
    kept = [n for n, c in enumerate(small.recipe().activity) if c.name in activity]
    users = replace(
        everyone,
        columns=tuple(everyone.columns[n] for n in kept),
        static=everyone.static.select([]),
    )
    batch = batch_at(recipe, users, (users.registered + 45)[:, None], of=users)
    objective = objective_of(recipe, of=users)
    assert objective.forecaster(batch).heads_BMK.shape == (6, 1, len(tasks) * has_head)
    loss = loss_of(objective, batch)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients(objective, loss).values())


def test_a_first_visit_teaches_its_day_and_no_later_one() -> None:
    recipe = recipe_of()
    batch, objective = a_batch(recipe), objective_of(recipe)
    forecast = objective.forecaster(batch)
    hazards = forecast.hazards_BMFA.detach().requires_grad_()
    losses = term_sums(replace(forecast, hazards_BMFA=hazards), batch)
    (gradient,) = torch.autograd.grad(losses[4:6].sum(), hazards)
    came = batch.targets_BMFU[..., :2].numpy() > 0
    for place in np.ndindex(5, 1, 2):
        user, origin, column = place
        days = came[user, origin, :, column]
        counts = (
            batch.is_known_BMF[user, origin].numpy() & (batch.weight_BM[user, origin] > 0).item()
        )
        for day in range(10):
            is_taught = bool(counts[day]) and not days[:day].any()
            slope = gradient[user, origin, day, column].item()
            assert (slope != 0) == is_taught
            assert slope == 0 or (slope < 0) == bool(days[day])
    assert len(said_of(forecast)) == 3
