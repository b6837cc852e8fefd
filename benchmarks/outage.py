"""What an outage of S3 costs: nothing may be ended for it, and no spot notice may be missed.

``python -m benchmarks.outage [--runs N]``

Machines of the AWS that executes (``tests/cloud``) train, each for a task of its own. Then all of
S3 is gone for twenty looks of Airflow: it drops every connection, or accepts and never answers, or
it can be read and takes no writes. Amid it AWS takes some of the machines back. Afterwards every
other machine must still be at work, and the verb of each one that was taken must have been asked to
save before. Time runs faster than on AWS, as ``tests.cloud.outages`` says.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import tests.conftest  # noqa: F401 - where the plugins and Airflow's settings are found

# isort: split
from typing import get_args

from tests.cloud.deployment import build_wheel, wheel_around
from tests.cloud.outages import LOOKS, Outage, Verdict, deployed, strike
from tests.cloud.waiting import eventually

SUMS = ("machines", "notices", "healthy_machines_ended", "notices_missed", "failed_looks", "green")


def outages(runs: int, kinds: tuple[Outage, ...], *, healthy: int, noticed: int) -> list[Verdict]:
    """Each kind so many times."""
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="outage-") as name:
        folder = Path(name)
        real = build_wheel(folder / "real")
        wheel = wheel_around("__main__.py", "verb_stand_in.py", real, folder)
        with deployed(folder, wheel) as aws:
            for number in range(runs):
                for kind in kinds:
                    run = f"{kind}-{number}"
                    verdicts.append(strike(aws, kind, run, healthy=healthy, noticed=noticed))
                    print(json.dumps(asdict(verdicts[-1])), flush=True)
                    eventually(lambda: not aws.alive())
    return verdicts


def main() -> None:
    """Print a line for each outage, and the sums as JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Outage), default=get_args(Outage))
    parser.add_argument("--healthy", type=int, default=2, help="machines that stay")
    parser.add_argument("--noticed", type=int, default=1, help="machines that are taken back")
    given = parser.parse_args()
    started = time.monotonic()
    verdicts = outages(given.runs, tuple(given.kinds), healthy=given.healthy, noticed=given.noticed)
    sums = {name: sum(getattr(each, name) for each in verdicts) for name in SUMS}
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"outages": len(verdicts), "looks": LOOKS, **sums, "seconds": seconds}))


if __name__ == "__main__":
    main()
