"""No user is lost or seen twice: two ranks under torchrun, killed with -9 again and again."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.accio.one_epoch import loader_of
from tests.accio.test_table import clicks, row

ROOT = Path(__file__).parents[2]
NUM_KILLS, NUM_USERS, DEADLINE_SECONDS = 3, 600, 240


@contextmanager
def torchrun(uri: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two ranks that are started again when one dies; at the end, no process is left."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *(f"--max-restarts={NUM_KILLS}", "--monitor-interval=0.05", "--standalone"),
        *("-m", "tests.accio.one_epoch", uri, str(folder)),
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                for each in psutil.Process(process.pid).children(recursive=True):
                    each.kill()
            process.kill()
            process.wait()


def num_steps(folder: Path) -> int:
    return len({path.name[:9] for path in folder.glob("seen-*[01]")})


def allowed(total: int, num_dead: int) -> int:
    """How many steps may be seen before the next death, so that a fast machine has all of them."""
    return total if num_dead == NUM_KILLS else total * (num_dead + 1) // (NUM_KILLS + 1)


def allow(folder: Path, total: int, num_dead: int) -> None:
    draft = folder / "draft"
    draft.write_text(str(allowed(total, num_dead)))
    draft.rename(folder / "allowed")


@pytest.mark.timeout(DEADLINE_SECONDS + 30)
def test_two_ranks_killed_again_and_again_see_exactly_what_one_rank_sees(tmp_path: Path) -> None:
    table = tmp_path / "table"
    clicks(table, [row(f"user {n}", *range(100, 100 + n % 7)) for n in range(NUM_USERS)])
    folder = tmp_path / "run"
    folder.mkdir()
    chance, deadline = random.Random(0), time.monotonic() + DEADLINE_SECONDS
    dead: set[int] = set()
    total = loader_of(str(table)).num_steps
    allow(folder, total, len(dead))
    with torchrun(str(table), folder) as run:
        while run.poll() is None and time.monotonic() < deadline:
            pids = [int(p.read_text()) for p in (folder / "pid-0", folder / "pid-1") if p.exists()]
            fresh = set(pids) - dead
            if len(dead) < NUM_KILLS and len(fresh) == 2 - len(dead & set(pids)) == 2:
                goal = chance.randint(0, allowed(total, len(dead)))
                while num_steps(folder) < goal and run.poll() is None:
                    time.sleep(0.002)
                victim = chance.choice(sorted(fresh))
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(victim).kill()
                dead.add(victim)
                allow(folder, total, len(dead))
            time.sleep(0.01)
        log = (folder / "log").read_text()
        assert run.poll() == 0, log[-3000:]
    assert len(dead) == NUM_KILLS
    for step, batch in enumerate(loader_of(str(table))):
        seen = [json.loads((folder / f"seen-{step:04d}-{rank}").read_text()) for rank in (0, 1)]
        assert sorted(seen[0] + seen[1]) == sorted(user for user in batch.user_id if user), step
    assert num_steps(folder) == step + 1
