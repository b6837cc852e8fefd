"""`lumos train` as processes of its own, to be killed and started again."""

import os
import subprocess
import sys

import pytest

from lumos.settings import Settings
from tests.accio import small

NUM_EPOCHS = 20
CORE = str(min(os.sched_getaffinity(0)))
CHANGES = {
    "training.epochs": NUM_EPOCHS,
    "training.batch_size": 8,
    "training.learning_rate": 0.003,
    "model.dropout": 0.0,
    # Muon computes in bfloat16: it would round away what the comparisons ask for.
    "training.matrices": "adamw",
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


class Command:
    """`lumos train` as a process, its stderr readable line by line."""

    def __init__(self, at: Settings, *launcher: str, epochs: int = NUM_EPOCHS) -> None:
        wanted = {**CHANGES, "training.epochs": epochs}
        changes = [f"--set={key}={value}" for key, value in wanted.items()]
        one_core = () if launcher else ("taskset", "--cpu-list", CORE)
        verb = ["-m", "lumos", "train", f"--recipe={small.RECIPE}", f"--date={small.AS_OF}"]
        self.process = subprocess.Popen(
            [*one_core, sys.executable, *launcher, *verb, *changes],
            env={
                **os.environ,
                "LUMOS_HOME": str(at.home),
                "LUMOS_LAKE": at.lake,
                "MLFLOW_TRACKING_URI": at.mlflow_uri,
            },
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, text: str) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            if text in line:
                return
        pytest.fail(f"ended without saying {text!r}")

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Its exit code and the rest of stderr, once every process that holds it is gone."""
        if number is not None:
            os.killpg(self.process.pid, number)
        assert self.process.stderr
        rest = self.process.stderr.read()
        return self.process.wait(), rest
