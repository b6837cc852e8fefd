from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lumos.accio.batch import RaggedBatch, ragged_batch
from lumos.accio.dense import Batch
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.model.forecaster import ForecasterConfig
from lumos.tasks import task_outcomes
from lumos.train.scaler import Scaler, ScalerFit
from lumos.verbs import BadInput
from tests.accio import small

RECIPE = small.recipe()
USERS = small.users()
LAST = int(USERS.days.max()) - 30
LAST_LABEL = LAST + 10
WITH_HEADS = small.recipe_with_heads()


def fitted(users: Users, last: int = LAST, recipe: Recipe = RECIPE) -> Scaler:
    fit = ScalerFit(recipe, last, last + 10)
    for part in (users.take(np.arange(10)), users.take(np.arange(10, len(users)))):
        fit.add(part)
    return fit.scaler(small.calendar(), last - 60)


def ragged(users: Users, origins: np.ndarray) -> RaggedBatch:
    return ragged_batch(users, origins, RECIPE.history_days, RECIPE.horizon_days)


def batch(scaler: Scaler, raw: RaggedBatch, **hide: tuple[int, int]) -> Batch:
    return scaler.batch(raw, small.calendar(), RECIPE, **hide)


def outcomes_at(users: Users, origin: int, name: str) -> np.ndarray:
    """What came true of a task after an origin, of those who were there by then."""
    users = users.take(np.flatnonzero(users.registered <= origin))
    raw = ragged(users, np.full(len(users), origin))
    return task_outcomes(WITH_HEADS, raw.windows.targets)[name]


def encoded(scaler: Scaler, plan: str | None, age: float | None, **hide: tuple[int, int]) -> list:
    users = replace(
        USERS.take(np.zeros(1, np.int64)),
        static=pa.table({"plan": pa.array([plan], pa.string()), "age": pa.array([age], "double")}),
    )
    return batch(scaler, ragged(users, users.registered), **hide).static_BS[0].tolist()


def test_scales_are_those_of_the_days_up_to_the_last_training_origin() -> None:
    values = USERS.values[USERS.days <= LAST]
    scaler = fitted(USERS)
    spend, minutes = values[:, 3], values[:, 2]
    assert scaler.scale["spend"] == pytest.approx(spend[spend > 0].mean(), rel=1e-5)
    assert scaler.scale["visited"] == 1
    num_days = sum(LAST - int(day) + 1 for day in USERS.registered)
    assert scaler.average["visited"] == pytest.approx(len(values) / num_days)
    assert scaler.average["spend"] == pytest.approx(spend.mean() / scaler.scale["spend"], rel=1e-5)
    assert scaler.loss["minutes"] == pytest.approx(minutes.var() / minutes.mean() ** 2, rel=1e-4)


@pytest.mark.parametrize(("recipe", "last_seen"), [(RECIPE, LAST), (WITH_HEADS, LAST_LABEL)])
def test_no_day_is_counted_after_the_last_training_origin_but_labels(
    recipe: Recipe, last_seen: int
) -> None:
    after = USERS.days > last_seen
    poisoned = replace(USERS, columns=tuple(np.where(after, np.nan, c) for c in USERS.columns))
    assert fitted(poisoned, recipe=recipe) == fitted(USERS, recipe=recipe)


@pytest.mark.parametrize("absurd", [np.nan, np.inf])
def test_an_activity_that_is_no_number_is_named(absurd: float) -> None:
    row = int(np.flatnonzero(USERS.days <= LAST)[5])
    minutes = USERS.columns[2].copy()
    minutes[row] = absurd
    users = replace(USERS, columns=(*USERS.columns[:2], minutes, *USERS.columns[3:]))
    user = users.user_id[users.owner[row]]
    with pytest.raises(BadInput, match=rf"column minutes of user_id {user} is {absurd} on 2024-"):
        fitted(users)


def test_each_head_is_scaled_by_the_last_outcomes_that_have_matured() -> None:
    scaler = fitted(USERS, recipe=WITH_HEADS)
    assert list(scaler.heads) == [task.name for task in WITH_HEADS.tasks if task.has_head]
    for task in WITH_HEADS.tasks:
        if not task.has_head:
            continue
        head, outcomes = (
            scaler.heads[task.name],
            outcomes_at(USERS, LAST_LABEL - task.window_days, task.name),
        )
        if task.is_binary:
            assert 0 < outcomes.mean() < 1
            assert (head.scale, head.average) == (1, pytest.approx(outcomes.mean()))
            rate = head.average
            entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
            assert head.loss == pytest.approx(entropy)
            continue
        assert head.scale == pytest.approx(np.abs(outcomes).mean())
        scaled = outcomes / head.scale
        best = np.median(scaled) if task.is_median else scaled.mean()
        off = np.abs(scaled - best) if task.is_median else (scaled - best) ** 2
        assert (head.average, head.loss) == (pytest.approx(best), pytest.approx(off.mean()))


def test_heads_of_nobody_have_some_scale() -> None:
    # None of them had registered when the windows of the heads began.
    late = replace(USERS, registered=np.full(len(USERS), LAST_LABEL, np.int32))
    heads = fitted(late, recipe=WITH_HEADS).heads
    assert all(head.scale == 1 and np.isfinite(head.loss) for head in heads.values())


def test_first_outputs_say_the_averages_and_first_losses_what_they_cost() -> None:
    scaler = fitted(USERS, recipe=WITH_HEADS)
    config = ForecasterConfig.of(
        WITH_HEADS, num_static=scaler.num_static, num_events=scaler.num_events
    )
    outputs, losses = scaler.first_outputs(config), scaler.first_losses(config)
    names = ["visited", "took_class", "minutes", "spend", "visited", "took_class"]
    chances = outputs[[0, 1, 4, 5]].sigmoid().tolist()
    assert chances == pytest.approx([scaler.average[names[n]] for n in (0, 1, 4, 5)], rel=1e-4)
    assert outputs[2:4].tolist() == pytest.approx([scaler.average[n] for n in names[2:4]])
    assert losses[:6].tolist() == pytest.approx([scaler.loss[n] for n in names])
    for number, head in enumerate(config.heads, start=6):
        said = outputs[number].sigmoid() if head.is_binary else outputs[number]
        assert said.item() == pytest.approx(scaler.heads[head.name].average, rel=1e-4)
        assert losses[number].item() == pytest.approx(scaler.heads[head.name].loss)


def test_a_batch_knows_its_origins_its_outcomes_and_what_has_matured() -> None:
    scaler, last = fitted(USERS, recipe=WITH_HEADS), LAST
    origins = np.tile(last - np.array([21, 7, 7, 0]), (len(USERS), 1))
    raw = ragged_batch(USERS, origins, WITH_HEADS.history_days, WITH_HEADS.horizon_days)
    made = scaler.batch(raw, small.calendar(), WITH_HEADS, last_label=last + 4)
    assert made.origin_BM[0].tolist() == [20, 34, 34, 41]
    assert made.weight_BM[0].tolist() == [1, 0, 1, 1]
    assert made.is_known_BMF.sum(2)[0].tolist() == [10, 10, 10, 4]
    heads = [task for task in WITH_HEADS.tasks if task.has_head]
    is_known = [[t.window_days <= 10, t.window_days <= 4] for t in heads]
    assert made.is_task_known_BMK[0, 2:].T.tolist() == is_known
    for number, origin in enumerate(origins[0].tolist()):
        alone = ragged(USERS, np.full(len(USERS), origin)).windows.targets
        targets = made.targets_BMFU[:, number].numpy() * scaler.scales
        np.testing.assert_allclose(targets, alone, rtol=1e-6)
        assert np.array_equal(made.is_active_BMF[:, number].numpy(), alone[..., 0] > 0)
        for place, task in enumerate(heads):
            expected = task_outcomes(WITH_HEADS, alone)[task.name]
            scaled = made.task_targets_BMK[:, number, place].numpy()
            np.testing.assert_allclose(
                scaled * scaler.heads[task.name].scale, expected, rtol=1e-5, atol=1e-6
            )


def test_everything_is_known_where_nobody_says_until_when() -> None:
    scaler = fitted(USERS, recipe=WITH_HEADS)
    raw = ragged(USERS, np.full(len(USERS), LAST))
    made = scaler.batch(raw, small.calendar(), WITH_HEADS)
    assert made.is_known_BMF.all()
    assert made.is_task_known_BMK.all()
    assert batch(scaler, raw).task_targets_BMK.shape == (len(USERS), 1, 0)


def test_the_scaler_survives_its_json() -> None:
    scaler = fitted(USERS, recipe=WITH_HEADS)
    assert Scaler.model_validate_json(scaler.model_dump_json()) == scaler


def test_an_empty_day_stays_zero_and_a_refund_is_the_mirror_of_a_payment() -> None:
    scaler = fitted(USERS)
    users = USERS.take(np.arange(2))
    raw = ragged(users, users.registered + 50)
    mirrored = replace(raw, windows=replace(raw.windows, values=-raw.windows.values))
    paid, refunded = (batch(scaler, each).history_BTU for each in (raw, mirrored))
    torch.testing.assert_close(paid, -refunded)
    assert not paid[~torch.from_numpy(raw.windows.history.any(axis=2))].any()
    assert torch.isfinite(paid).all()


def test_targets_are_linear_so_that_their_mean_can_be_learned() -> None:
    scaler = fitted(USERS)
    raw = ragged(USERS, USERS.registered + 50)
    targets = batch(scaler, raw).targets_BMFU[:, 0].numpy()
    np.testing.assert_allclose(targets * scaler.scales, raw.windows.targets, rtol=1e-6)


def test_missing_and_unseen_are_categories_of_their_own() -> None:
    scaler = fitted(USERS)
    known = scaler.categories["plan"]
    assert sorted(known) == ["basic", "gold", "student"]
    codes = {plan: encoded(scaler, plan, 30.0)[:5] for plan in (*known, None, "platinum")}
    assert [codes[plan].index(1.0) for plan in (*known, None, "platinum")] == [0, 1, 2, 3, 4]
    assert all(sum(code) == 1 for code in codes.values())
    assert encoded(scaler, "gold", None)[5:] == [0.0, 1.0]
    assert encoded(scaler, "gold", scaler.statics["age"].mean)[5:] == [0.0, 0.0]


def test_training_shows_some_known_categories_as_unseen_and_serving_none() -> None:
    scaler = fitted(USERS)
    everyone = USERS.take(np.tile(np.arange(len(USERS)), 200))
    ids = np.array([str(n) for n in range(len(everyone))], object)
    everyone = replace(everyone, user_id=ids)
    raw = ragged(everyone, everyone.registered)
    unseen = batch(scaler, raw, hide=(0, 1)).static_BS[:, 4].mean()
    assert 0.005 < unseen < 0.015
    assert not batch(scaler, raw).static_BS[:, 4].any()


def test_a_constant_event_column_is_not_divided_by_zero() -> None:
    scaler = fitted(USERS)
    # The recipe's calendar has holidays; some window of the gym's has none.
    assert all(column.deviation > 0 for column in scaler.events.values())
    empty = ScalerFit(RECIPE, LAST, LAST_LABEL)
    empty.add(USERS.take(np.zeros(0, np.int64)))
    assert all(np.isfinite(list(empty.scaler(small.calendar(), LAST - 3).scale.values())))
