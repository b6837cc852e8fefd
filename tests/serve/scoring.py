"""Scoring in parts: what the verb puts together, for tests that look inside; and torchrun."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from lumos.accio.contract import load_events
from lumos.config import Recipe
from lumos.serve.inputs import pin
from lumos.serve.network import Network
from lumos.serve.pipeline import Pass
from lumos.serve.score import Decided, Job
from lumos.serve.versions import usable
from tests.conftest import World

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = "committed"


def parts(world: World, recipe: Recipe, version: str = "1", num_cores: int = 2) -> tuple[Job, Pass]:
    """The job and the pass that `lumos score` would make."""
    request = world.request("score", recipe=recipe)
    pins = pin(request)
    table = pins.table(request)
    whole = Pass(
        recipe=recipe,
        date=world.date,
        table=table,
        events=load_events(world.settings, recipe, pins.event_context),
        network=Network.of(usable(request, version), recipe.scoring),
        model_version=version,
        num_cores=num_cores,
    )
    return Job.of(request, Decided(version, pins, is_done=False), table), whole


class Torchrun:
    """`torchrun -m lumos score` on a world, to be killed."""

    def __init__(self, world: World, changes: Iterable[str], num_ranks: int = 2) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={num_ranks}", "-m", "lumos", "score"),
                *("--date", str(world.date)),
                *(f"--set={change}" for change in changes),
            ],
            env=world.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until its log has said so, so many times."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            times -= text in line
            if not times:
                return
        raise AssertionError(f"it ended without saying {text!r}")

    def ranks(self) -> list[int]:
        """Process ids of its ranks, first rank first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = {}
        for child in children.read_text().split():
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks = [e.removeprefix(b"RANK=") for e in environment if e.startswith(b"RANK=")]
            found |= {int(rank): int(child) for rank in ranks}
        return [found[rank] for rank in sorted(found)]

    def end(self, *kill: int) -> tuple[int, str, str]:
        """Its exit code and what it said, after these were killed and every process is gone."""
        for process in kill:
            os.kill(process, signal.SIGKILL)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(self.process.stderr.read()))
        reader.start()
        report = self.process.stdout.read()
        reader.join()
        return self.process.wait(), report, said[0]
