from pathlib import Path

import numpy as np
import pytest

from lumos.train.distributed import World
from lumos.train.holdout import VALIDATION, Holdout, best_epoch, is_enough
from lumos.train.training import Training
from tests.train.ready import lake, prepared, recipe


def epochs(*losses: float) -> list[dict[str, float]]:
    return [{VALIDATION: loss} for loss in losses]


def test_patience_counts_the_epochs_since_the_best() -> None:
    assert best_epoch(epochs(3, 1, 2, 1)) == 1
    assert not is_enough(epochs(3, 1, 2), patience=2)
    assert is_enough(epochs(3, 1, 2, 1), patience=2)  # as good is not better
    assert not is_enough([{"loss": 1.0}] * 9, patience=0)
    assert not is_enough([], patience=1)


def test_a_loss_that_is_no_number_is_not_the_best() -> None:
    assert best_epoch(epochs(float("nan"), 2, float("inf"))) == 1


def test_held_out_users_are_judged_by_the_same_windows_whoever_shares_them(
    tmp_path: Path,
) -> None:
    of = recipe(held_out_users_share=0.3)
    at = lake(tmp_path)
    whole = prepared(at, of)
    training = Training(whole, World(), tmp_path / "states")
    holdout = Holdout(whole, World())
    loss = holdout.loss(training.objective)
    assert np.isfinite(loss)
    assert loss == Holdout(whole, World()).loss(training.objective)
    assert training.objective.training
    shares = [Holdout(whole, World(rank, 2)) for rank in range(2)]
    ids = [set(share._users.user_id) for share in shares]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(holdout._users.user_id)
    assert len(holdout._users) == whole.num_held_out


def test_no_user_in_training_is_judged_and_no_more_than_asked(tmp_path: Path) -> None:
    at = lake(tmp_path, 200)
    everyone = prepared(at, recipe(held_out_users_share=0.5))
    users = Holdout(everyone, World())._users
    assert everyone.split.is_out(users).all()
    some = prepared(at, recipe(held_out_users_share=0.5, max_validation_users=20))
    assert len(Holdout(some, World())._users) == pytest.approx(20, abs=12)
