"""What a training step costs: against a literal reading, waiting for data, and on two processes.

    python -m benchmarks.train_step [--parts literal data processes beside]
                                   [--batch-size 4] [--rounds 3]

*literal*: forward and backward of the published form (360 + 7 days, 13 columns, users of the
made-up platform) against the same equations written out plainly for all users and days at once;
same weights, same batches, outputs and gradients compared first. Processor seconds of one thread.
And one pass over a history with eight forecast origins against eight passes, in our form.

*data*: real steps, one thread, the loader in the same process as it is by default: the share of a
step that goes into reading and cutting windows (timed over an epoch, since a first step reads ahead
for hundreds) and into scaling them.

*processes*: real steps of the same global batch by two processes of one thread (torchrun, gloo),
and by one. Beside it what limits them: two processes that share nothing but the machine, each with
half of the batch, and the time to add up the gradients. It wants two idle cores, so the machine's
load is printed with it, and the same ratio in processor time: what two idle cores would give if
nobody waited for anybody.

*beside*: real steps by one process with the threads that ``lumos train`` gives itself on all cores,
alone and beside one process that keeps a core busy, in turn: samples a second, medians of rounds.

Seven minutes on two idle cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import _match as match
from benchmarks._beside import alone_and_beside
from benchmarks._steps import shape
from lumos import compute
from lumos.datasets.fantasy_sports import World
from lumos.datasets.fantasy_sports.write import write_tables
from lumos.dates import day_number
from lumos.progress import progress
from lumos.settings import Settings

PARTS = ("literal", "data", "processes", "beside")
USERS, MANY_USERS = 4_096, 32_768
Figures = dict[str, object]
# Form, global batch and steps of a comparison of processes.
_SHARED = {"lumos": (64, 15), "paper_tiny": (64, 8), "paper_small": (4, 5)}
# The same of a training that waits for data.
_WAITING = {"lumos": (64, 20), "paper_tiny": (64, 12)}
_LOSSES_CLOSE = 1e-3
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def main() -> int:
    """Print the tables and, last, one JSON line; 1 if readings or processes disagree."""
    made = argparse.ArgumentParser(prog="benchmarks.train_step", description=__doc__.split("\n")[0])
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--batch-size", type=int, default=4, help="of the literal comparison")
    made.add_argument("--rounds", type=int, default=3)
    arguments = made.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        home = Path(name)
        if "literal" in arguments.parts:
            figures |= literal(written(home, USERS), arguments.batch_size, arguments.rounds)
        if "data" in arguments.parts:
            written(home, MANY_USERS)
            figures |= data(home)
        if "processes" in arguments.parts:
            written(home, USERS)
            figures |= processes(home)
        if "beside" in arguments.parts:
            written(home, USERS)
            figures |= beside(home, arguments.rounds)
    is_equal = all(value for key, value in figures.items() if key.endswith("_equal"))
    figures |= {"results_equal": is_equal}
    print_table("A training step", {key: str(value) for key, value in figures.items()})
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if is_equal else 1


def written(home: Path, num_users: int) -> Settings:
    """A lake of so many users, in a folder of its own; nothing to do if it is there."""
    folder = home / str(num_users)
    settings = Settings.from_environment({"LUMOS_HOME": str(folder)})
    write_tables(
        settings,
        shape("lumos", 64),
        World(num_users),
        scratch=folder / "scratch",
        names=("event_context", "users", "sequences"),
    )
    return settings


def literal(settings: Settings, batch_size: int, rounds: int) -> Figures:
    """The published form in two sizes against its literal readings; our form's origins."""
    torch.set_num_threads(1)
    origin = day_number(World(USERS).last_day) - 7
    figures: Figures = {}
    worst = {"outputs": 0.0, "gradients": 0.0}
    for form, size in (("paper_tiny", 64), ("paper_small", batch_size)):
        ground = match.Ground.of(settings, shape(form, size), origin)
        few, many = ground.peers(2), ground.peers(size)
        # The vectorised reading against the plain one, on the small case; then the timed batch.
        found = [match.differences(few, by_user=True), match.differences(few, by_user=False)]
        found.append(match.differences(many, by_user=False))
        worst = {key: max(value, *(f[key] for f in found)) for key, value in worst.items()}
        runs = {"shipped": many.shipped_loss, "literal": many.literal_loss}
        runs |= {"by user": many.literal_by_user_loss}
        spent = match.seconds(runs, many, rounds)
        suffix = "" if form == "paper_small" else "_tiny"
        figures[f"times_literal{suffix}"] = round(spent["literal"] / spent["shipped"], 2)
        figures[f"times_literal_by_user{suffix}"] = round(spent["by user"] / spent["shipped"], 2)
        figures[f"step_cpu_s{suffix}"] = round(spent["shipped"], 3)
        splits = {name: match.split(runs[name], many) for name in ("shipped", "literal")}
        print_splits(form, splits)
        products = splits["shipped"]["matrix products"] / sum(splits["shipped"].values())
        figures[f"share_of_matrix_products{suffix}"] = round(products, 2)
    ours = match.Ground.of(settings, shape("lumos", 64), origin)
    one, many = ours.peers(64), ours.peers(64, num_origins=8)
    runs = {"one origin": one.shipped_loss, "eight origins": many.shipped_loss}
    spent = match.seconds(runs, many, rounds)
    figures["times_one_origin"] = round(8 * spent["one origin"] / spent["eight origins"], 2)
    return figures | {
        "max_abs_difference": worst["outputs"],
        "max_relative_gradient_difference": worst["gradients"],
        "literal_equal": worst["outputs"] < match.OUTPUTS_CLOSE
        and worst["gradients"] < match.GRADIENTS_CLOSE,
    }


def data(home: Path) -> Figures:
    """Shares of real steps that wait for data."""
    figures: Figures = {}
    with progress("training, timed", len(_WAITING)) as advance:
        for form, (batch_size, num_steps) in _WAITING.items():
            more = ("--steps", str(num_steps), "--epoch-alone")
            (found,) = launch(home, form, batch_size, more=more, users=MANY_USERS)
            spent = found["data_cpu_s"] + found["loader_cpu_s"]
            share = spent / (found["step_cpu_s"] + found["loader_cpu_s"])
            suffix = "" if form == "lumos" else f"_{form}"
            figures[f"data_wait_share{suffix}"] = round(share, 4)
            advance(note=f"{form}: {found}")
    return figures


def processes(home: Path) -> Figures:
    """Two processes against one, and against two that share nothing."""
    figures: Figures = {"load_before": round(os.getloadavg()[0], 2)}
    is_equal = True
    with progress("processes", 3 * len(_SHARED)) as advance:
        for form, (batch_size, num_steps) in _SHARED.items():
            more = ("--steps", str(num_steps), "--without-dropout")
            (one,) = launch(home, form, batch_size, more=more)
            advance(note=f"one: {one}")
            (two,) = launch(home, form, batch_size, more=more, ranks=2)
            advance(note=f"two: {two}")
            halves = launch(home, form, batch_size // 2, more=more, copies=2)
            advance(note=f"halves: {halves}")
            suffix = "" if form == "lumos" else f"_{form}"
            half = max(found["step_s"] for found in halves)
            figures |= {
                f"ddp_speedup{suffix}": round(one["step_s"] / two["step_s"], 2),
                f"ddp_speedup_processor{suffix}": round(one["step_cpu_s"] / two["step_cpu_s"], 2),
                f"speedup_sharing_nothing{suffix}": round(one["step_s"] / half, 2),
                f"all_reduce_share{suffix}": round(two["all_reduce_s"] / two["step_s"], 3),
            }
            is_equal &= abs(one["loss"] / two["loss"] - 1) < _LOSSES_CLOSE
    return figures | {"processes_equal": is_equal}


def beside(home: Path, rounds: int) -> Figures:
    """Samples a second alone, and beside a busy process."""
    size, num_steps = _SHARED["lumos"]
    own = compute.variables()

    def speed() -> float:
        (found,) = launch(home, "lumos", size, more=("--steps", str(num_steps)), variables=own)
        return size / found["step_s"]

    return alone_and_beside(speed, rounds, unit="samples_per_s") | {
        "beside_threads": int(own["OMP_NUM_THREADS"])
    }


def launch(
    home: Path,
    form: str,
    batch_size: int,
    *,
    more: Sequence[str] = (),
    ranks: int = 1,
    copies: int = 1,
    users: int = USERS,
    variables: Mapping[str, str] = _ONE_THREAD,
) -> list[dict[str, float]]:
    """Take steps in processes of their own; what the first of each run printed."""
    start = ["-m", "benchmarks._steps"]
    if ranks > 1:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *start]
    at = str(home / str(users))
    shared = [at, form, "--users", str(users), "--batch-size", str(batch_size), *more]
    environment = os.environ | variables
    running = [
        subprocess.Popen(
            [sys.executable, *start, *shared],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(copies)
    ]
    outcomes = [(process.communicate(), process.returncode) for process in running]
    for (_, errors), code in outcomes:
        if code:
            raise RuntimeError(errors)
    return [json.loads(output.splitlines()[-1]) for (output, _), _ in outcomes]


def print_splits(form: str, splits: Mapping[str, Mapping[str, float]]) -> None:
    """Where the time of a step goes, by kind of operation."""
    table = Table(title=f"{form}: processor seconds of a step, profiled")
    table.add_column("operations")
    for name in splits:
        table.add_column(name, justify="right")
    for kind in splits["shipped"]:
        table.add_row(kind, *(f"{found[kind]:.3f}" for found in splits.values()))
    Console().print(table)


def print_table(title: str, figures: Mapping[str, str]) -> None:
    """The figures for people."""
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
