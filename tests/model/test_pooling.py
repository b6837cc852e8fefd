"""Pooling against the sums written out; what is not there has no weight."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lumos.config import EmbeddingConfig
from lumos.model.pooling import day_weights, pool

FORMS = (
    EmbeddingConfig(pooling="mean"),
    EmbeddingConfig(pooling="max"),
    EmbeddingConfig(pooling="ema", decay=4),
)


def states(num_users: int = 3, num_days: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_users, num_days, 5, generator=torch.Generator().manual_seed(seed))


def literal(days: np.ndarray, is_known: np.ndarray, form: EmbeddingConfig) -> np.ndarray:
    """One user's."""
    known = [n for n, there in enumerate(is_known) if there]
    if form.pooling == "max":
        return np.max([days[n] for n in known], axis=0)
    decay = form.decay if form.pooling == "ema" else 0
    weights = [np.exp(decay * n / (len(days) - 1)) for n in known]
    return sum(w * days[n] for w, n in zip(weights, known, strict=True)) / sum(weights)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.pooling)
def test_it_is_what_the_definition_says_of_the_days_since_registration(
    form: EmbeddingConfig,
) -> None:
    made, is_known = states(), torch.ones(3, 9, dtype=torch.bool)
    is_known[1, :4], is_known[2, :8] = False, False

    pooled = pool(made, is_known, form)

    for user in range(3):
        expected = literal(made[user].numpy(), is_known[user].numpy(), form)
        assert np.allclose(pooled[user], expected, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.pooling)
@pytest.mark.parametrize("value", [1e9, float("inf"), float("nan")])
def test_days_before_registration_change_nothing_whatever_they_hold(
    form: EmbeddingConfig, value: float
) -> None:
    made, is_known = states(), torch.ones(3, 9, dtype=torch.bool)
    is_known[:, :4] = False
    spoilt = made.clone()
    spoilt[:, :4] = value

    assert torch.equal(pool(spoilt, is_known, form), pool(made, is_known, form))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.pooling)
def test_whoever_has_no_day_at_all_is_zero(form: EmbeddingConfig) -> None:
    nothing = pool(states(), torch.zeros(3, 9, dtype=torch.bool), form)
    assert torch.equal(nothing, torch.zeros(3, 5))


def test_a_decay_of_zero_is_the_mean_and_a_great_one_the_last_day() -> None:
    made, is_known = states(), torch.ones(3, 9, dtype=torch.bool)

    def ema(decay: float) -> torch.Tensor:
        return pool(made, is_known, EmbeddingConfig(pooling="ema", decay=decay))

    assert torch.allclose(ema(0), pool(made, is_known, FORMS[0]), atol=1e-6)
    away = [float((ema(decay) - made[:, -1]).norm()) for decay in (0, 2, 8, 32, 100)]
    assert all(later < sooner for sooner, later in pairwise(away))
    assert away[-1] < 1e-3


def test_forms_are_named_by_what_makes_them_differ() -> None:
    config = EmbeddingConfig
    names = {config(pooling=p, stage=s, decay=d).form for p in ("mean", "max", "ema")
             for s in ("pre", "post") for d in (1.0, 2.0)}  # fmt: skip
    assert len(names) == 8  # a decay counts for `ema` alone


@pytest.mark.parametrize("form", [FORMS[0], FORMS[2]], ids=lambda form: form.pooling)
def test_the_weight_of_a_day_is_how_far_it_moves_the_vector(form: EmbeddingConfig) -> None:
    made, is_known = states(), torch.ones(3, 9, dtype=torch.bool)
    is_known[1, :4], is_known[2, :8] = False, False
    moved = made.clone()
    moved[:, -1] += 1

    weights = day_weights(np.array([20, 5, 1]), 9, form)

    step = pool(moved, is_known, form) - pool(made, is_known, form)
    assert np.allclose(step.numpy(), weights[:, None], atol=1e-5)
    assert day_weights(np.array([20, 5, 1]), 9, FORMS[1]).tolist() == [1, 1, 1]
