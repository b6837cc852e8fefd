"""The study's regressions learn from the past alone, and find what is there."""

import numpy as np
import pytest

from lumos.serve.accuracy import auc
from lumos.serve.features import Examples
from lumos.study.embedding import Parts, difference, downstream, hand_made, standardised

ORIGINS = np.repeat([10, 17, 24, 31, 38], 300)


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, Parts]:
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(len(ORIGINS), 6))
    odds = 2 * inputs[:, 1] - 1
    outcome = (random.random(len(ORIGINS)) < 1 / (1 + np.exp(-odds))).astype(float)
    return inputs, outcome, Parts.of(ORIGINS, num_train=2, num_validation=1)


def test_parts_follow_each_other_in_time() -> None:
    parts = data()[2]
    spans = [ORIGINS[part] for part in (parts.train, parts.validation, parts.test)]
    assert [(int(span.min()), int(span.max())) for span in spans] == [(10, 17), (24, 24), (31, 38)]
    assert sum(len(span) for span in spans) == len(ORIGINS)


def test_it_finds_what_is_there() -> None:
    inputs, outcome, parts = data()
    fit = downstream(inputs, outcome, parts)
    oracle = auc(outcome[parts.test], inputs[parts.test, 1])
    assert auc(outcome[parts.test], fit.said_N[parts.test]) == pytest.approx(oracle, abs=0.01)


def test_nothing_of_the_test_origins_changes_what_is_fitted() -> None:
    inputs, outcome, parts = data()
    before = downstream(inputs, outcome, parts)
    inputs, outcome = inputs.copy(), outcome.copy()
    inputs[parts.test] *= -9
    outcome[parts.test] = 1 - outcome[parts.test]
    after = downstream(inputs, outcome, parts)
    known = ~parts.test
    assert np.array_equal(before.said_N[known], after.said_N[known])
    assert before.strength == after.strength


def test_an_outcome_of_one_kind_is_refused() -> None:
    inputs, outcome, parts = data()
    with pytest.raises(ValueError, match="all validation outcomes are alike"):
        downstream(inputs, np.where(parts.validation, 0, outcome), parts)


def test_what_is_missing_or_far_out_or_constant_is_no_evidence() -> None:
    inputs, _, parts = data()
    inputs[0, 0], inputs[1, 0], inputs[:, 2] = np.nan, 1e12, 3
    standard = standardised(inputs, parts.train)
    assert standard.shape == (len(inputs), 7)
    assert np.isfinite(standard).all()
    assert np.abs(standard).max() <= 10
    assert not standard[:, 3].any()


def test_categories_are_one_hot_and_amounts_come_with_their_logarithm() -> None:
    nothing = np.zeros(3, np.int64)
    values = {"sales": np.array([0.0, np.e - 1, np.nan]), "plan": np.array([0.0, 2.0, 2.0])}
    examples = Examples(nothing, nothing, values, ("plan",), {}, {})
    made = hand_made(examples)
    assert made.shape == (3, 5)
    assert made[1].tolist() == pytest.approx([np.e - 1, 1, 0, 0, 1])
    assert made[:, 3:].tolist() == [[1, 0], [0, 1], [0, 1]]
    assert made[:, 2].tolist() == [0, 0, 1]


def test_intervals_of_a_difference_cover_it_and_resample_users() -> None:
    inputs, outcome, _ = data()
    users = np.arange(len(outcome)) % 300
    better, worse = inputs[:, 1], inputs[:, 1] + np.random.default_rng(1).normal(size=len(outcome))
    gain, low, high = difference(outcome, better, worse, users, draws=100)
    assert low < gain < high
    assert low > 0
    same = difference(outcome, better, better, users, draws=20)
    assert same == (0, 0, 0)
    # One user alone is never split from himself: nothing varies.
    alone = difference(outcome, better, worse, np.zeros(len(outcome), int), draws=20)
    assert alone[0] == pytest.approx(gain)
    assert alone[1] == pytest.approx(alone[2])
