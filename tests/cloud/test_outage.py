"""One of the benchmark's outages: S3 accepts and never answers, and a machine is taken back."""

import json
import subprocess
import sys

import pytest

from lumos.settings import REPOSITORY


@pytest.mark.timeout(300)
def test_a_hanging_s3_ends_no_healthy_machine_and_hides_no_spot_notice():
    options = ["--runs=1", "--healthy=1", "--noticed=1", "--kinds", "hanging"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.outage", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["healthy_machines_ended"], found["notices_missed"]) == (0, 0), done.stdout[-5000:]
    # What was counted was there: both machines trained, and Airflow looked twenty times in vain.
    assert (found["machines"], found["notices"], found["green"]) == (2, 1, 2)
    assert found["failed_looks"] >= 2 * found["looks"] == 40
