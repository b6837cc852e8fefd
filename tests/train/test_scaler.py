from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lumos.accio.batch import RaggedBatch, ragged_batch
from lumos.accio.dense import Batch
from lumos.accio.users import Users
from lumos.train.scaler import Scaler, ScalerFit
from tests.accio import small

RECIPE = small.recipe()
USERS = small.users()
LAST = int(USERS.days.max()) - 30


def fitted(users: Users, last: int = LAST) -> Scaler:
    fit = ScalerFit(RECIPE, last)
    for part in (users.take(np.arange(10)), users.take(np.arange(10, len(users)))):
        fit.add(part)
    return fit.scaler(small.calendar(), last - 60)


def ragged(users: Users, origins: np.ndarray) -> RaggedBatch:
    return ragged_batch(users, origins, RECIPE.history_days, RECIPE.horizon_days)


def batch(scaler: Scaler, raw: RaggedBatch, **hide: tuple[int, int]) -> Batch:
    return scaler.batch(raw, small.calendar(), RECIPE, **hide)


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


def test_no_day_after_the_last_training_origin_is_counted() -> None:
    after = USERS.days > LAST
    poisoned = replace(USERS, columns=tuple(np.where(after, np.nan, c) for c in USERS.columns))
    assert fitted(poisoned) == fitted(USERS)


def test_the_scaler_survives_its_json() -> None:
    scaler = fitted(USERS)
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
    targets = batch(scaler, raw).targets_BFU.numpy()
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
    empty = ScalerFit(RECIPE, LAST)
    empty.add(USERS.take(np.zeros(0, np.int64)))
    assert all(np.isfinite(list(empty.scaler(small.calendar(), LAST - 3).scale.values())))
