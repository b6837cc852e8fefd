"""Four of the benchmark's storms: any fault may strike, the same four things must hold."""

import json
import os
import subprocess
import sys

import pytest

from lumos.settings import REPOSITORY

RUNS = 4


@pytest.mark.timeout(900)
def test_no_machine_no_lie_no_lost_state_no_second_command_after_any_storm():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.torchrun_ec2", "--only=storms", f"--runs={RUNS}"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["runs"] == RUNS
    must_not_be = ("orphans", "false_successes", "lost_checkpoints", "double_commands")
    assert {name: found[name] for name in must_not_be} == dict.fromkeys(must_not_be, 0), done.stdout
    # What was counted was there: commands at work, faults that struck, and most runs came through.
    assert found["commands"] >= RUNS
    assert found["faults"] > 0
    assert found["green_runs"] > RUNS / 2, done.stdout
