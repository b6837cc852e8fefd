"""Flags: what does not belong is found, and no day whatever raises more of them than the rate."""

import numpy as np
import pytest

from lumos.serve.changes import Step, groups_of, p_values

RATE = 0.002
NUM, WIDTH = 20_000, 12


def everybody(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings on the first day, and how often each comes, in 28 days."""
    random = np.random.default_rng(seed)
    habit = random.beta(0.5, 2, NUM)
    return random.normal(size=(NUM, WIDTH)).astype(np.float32), random.binomial(28, habit)


def a_day(
    before: np.ndarray, active: np.ndarray, seed: int, *, size: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Who comes is moved the further, the rarer it is; and with some days more than with others."""
    random = np.random.default_rng(seed)
    came = random.random(NUM) < (active + 0.3) / 29
    length = size * np.where(came, 1 / (1 + active), 0.01) * random.lognormal(0, 0.4, NUM)
    away = random.normal(size=(NUM, WIDTH))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return (before + length[:, None] * away).astype(np.float32), came


def flagged(
    before: np.ndarray, now: np.ndarray, group: np.ndarray, usual: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Who is, and the share with a p-value below the rate."""
    step = Step.fit(now - before, group)
    _, score = step.measure(now - before, group)
    p = p_values(score, step.scores if usual is None else usual)
    return (p <= RATE) & (score > step.cutoff(RATE)), float((p <= RATE).mean())


@pytest.fixture(scope="module")
def usual() -> np.ndarray:
    """Scores of two steps like any other."""
    before, active = everybody()
    scores = []
    for seed in (1, 2):
        now, came = a_day(before, active, seed)
        scores.append(Step.fit(now - before, groups_of(active, came)).scores)
        before = now
    return np.sort(np.concatenate(scores))


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_on_a_usual_day_no_more_than_the_rate_are_flagged(usual: np.ndarray, seed: int) -> None:
    before, active = everybody()
    now, came = a_day(before, active, seed)

    is_flagged, unusual = flagged(before, now, groups_of(active, came), usual)

    assert 0 < is_flagged.sum() <= RATE * NUM
    assert unusual == pytest.approx(RATE, rel=0.5)


def test_injected_changes_are_found_among_users_of_every_habit(usual: np.ndarray) -> None:
    before, active = everybody()
    now, came = a_day(before, active, 3)
    random = np.random.default_rng(7)
    odd = random.choice(NUM, int(0.7 * RATE * NUM), replace=False)
    length = np.linalg.norm(now - before, axis=1)[odd]
    # Twenty times as far as they went; for a daily player that is still a short way.
    now[odd] = before[odd] + 20 * (now - before)[odd]

    is_flagged, _ = flagged(before, now, groups_of(active, came), usual)

    assert is_flagged[odd].mean() > 0.9
    assert is_flagged.sum() <= RATE * NUM
    by_length = (
        np.linalg.norm(now - before, axis=1)
        > np.sort(np.linalg.norm(now - before, axis=1))[-int(RATE * NUM)]
    )
    # The plain length of the step finds those who come rarely, whatever they did.
    assert by_length[odd].mean() < is_flagged[odd].mean() - 0.2
    assert length.min() < length.max() / 20


@pytest.mark.parametrize("push", [0.5, 5.0, 50.0])
def test_a_day_that_moves_everybody_flags_nobody_more_and_is_told_apart(
    usual: np.ndarray, push: float
) -> None:
    before, active = everybody()
    now, came = a_day(before, active, 3)
    quiet = Step.fit(now - before, groups_of(active, came)).shift
    moved = (now + np.float32(push) * np.eye(WIDTH, dtype=np.float32)[0]).astype(np.float32)

    is_flagged, unusual = flagged(before, moved, groups_of(active, came), usual)
    shift = Step.fit(moved - before, groups_of(active, came)).shift

    assert is_flagged.sum() <= RATE * NUM
    assert unusual < 2 * RATE
    assert quiet < 0.1
    assert shift > 0.9


def test_a_day_on_which_all_differ_more_flags_nobody_more(usual: np.ndarray) -> None:
    before, active = everybody()
    now, came = a_day(before, active, 3, size=6)

    is_flagged, unusual = flagged(before, now, groups_of(active, came), usual)

    assert is_flagged.sum() <= RATE * NUM
    assert unusual < 2 * RATE


def test_an_incident_that_hits_many_is_seen_in_the_share_and_flags_no_more(
    usual: np.ndarray,
) -> None:
    before, active = everybody()
    now, came = a_day(before, active, 3)
    hit = np.random.default_rng(8).random(NUM) < 0.03
    now[hit] = before[hit] + 12 * (now - before)[hit]

    is_flagged, unusual = flagged(before, now, groups_of(active, came), usual)

    assert unusual > 5 * RATE
    assert is_flagged.sum() <= RATE * NUM


def test_p_values_are_uniform_on_a_usual_day(usual: np.ndarray) -> None:
    before, active = everybody()
    now, came = a_day(before, active, 9)
    step = Step.fit(now - before, groups_of(active, came))
    p = p_values(step.scores, usual)
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p <= level).mean() == pytest.approx(level, rel=0.15)


def test_p_values_count_equal_scores_as_at_least_as_high() -> None:
    earlier = np.array([1, 2, 2, 3], np.float32)
    p = p_values(np.array([0, 2, 2.5, 9], np.float32), earlier)
    assert p.tolist() == pytest.approx([1, 4 / 5, 2 / 5, 1 / 5])


def test_nobody_moves_and_nobody_is_flagged() -> None:
    before, active = everybody()
    group = groups_of(active, np.zeros(NUM, bool))

    is_flagged, _ = flagged(before, before.copy(), group)

    assert not is_flagged.any()
    assert Step.fit(before - before, group).shift == 0


def test_a_group_of_few_is_measured_by_all_who_did_the_same() -> None:
    before, active = everybody()
    now, came = a_day(before, active, 3)
    group = came.astype(np.int64)
    group[np.flatnonzero(came)[:5]] = 9
    step = Step.fit(now - before, group)
    assert step.scale_G[9] == pytest.approx(step.scale_G[1], rel=0.05)
    assert step.scale_G[0] < step.scale_G[1] / 5
    # Nobody came: they are measured by all there are.
    quiet = Step.fit((now - before)[~came], np.where(group[~came] == 0, 2, 0))
    assert quiet.scale_G[9] == pytest.approx(quiet.scale_G[2])


def test_groups_tell_habits_and_who_came_apart() -> None:
    active = np.array([0, 1, 2, 3, 6, 7, 14, 15, 28])
    group = groups_of(active, np.zeros(9, bool))
    assert group.tolist() == [0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert (groups_of(active, np.ones(9, bool)) == group + 1).all()
