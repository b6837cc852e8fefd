"""What an origin may see, and what of it counts: nothing after it, no label twice or too late."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumos.accio.contract import event_calendar
from lumos.accio.dense import Batch
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.model.loss import term_sums
from tests.accio import small
from tests.model.ready import (
    LAST_DAY,
    USERS,
    batch_at,
    gradients,
    loss_of,
    objective_of,
    recipe_of,
    said_of,
)

LAST = LAST_DAY - 25
FORMS = [
    (positions, patch)
    for patch in (1, 7)
    for positions in ("learned", "none", "sinusoidal", "tape", "absolute", "rope", "distance")
]


def three_origins(recipe: Recipe) -> np.ndarray:
    """Of every user the same: a week apart, the last on ``LAST``."""
    return np.tile(LAST - np.array([14, 7, 0]), (len(USERS), 1))


def users_after(day: int, values: np.ndarray) -> Users:
    """What everyone does after a day replaced; ``values`` of shape (days of all users,)."""
    is_after = USERS.days > day
    return replace(USERS, columns=tuple(np.where(is_after, values, c) for c in USERS.columns))


def corrected() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gym's timetable, corrected once more three days late."""
    days, known_on, values = small.event_rows()
    late = np.unique(days)
    return (
        np.concatenate([days, late]),
        np.concatenate([known_on, late + 3]),
        np.concatenate([values, values[: len(late)] + 1]),
    )


def calendar_after(recipe: Recipe, day: int, value: float | None) -> EventCalendar:
    """Whatever was announced after a day replaced, unless by ``None``."""
    days, known_on, values = corrected()
    if value is not None:
        values = np.where(known_on[:, None] > day, np.float32(value), values)
    return event_calendar(recipe, days, known_on, values)


@pytest.mark.parametrize(
    ("encoder", "num_origins"), [("bidirectional", 1), ("causal", 1), ("causal", 3)]
)
def test_nothing_after_the_last_origin_reaches_a_forecast(encoder: str, num_origins: int) -> None:
    recipe = recipe_of(model__encoder=encoder)
    origins_BM = three_origins(recipe)[:, -num_origins:]
    clean = batch_at(recipe, USERS, origins_BM, calendar=calendar_after(recipe, LAST, None))
    poison = np.full(len(USERS.days), np.nan, np.float32)
    dirty = batch_at(
        recipe,
        users_after(LAST, poison),
        origins_BM,
        calendar=calendar_after(recipe, LAST, np.nan),
    )
    assert torch.isnan(dirty.targets_BMFU).any()
    forecaster = objective_of(recipe).forecaster
    for ours, theirs in zip(said_of(forecaster(clean)), said_of(forecaster(dirty)), strict=True):
        assert torch.isfinite(ours).all()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("positions", "patch"), FORMS)
def test_nothing_after_an_inner_origin_reaches_its_forecast(positions: str, patch: int) -> None:
    recipe = recipe_of(model__positions=positions, model__patch_days=patch)
    origins_BM = three_origins(recipe)
    forecaster = objective_of(recipe).forecaster
    known = calendar_after(recipe, LAST, None)
    before = said_of(forecaster(batch_at(recipe, USERS, origins_BM, calendar=known)))
    # Garbage, not NaN: what a mask hides is multiplied by zero.
    garbage = np.random.default_rng(0).gamma(2, 500, len(USERS.days)).astype(np.float32)
    for number, origin in enumerate(origins_BM[0, :-1].tolist()):
        other = batch_at(
            recipe,
            users_after(origin, garbage),
            origins_BM,
            calendar=calendar_after(recipe, origin, 77.0),
        )
        after = said_of(forecaster(other))
        for ours, theirs in zip(before, after, strict=True):
            assert torch.equal(ours[:, : number + 1], theirs[:, : number + 1])
            assert (ours[:, number + 1 :] != theirs[:, number + 1 :]).any()


def test_an_event_announced_after_the_origin_is_unknown_at_it_and_known_at_the_next() -> None:
    recipe = recipe_of(model__patch_days=1)
    # The gym corrects its timetable two days ahead: here the correction for LAST + 1.
    days, known_on, values = small.event_rows()
    is_it = (days == LAST + 1) & (known_on == LAST - 1)
    assert is_it.sum() == 1
    changed = np.where(is_it[:, None], np.float32(99), values)
    origins_BM = np.tile(LAST - np.array([2, 1]), (len(USERS), 1))
    before, after = (
        batch_at(recipe, USERS, origins_BM, calendar=event_calendar(recipe, days, known_on, v))
        for v in (values, changed)
    )
    shown = [
        batch.events_EC[batch.event_index_BL[:, recipe.history_days :]].unflatten(1, (2, 10))
        for batch in (before, after)
    ]
    differs = (shown[0] != shown[1]).any(dim=(0, 3))
    assert differs.nonzero().tolist() == [[1, 1]]  # of the second origin, its second day


def labels(recipe: Recipe, users: Users, origins_BM: np.ndarray) -> Batch:
    """Labels up to the fifth day after ``LAST``."""
    return batch_at(recipe, users, origins_BM, last_label=LAST + 5)


@pytest.mark.parametrize("weighting", ["fixed", "learned"])
def test_what_happened_after_the_last_label_counts_for_nothing(weighting: str) -> None:
    recipe = recipe_of(training__loss__weighting=weighting)
    origins_BM = three_origins(recipe)
    objective = objective_of(recipe)
    clean = labels(recipe, USERS, origins_BM)
    poison = np.full(len(USERS.days), np.nan, np.float32)
    dirty = labels(recipe, users_after(LAST + 5, poison), origins_BM)
    assert torch.isnan(dirty.targets_BMFU).any()
    assert torch.equal(objective.counts(clean), objective.counts(dirty))
    assert torch.equal(loss_of(objective, clean), loss_of(objective, dirty))
    ours, theirs = (gradients(objective, loss_of(objective, batch)) for batch in (clean, dirty))
    for name, gradient in ours.items():
        assert torch.equal(gradient, theirs[name]), name
        assert torch.isfinite(gradient).all(), name


def test_a_task_counts_once_its_window_has_matured_and_a_day_once_it_has_passed() -> None:
    recipe = recipe_of()
    objective, number = objective_of(recipe), len(USERS)
    batch = labels(recipe, USERS, three_origins(recipe)[:, -1:])
    counts = dict(zip(objective.terms, objective.counts(batch).tolist(), strict=True))
    assert counts["visited"] == counts["took_class"] == 5 * number
    assert counts["minutes"] == counts["spend"] == int(batch.is_active_BMF[:, :, :5].sum())
    assert counts["head_visit_3d"] == number
    unripe = ["visit_10d", "class_7d", "spend_7d", "minutes_10d", "busy_week"]
    assert [counts[f"head_{name}"] for name in unripe] == [0] * 5
    # A hazard asks about the days up to the first 1, of those that have passed.
    came = batch.targets_BMFU[:, 0, :5, 0].bool()
    first = torch.where(came.any(1), came.int().argmax(1) + 1, 5)
    assert counts["hazard_visited"] == int(first.sum())


def test_an_origin_drawn_twice_counts_once() -> None:
    recipe = recipe_of()
    objective = objective_of(recipe)
    once, twice = (
        labels(recipe, USERS, three_origins(recipe)[:, which])
        for which in ([0, 1, 2], [0, 1, 1, 2, 2])
    )
    assert twice.weight_BM[0].tolist() == [1, 0, 1, 0, 1]
    assert torch.equal(objective.counts(once), objective.counts(twice))
    torch.testing.assert_close(loss_of(objective, once), loss_of(objective, twice))
    sums = [term_sums(objective.forecaster(batch), batch) for batch in (once, twice)]
    torch.testing.assert_close(*sums)


def test_many_origins_in_one_pass_teach_what_passes_of_their_own_would() -> None:
    recipe = recipe_of(model__positions="rope", model__patch_days=1)
    objective, origins_BM = objective_of(recipe), three_origins(recipe)
    together = objective.forecaster(batch_at(recipe, USERS, origins_BM)).outputs_BMFU
    shorter = recipe_of(model__positions="rope", model__patch_days=1, history_days=7)
    alone = objective_of(shorter)
    alone.load_state_dict(objective.state_dict())
    # rope knows distances alone, so the first week is a window of its own.
    first = batch_at(shorter, USERS, origins_BM[:, :1])
    torch.testing.assert_close(
        alone.forecaster(first).outputs_BMFU[:, 0], together[:, 0], atol=1e-5, rtol=1e-5
    )
