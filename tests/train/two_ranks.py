"""Run by torchrun: validation loss and gradient of one step, written by the first process."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lumos.settings import Settings
from lumos.train.distributed import StopSignal, joined
from lumos.train.holdout import Holdout
from lumos.train.training import Training
from tests.train.ready import prepared, recipe


def main(home: str, out: str, weighting: str, accumulate: int) -> None:
    at = Settings.from_environment({"LUMOS_HOME": home})
    of = recipe(loss={"weighting": weighting}, accumulate=accumulate, clip_norm=1e9)
    with joined() as world:
        training = Training(prepared(at, of, world), world, Path(out).parent / "states")
        training.objective.eval()  # each process has dropout of its own
        loss = Holdout(training._prepared, world).loss(training.objective)
        training._step(next(iter(training._prepared.loader)), StopSignal())
        if world.is_first:
            named = training.objective.named_parameters()
            gradient = {name: p.grad for name, p in named if p.grad is not None}
            save_file({**gradient, "validation": torch.tensor(loss)}, out)
        world.sum(torch.zeros(1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
