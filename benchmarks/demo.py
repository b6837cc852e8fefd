"""``make demo`` again and again, each in a fresh home: how long it takes, and whether it ends well.

Every home has the JARs that ``make setup`` prepared and nothing else, and is removed after its run
if that was green. ``python -m benchmarks.demo [--runs 10] [--homes FOLDER]``; prints a table, and
shows the end of what a demo printed that was not green: it ended with another code than 0, a task
or a DAG run did not succeed, or a task was tried more than once.

The last line of stdout is JSON: ``runs``; ``green`` (must be as many); ``median_s`` and ``max_s``
(``total_s`` of ``demo.json``), ``overhead_s`` (its median), ``attempts`` (the sum), over the runs
that wrote a ``demo.json``; and the exit code is 1 unless all are green.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lumos.settings import REPOSITORY, Settings

_ENDED_WELL = ("success", "skipped")
_LAST_LINES = 30


@dataclass(frozen=True)
class Run:
    """One demo: what it measured, and what was wrong with it."""

    facts: dict[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def main() -> int:
    """Run the demos; the exit code says whether all were green."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--homes", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    console = Console(stderr=True)
    runs = []
    for number in range(1, arguments.runs + 1):
        home = Path(tempfile.mkdtemp(prefix="lumos-demo-", dir=arguments.homes))
        console.print(f"demo {number} of {arguments.runs} in {home}", highlight=False)
        runs.append(demo(home, console))
        if not runs[-1].faults:
            shutil.rmtree(home)
    console.print(_table(runs))
    measured = [run.facts for run in runs if run.facts]
    seconds = [facts["total_s"] for facts in measured]
    green = sum(not run.faults for run in runs)
    result = {
        "runs": len(runs),
        "green": green,
        "median_s": round(statistics.median(seconds), 1) if seconds else None,
        "max_s": max(seconds, default=None),
        "overhead_s": round(statistics.median(f["overhead_s"] for f in measured), 1)
        if measured
        else None,
        "attempts": sum(facts["attempts"] for facts in measured),
    }
    print(json.dumps(result))
    return 0 if green == len(runs) else 1


def demo(home: Path, console: Console) -> Run:
    """One ``make demo`` in a home that has nothing but Spark's JARs."""
    (home / "spark").symlink_to(Settings.from_environment().home / "spark")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LUMOS_", "MLFLOW_"))}
    done = subprocess.run(
        ["make", "--no-print-directory", "demo"],
        cwd=REPOSITORY,
        env={**environment, "LUMOS_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    path = home / "demo.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    faults = faults_of(facts, done.returncode)
    if faults:
        console.print("\n".join(done.stdout.splitlines()[-_LAST_LINES:]), markup=False)
    return Run(facts, faults)


def faults_of(facts: dict[str, Any], code: int) -> tuple[str, ...]:
    """What keeps a demo from being green, in words."""
    faults = [f"exit code {code}"] if code else []
    if not facts:
        return (*faults, "no demo.json")
    states = {name: task["state"] for name, task in facts["tasks"].items()}
    states |= {run["run_id"]: run["state"] for run in facts["dag_runs"]}
    faults += [f"{name} {state}" for name, state in states.items() if state not in _ENDED_WELL]
    if facts["attempts"]:
        faults.append(f"{facts['attempts']} tasks tried more than once")
    return tuple(faults)


def _table(runs: list[Run]) -> Table:
    table = Table("run", "total s", "longest chain s", "overhead s", "attempts", "faults")
    for number, run in enumerate(runs, start=1):
        names = ("total_s", "longest_chain_s", "overhead_s", "attempts")
        cells = [str(run.facts.get(name, "")) for name in names]
        table.add_row(str(number), *cells, "; ".join(run.faults) or "none")
    return table


if __name__ == "__main__":
    sys.exit(main())
