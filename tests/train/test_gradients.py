"""A step's gradient is that of the global batch, whoever computes which part of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lumos.settings import Settings
from lumos.train.distributed import StopSignal, World
from lumos.train.gradients import micro_batches
from lumos.train.holdout import Holdout
from lumos.train.training import Training
from tests.train.ready import lake, prepared, recipe


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return lake(tmp_path_factory.mktemp("gradients"))


def gradient(at: Settings, folder: Path, weighting: str, accumulate: int) -> dict[str, Tensor]:
    """Of the first step of one process, without dropout."""
    of = recipe(loss={"weighting": weighting}, accumulate=accumulate, clip_norm=1e9)
    training = Training(prepared(at, of), World(), folder)
    training.objective.eval()
    training._step(next(iter(training._prepared.loader)), StopSignal())
    return {name: p.grad for name, p in training.objective.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        size = float(tensor.abs().max())
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize("weighting", ["learned", "fixed"])
def test_micro_batches_add_up_to_the_whole_batch(
    at: Settings, tmp_path: Path, weighting: str
) -> None:
    whole = gradient(at, tmp_path, weighting, 1)
    assert_same(whole, gradient(at, tmp_path, weighting, 4))
    assert any("log_variance" in name for name in whole) == (weighting == "learned")


def test_every_weight_has_a_gradient_so_that_processes_need_not_look_for_those_without(
    at: Settings, tmp_path: Path
) -> None:
    training = Training(prepared(at, recipe()), World(), tmp_path)
    training._step(next(iter(training._prepared.loader)), StopSignal())
    named = training.objective.named_parameters()
    assert [name for name, p in named if p.requires_grad and p.grad is None] == []


def test_two_processes_with_micro_batches_have_the_gradient_of_one(
    at: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "gradient.safetensors"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ["-m", "tests.train.two_ranks", str(at.home), str(out), "learned", "2"]
    ran = subprocess.run(
        [sys.executable, *launcher, *script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    theirs = load_file(out)
    training = Training(prepared(at, recipe(loss={"weighting": "learned"})), World(), tmp_path)
    loss = Holdout(training._prepared, World()).loss(training.objective)
    assert theirs.pop("validation").item() == pytest.approx(loss, rel=1e-5)
    assert_same(gradient(at, tmp_path, "learned", 1), theirs)


def test_a_short_batch_has_fewer_micro_batches_and_loses_nobody(at: Settings) -> None:
    batch = next(iter(prepared(at, recipe()).loader))
    for number in (1, 3, 16, 40):
        parts = micro_batches(batch, number)
        assert len(parts) == min(number, len(batch))
        assert [name for part in parts for name in part.user_id] == batch.user_id.tolist()
