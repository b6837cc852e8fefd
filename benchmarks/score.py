"""What a morning's scores cost: end to end, against the network alone, and in memory.

    python -m benchmarks.score [--parts forward memory literal precision beside]
                              [--users 100000 1000000]

*memory*: for each number of users of the made-up platform (more than 100,000 are copies of those
under other names) a fresh process scores and publishes
(Delta `sequences` in, published Delta `scores` out) with a network of drawn weights: users a second
of both verbs together, and the peak of resident memory.

*forward*: the same network alone, on dense batches of the same users that are in memory already, at
the best of these settings: one batch on all cores, or one a core on one thread each, of several
sizes. Measured before and after the last of those runs, because what else runs on a machine
changes; the better one counts. ``share_of_forward`` is end to end over it, ``share_of_forward_cpu``
the same in processor seconds, which other programs disturb less.

*literal*: the published form on the same batches as its equations read
(:mod:`benchmarks._literal`), outputs compared first, forward passes alone, processor seconds of one
thread. ``times_literal`` is of the tiny size, against the reading that computes all users and days
at once; ``..._by_user`` against the one that takes them one at a time; ``..._small`` of 512 wide.

*precision*: a network trained for some steps on a small world, then float32, bfloat16, int8 and
compiled on the same users: speed, and AUC and calibration error of each task at the last origin
that has matured. Rounds in turn, medians.

*beside*: ``score`` of a small world in a fresh process, alone and beside one process that keeps a
core busy, in turn: active users a second, medians of rounds.

A quarter of an hour on two idle cores, and some minutes to write the worlds, which are kept.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import _match as match
from benchmarks import _scoring as scoring
from benchmarks._beside import alone_and_beside
from benchmarks._steps import shape
from lumos.accio.contract import load_events
from lumos.accio.dense import Batch
from lumos.accio.users import Users
from lumos.cli import run
from lumos.compute import keep_memory
from lumos.config import Recipe, ScoringConfig
from lumos.dates import day_number
from lumos.overrides import override
from lumos.serve.accuracy import measure
from lumos.serve.inputs import is_active, pin
from lumos.serve.network import Network
from lumos.serve.ranks import Ranks
from lumos.settings import Settings
from lumos.tasks import task_scores
from lumos.train import checkpoint, tracking
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import joined, prepared
from lumos.verbs import BadInput

PARTS = ("memory", "forward", "literal", "precision", "beside")
_USERS = (100_000, 1_000_000)
_SMALL, _ROUNDS, _BATCH_SIZES = 4_096, 3, (32, 64, 128)
_FORWARD_USERS = 2_048
Figures = dict[str, object]


def main() -> int:
    """Print the tables and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.score", description=__doc__.split("\n")[0])
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--users", nargs="+", type=int, default=list(_USERS))
    made.add_argument("--epochs", type=int, default=2, help="of the training for *precision*")
    arguments = made.parse_args()
    found: Figures = {"cores": Ranks.join().num_cores}
    if {"memory", "forward"} & set(arguments.parts):
        found |= mornings(arguments.users, has_forward="forward" in arguments.parts)
    if "literal" in arguments.parts:
        found |= literal()
    if "precision" in arguments.parts:
        found |= precision(arguments.epochs)
    if "beside" in arguments.parts:
        found |= beside()
    table = Table(title="Scoring")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in found.items():
        table.add_row(figure, str(value))
    Console().print(table)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def mornings(sizes: Sequence[int], *, has_forward: bool) -> Figures:
    """Score and publish each world in a fresh process; the last one beside the network alone."""
    found: Figures = {}
    for number, size in enumerate(sizes):
        settings, recipe = scoring.recipe_of(size)
        scoring.make_ready(settings, recipe)
        is_last = has_forward and number == len(sizes) - 1
        before = forward(settings, recipe) if is_last else {}
        ran = morning(size)
        after = forward(settings, recipe) if is_last else {}
        name = f"{size // 1_000_000}m" if size >= 1_000_000 else f"{size // 1000}k"
        both, both_cpu = (
            ran["score_s"] + ran["publish_s"],
            ran["score_cpu_s"] + ran["publish_cpu_s"],
        )
        found |= {
            f"users_per_s_{name}": round(ran["users"] / both),
            f"score_alone_users_per_s_{name}": round(ran["users"] / ran["score_s"]),
            f"peak_mib_{name}": round(ran["publish_peak_mib"]),
            f"peak_mib_score_{name}": round(ran["score_peak_mib"]),
        }
        if is_last:
            best = {key: max(before[key], after[key]) for key in before}
            found |= {
                "forward_users_per_s": round(best["wall"]),
                "share_of_forward": round(ran["users"] / both / best["wall"], 3),
                "share_of_forward_cpu": round(ran["users"] / both_cpu / best["cpu"], 3),
                "share_of_forward_score_alone": round(
                    ran["users"] / ran["score_s"] / best["wall"], 3
                ),
                "share_of_forward_score_alone_cpu": round(
                    ran["users"] / ran["score_cpu_s"] / best["cpu"], 3
                ),
            }
    return found


def morning(size: int) -> dict[str, float]:
    """What one morning in a fresh process took."""
    command = [sys.executable, "-m", "benchmarks._score_run", str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    ran: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return ran


def beside() -> Figures:
    """Active users a second of ``score`` alone, and beside a busy process."""
    scoring.make_ready(*scoring.recipe_of(_SMALL))

    def speed() -> float:
        ran = morning(_SMALL)
        return ran["users"] / ran["score_s"]

    return alone_and_beside(speed, _ROUNDS, unit="users_per_s")


def forward(settings: Settings, recipe: Recipe) -> dict[str, float]:
    """Users a second, and a processor second, of the network alone at its best setting."""
    keep_memory()  # as scoring does
    champion = _champion(settings, recipe)
    users, num_cores = _active(settings, recipe, _FORWARD_USERS), Ranks.join().num_cores
    best = {"wall": 0.0, "cpu": 0.0}
    before = torch.get_num_threads()
    for size in _BATCH_SIZES:
        batches = _batches(settings, champion, users, size)
        for threads, workers in {(num_cores, 1), (1, num_cores)}:
            torch.set_num_threads(threads)
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(partial(_said, champion), batches[: 2 * workers]))
                started, started_cpu = time.monotonic(), time.process_time()
                list(pool.map(partial(_said, champion), batches))
                wall, cpu = time.monotonic() - started, time.process_time() - started_cpu
            best["wall"] = max(best["wall"], len(users) / wall)
            best["cpu"] = max(best["cpu"], len(users) / cpu)
    torch.set_num_threads(before)
    return best


def _said(model: Checkpoint, batch: Batch) -> None:
    with torch.inference_mode():
        model.model(batch)


def _champion(settings: Settings, recipe: Recipe) -> Checkpoint:
    version = tracking.version_of(settings, recipe, "champion")
    if version is None:
        msg = f"recipe {recipe.name} has no champion in {settings.home}"
        raise BadInput(msg)
    return checkpoint.load(tracking.checkpoint_of(settings, recipe, version))


def _active(settings: Settings, recipe: Recipe, most: int) -> Users:
    """So many users that get a score, of row groups from all over the table."""
    asked = scoring.request(settings, recipe, "score")
    table = pin(asked).table(asked)
    step = max(1, table.num_users // (2 * most))
    parts = [table.read(n) for n in range(0, len(table.shards), step)]
    users = Users.concat(parts)
    users = users.take(is_active(users, scoring.DATE, recipe.scoring.active_within_days))
    return users.part(0, min(most, len(users)))


def _batches(settings: Settings, model: Checkpoint, users: Users, size: int) -> list[Batch]:
    events = load_events(settings, model.recipe, None)
    origins = np.full(len(users), day_number(scoring.DATE), np.int32)
    dense = prepared(model, users, origins, events)
    return [dense.part(at, min(at + size, len(users))) for at in range(0, len(users), size)]


def literal() -> Figures:
    """The published form against its literal reading, forward passes alone."""
    torch.set_num_threads(1)
    settings, _ = scoring.recipe_of(_SMALL)
    found: Figures = {}
    for form, size in (("paper_tiny", 32), ("paper_small", 4)):
        peers = match.Ground.of(settings, shape(form, 64), day_number(scoring.DATE)).peers(size)
        with torch.inference_mode():
            ours = peers.objective.forecaster(peers.batch).outputs_BMFU[:, 0]
            worst = float((ours - peers.literal_outputs()).abs().max())
            if worst > match.OUTPUTS_CLOSE:
                raise RuntimeError(f"{form}: outputs differ by {worst:.1e}")
            spent = _in_turn(
                {
                    "shipped": lambda peers=peers: peers.objective.forecaster(peers.batch),
                    "literal": peers.literal_outputs,
                    "by user": lambda peers=peers: match.forecast_literally(
                        peers.state, peers.config, peers.batch
                    ),
                }
            )
        # The size that is scored here is tiny: so is the one that counts.
        suffix = "" if form == "paper_tiny" else "_small"
        found[f"times_literal{suffix}"] = round(spent["literal"] / spent["shipped"], 2)
        found[f"times_literal_by_user{suffix}"] = round(spent["by user"] / spent["shipped"], 2)
        found[f"literal_difference{suffix}"] = worst
    return found


def _in_turn(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Medians of processor seconds, of rounds in which each runs in turn."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_ROUNDS + 1):
        for name, each in runs.items():
            started = time.process_time()
            each()
            if number:  # the first round warms up
                spent[name].append(time.process_time() - started)
    return {name: statistics.median(times) for name, times in spent.items()}


def precision(epochs: int) -> Figures:
    """Speed, and change of AUC and calibration error, of each way to compute."""
    torch.set_num_threads(1)
    settings, recipe = scoring.recipe_of(_SMALL)
    recipe = override(recipe, {"training.epochs": epochs, "training.processes": 1})
    run(scoring.request(settings, recipe, "train"))
    version = tracking.version_of(settings, recipe, "challenger")
    model = checkpoint.load(tracking.checkpoint_of(settings, recipe, str(version)))
    users, origins, outcomes = scoring.judged(recipe, _everybody(settings, recipe))
    dense = prepared(model, users, origins, load_events(settings, recipe, None))
    size = recipe.scoring.batch_size
    batches = [dense.part(at, min(at + size, len(users))) for at in range(0, len(users), size)]
    networks = {name: Network.of(model, scored) for name, scored in _ways(recipe).items()}
    spent = _in_turn(
        {name: partial(_answers, network, batches[:16]) for name, network in networks.items()}
    )
    found: Figures = {}
    exact: dict[str, dict[str, float | None]] = {}
    for name, network in networks.items():
        said = task_scores(recipe, joined([network.answer(batch) for batch in batches]))
        measured = {t.name: measure(t, outcomes[t.name], said[t.name]) for t in recipe.tasks}
        exact = exact or measured
        found[f"times_float32_{name}"] = round(spent["float32"] / spent[name], 2)
        for task, values in measured.items():
            for figure in ("auc", "ece", "wape"):
                value, reference = values.get(figure), exact[task].get(figure)
                if value is not None and reference is not None:
                    changed = value if name == "float32" else value - reference
                    found[f"{task}_{figure}_{name}"] = round(changed, 5)
    return found


def _ways(recipe: Recipe) -> dict[str, ScoringConfig]:
    """By name; float32 first, which the others are compared with."""
    ways = {
        "float32": {},
        "bfloat16": {"scoring.precision": "bfloat16"},
        "int8": {"scoring.precision": "int8"},
        "compiled": {"scoring.compile": True},
    }
    return {name: override(recipe, changes).scoring for name, changes in ways.items()}


def _answers(network: Network, batches: Sequence[Batch]) -> None:
    for batch in batches:
        network.answer(batch)


def _everybody(settings: Settings, recipe: Recipe) -> Users:
    asked = scoring.request(settings, recipe, "score")
    return Users.concat(list(pin(asked).table(asked).users()))


if __name__ == "__main__":
    sys.exit(main())
