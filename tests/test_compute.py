"""What a process takes of its machine: cores, how its threads wait, memory it keeps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lumos import compute

CORES = len(os.sched_getaffinity(0))
BEGIN = (
    "import json, os, resource, time; from lumos import compute; compute.set_up(); import torch;"
)
THREADS = BEGIN + "print(json.dumps(torch.get_num_threads()))"
# Two threads meet after each of many short tasks with pauses between: what do they burn meanwhile?
WAIT = (
    BEGIN
    + """
x = torch.ones(1 << 20)
x.add_(1)
started = time.process_time()
for _ in range(100):
    x.add_(1)
    time.sleep(0.004)
print(json.dumps(time.process_time() - started))
"""
)
LEARN = (
    BEGIN
    + """
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(256, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 256))
steps = torch.optim.SGD(net.parameters(), 0.1)
x = torch.randn(512, 256)
losses = []
for number in range(12):
    if number == 2:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps.zero_grad()
    loss = (net(x) - x).square().mean()
    loss.backward()
    steps.step()
    losses.append(loss.item().hex())
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(json.dumps([losses, faults]))
"""
)


def answer(program: str, *launcher: str, **variables: str) -> object:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, *(launcher or ("-c",)), program],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_torch_has_every_core_that_it_may_use_or_as_many_threads_as_the_user_set() -> None:
    assert answer(THREADS) == compute.num_cores() <= CORES
    assert answer(THREADS, OMP_NUM_THREADS="1") == 1


@pytest.mark.parametrize(("given", "threads"), [("1", 1), ("3", 3), (" 12 ", 12), ("4,2", 4)])
def test_the_number_of_threads_that_a_user_sets_is_respected(
    given: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert compute.num_threads() == threads


@pytest.mark.parametrize("given", ["", "0", "many", "-2"])
def test_a_number_of_threads_that_openmp_would_ignore_is_ignored(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert compute.num_threads() == compute.num_cores()


@pytest.mark.parametrize(("ranks", "share"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_ranks_of_one_machine_share_its_cores(
    ranks: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "num_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert compute.num_threads() == share


@pytest.mark.parametrize(("given", "threads"), [({}, 4), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_a_rank_tells_what_torchrun_sets_from_what_its_user_has_set(
    given: dict[str, str], threads: int, tmp_path: Path
) -> None:
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import json, os; from lumos import compute; compute.num_cores = lambda: 8;"
        "assert os.environ['OMP_NUM_THREADS'] == '1';"
        # Ranks that print at once may share a line.
        "os.environ['RANK'] == '1' and print(json.dumps(compute.num_threads()))"
    )
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert answer(str(rank), *torchrun, **given) == threads


def test_the_tightest_quota_of_the_control_groups_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "service" / "task").mkdir(parents=True)
    (tmp_path / "service" / "task" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "service" / "cpu.max").write_text("350000 100000\n")
    (tmp_path / "cgroup").write_text("3:cpu:/elsewhere\n0::/service/task\n")
    monkeypatch.setattr(compute, "_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(compute, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))
    assert compute.num_cores() == 3
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert compute.num_cores() == 1


def test_threads_that_wait_do_not_burn_the_processor() -> None:
    spinning = answer(WAIT, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="ACTIVE")
    assert answer(WAIT, OMP_NUM_THREADS="2") < spinning / 2


def test_kept_memory_spares_page_faults_and_changes_no_result() -> None:
    without = LEARN.replace(
        "compute.set_up()", "compute.keep_memory = lambda: None; compute.set_up()"
    )
    losses, faults = answer(LEARN, OMP_NUM_THREADS="1")
    same, many = answer(without, OMP_NUM_THREADS="1")
    assert losses == same
    assert faults < many / 2


def test_neither_a_process_nor_what_it_starts_waits_for_huge_pages() -> None:
    told = "[line.split()[1] for line in open('/proc/self/status') if line[:3] == 'THP']"
    program = (
        "import json, subprocess, sys; from lumos import compute; compute.set_up();"
        f"child = subprocess.check_output([sys.executable, '-c', \"print({told})\"], text=True);"
        f"print(json.dumps([*{told}, child.strip()]))"
    )
    assert answer(program) == ["0", "['0']"]
