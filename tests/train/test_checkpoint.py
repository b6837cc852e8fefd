from pathlib import Path

import pytest
import torch

from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.train.checkpoint import Checkpoint, Progress, load, load_state, save, save_state
from lumos.train.optim import adamw
from lumos.train.scaler import Scaler
from lumos.verbs import BadInput
from tests.accio import small

RECIPE = small.recipe()
SCALER = Scaler(scale={}, average={}, loss={}, events={}, categories={}, statics={})


def an_objective(seed: int = 0) -> Objective:
    torch.manual_seed(seed)
    return Objective(Forecaster(ForecasterConfig.of(RECIPE, num_static=3, num_events=7)))


def a_checkpoint(seed: int = 0) -> Checkpoint:
    return Checkpoint(an_objective(seed).forecaster, SCALER, RECIPE, {"as_of": "2024-05-10"})


def one_step(objective: Objective, optimiser: torch.optim.Optimizer) -> None:
    sum(p.square().sum() for p in objective.parameters()).backward()
    optimiser.step()
    optimiser.zero_grad()


def test_a_forecaster_is_built_again_from_its_folder_alone(tmp_path: Path) -> None:
    saved = a_checkpoint()
    save(tmp_path / "c", saved)
    loaded = load(tmp_path / "c")
    assert (loaded.recipe, loaded.scaler, loaded.info) == (RECIPE, SCALER, saved.info)
    theirs = loaded.model.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in saved.model.state_dict().items())
    # Never pickle: JSON and safetensors alone.
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}


def test_a_save_that_fails_leaves_the_earlier_checkpoint_whole(tmp_path: Path) -> None:
    save(tmp_path / "c", a_checkpoint(0))
    broken = Checkpoint(an_objective(1).forecaster, SCALER, RECIPE, {"as_of": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path / "c", broken)
    first = a_checkpoint(0).model.positions.table
    assert torch.equal(load(tmp_path / "c").model.positions.table, first)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_incomplete_folder_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    save(tmp_path / "c", a_checkpoint())
    (tmp_path / "c" / "scaler.json").unlink()
    with pytest.raises(BadInput, match=r"no model checkpoint: scaler\.json missing"):
        load(tmp_path / "c")


def test_a_restored_state_takes_the_same_next_steps(tmp_path: Path) -> None:
    ours = an_objective(0)
    optimiser = adamw(ours, RECIPE.training)
    one_step(ours, optimiser)
    progress = Progress({"epoch": 2, "step": 3}, ({"loss": 0.1 + 0.2},), (0.3,), (7.0,))
    save_state(tmp_path, ours, optimiser, Progress({"epoch": 1, "step": 0}))
    save_state(tmp_path, ours, optimiser, progress)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00002-0000003"]

    theirs = an_objective(1)
    other = adamw(theirs, RECIPE.training)
    found = load_state(tmp_path, theirs, other)
    assert found is not None
    assert (found.epoch, found.step) == (2, 3)
    assert found.epochs[0]["loss"] == 0.1 + 0.2
    for _ in range(2):
        one_step(ours, optimiser)
        one_step(theirs, other)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_draft_left_by_a_kill_is_no_state(tmp_path: Path) -> None:
    (tmp_path / ".draft-state-00009-0000000").mkdir()
    objective = an_objective()
    assert load_state(tmp_path, objective, adamw(objective, RECIPE.training)) is None
