"""The steps of a training in one process: resumed, stopped, saved in between, refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lumos.config import Recipe
from lumos.settings import Settings
from lumos.train import saving
from lumos.train import training as room
from lumos.train.distributed import StopSignal, World
from lumos.train.training import Training
from lumos.verbs import RESUME, BadInput
from tests.accio import small
from tests.train.ready import lake, prepared, recipe

EVERYTHING = {"matrices": "muon", "ema": 0.9, "patience": 2, "accumulate": 2}


@dataclass
class After(StopSignal):
    """Asks to stop when so many steps were begun, as a SIGTERM would."""

    steps: int
    begun: int = 0

    @property
    def is_asked(self) -> bool:
        self.begun += 1
        return self.begun >= self.steps


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return lake(tmp_path_factory.mktemp("training"))


def train(at: Settings, of: Recipe, folder: Path, stop: StopSignal | None = None) -> Training:
    training = Training(prepared(at, of), World(), folder)
    training.run(stop or StopSignal(), lambda _epochs: None)
    return training


def stopped(at: Settings, of: Recipe, folder: Path, steps: int) -> None:
    with pytest.raises(SystemExit) as ended:
        train(at, of, folder, After(steps))
    assert ended.value.code == RESUME == 75


def everything(training: Training) -> dict[str, Tensor]:
    """All tensors that a next step would depend on, and what would be kept."""
    groups: dict[str, Mapping[str, Tensor]] = {
        "weights": training.objective.state_dict(),
        "moments": training._optimiser.state(),
        "average": training._average.weights,
        "best": training._best,
        "kept": training.trained().state_dict(),
    }
    return {
        f"{kind} {name}": tensor.clone()
        for kind, tensors in groups.items()
        for name, tensor in tensors.items()
    }


def test_a_training_stopped_twice_and_built_anew_ends_with_equal_tensors(
    at: Settings, tmp_path: Path
) -> None:
    of = recipe(**EVERYTHING)
    straight = train(at, of, tmp_path / "straight")
    stopped(at, of, tmp_path / "stopped", steps=2)  # inside the first epoch
    stopped(at, of, tmp_path / "stopped", steps=4)  # inside the second
    resumed = train(at, of, tmp_path / "stopped")
    assert resumed.epochs == straight.epochs
    ours, theirs = everything(straight), everything(resumed)
    assert {name.split()[0] for name in ours} == {"weights", "moments", "average", "best", "kept"}
    assert any("muon" in name for name in ours)
    assert [name for name, t in ours.items() if not torch.equal(t, theirs[name])] == []


def test_a_state_is_saved_inside_an_epoch_once_enough_time_has_passed(
    at: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = recipe(epochs=1)
    saved: list[int] = []
    monkeypatch.setattr(saving, "save_state", lambda *_, **__: saved.append(1))
    assert train(at, of, tmp_path).steps_per_epoch == 4
    assert len(saved) == 1
    monkeypatch.setattr(saving, "SAVE_EVERY_SECONDS", 0.0)
    saved.clear()
    train(at, of, tmp_path)
    assert len(saved) == 4


def test_training_stops_when_nothing_improves_and_keeps_the_best_epoch(
    at: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.5])
    seen: list[Tensor] = []

    def loss(_holdout: object, objective: torch.nn.Module) -> float:
        seen.append(next(objective.parameters()).detach().clone())
        return next(losses)

    monkeypatch.setattr(room.Holdout, "loss", loss)
    training = train(at, recipe(epochs=9, patience=2, ema=0.9), tmp_path)
    assert [epoch["validation/loss"] for epoch in training.epochs] == [3.0, 1.0, 2.0, 1.5]
    training.trained()
    assert torch.equal(next(training.objective.parameters()), seen[1])
    assert train(at, recipe(epochs=9, patience=2, ema=0.9), tmp_path).epochs == training.epochs


def test_the_average_is_kept_and_the_last_weights_are_not(at: Settings, tmp_path: Path) -> None:
    training = train(at, recipe(epochs=1, ema=0.9), tmp_path)
    name, last = next(
        (n, p.detach().clone()) for n, p in training.objective.named_parameters() if p.ndim == 2
    )
    training.trained()
    kept = dict(training.objective.named_parameters())[name]
    assert torch.equal(kept, training._average.weights[name])
    assert not torch.equal(kept, last)


def test_a_loss_that_is_no_number_names_its_batch(at: Settings, tmp_path: Path) -> None:
    of = recipe(learning_rate=1e30, muon_learning_rate=1e30, warmup_share=0.0)
    with pytest.raises(BadInput, match=r"not a finite number at step 2\. .*not-finite-2-rank-0"):
        train(at, of, tmp_path)
    (path,) = tmp_path.glob("*")  # no state that is broken, no draft
    identity = json.loads(path.read_text())
    again = iter(prepared(at, of).loader)
    next(again)
    batch = next(again)
    assert identity["users"] == batch.user_id[batch.weight > 0].tolist()
    assert len(identity["origins"]) == len(identity["users"])
    assert identity["origins"][0][-1] <= str(small.AS_OF)
    assert (identity["epoch"], identity["step"], identity["rank"]) == (1, 2, 0)


def test_activity_that_is_no_number_is_named_by_column_user_and_day(tmp_path: Path) -> None:
    users = small.users(60)
    # A day of the labels only: the scaler, fitted up to the last origin, has not seen it.
    late = np.flatnonzero(users.days == users.days.max() - 17)
    spend = users.columns[3].copy()
    spend[late] = np.nan
    users = type(users)(**{**vars(users), "columns": (*users.columns[:3], spend)})
    at = small.write_lake(tmp_path, users)
    said = r"activity column spend of user_id member/\d+é is nan on 2024-04-23, expected a finite"
    with pytest.raises(BadInput, match=said):
        train(at, recipe(), tmp_path / "states")


def test_a_compiled_network_takes_the_same_steps(
    at: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.nn.Module.compile
    # All of it but the generated code, which takes a minute to build.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend="eager"))
    ours = train(at, recipe(epochs=1, patience=1), tmp_path / "plain")
    theirs = train(at, recipe(epochs=1, patience=1, compile=True), tmp_path / "compiled")
    assert theirs.objective._compiled_call_impl is not None
    assert theirs.epochs[0] == pytest.approx(ours.epochs[0], rel=1e-5)
    assert theirs.objective.state_dict().keys() == ours.objective.state_dict().keys()


def test_a_seed_holds_and_another_seed_is_another_training(at: Settings, tmp_path: Path) -> None:
    def first_loss(name: str, **changes: Any) -> float:
        return train(at, recipe(epochs=1, **changes), tmp_path / name).epochs[0]["loss"]

    first = first_loss("a", seed=1)
    assert first == first_loss("b", seed=1)
    assert first != first_loss("c", seed=2)
