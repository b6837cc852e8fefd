"""What a morning of an experiment costs on a large platform: `assign` and `measure`, end to end.

`activity` (46 days, of which a third of user-days is active: 18 of the experiment and the 28 before
that make the covariate) and `users` of a made-up platform are written once and kept under
``$LUMOS_HOME/bench``; columns that the experiment does not read hold zeros. Then the shipped
recipe's experiment is assigned and measured on its 18th day, from nothing, each verb by a process
of its own. Seconds are of the whole process, memory is the most that it and its children (the JVM)
had resident together. Users of each variant, the sums of active days and of what offers cost have
to be those of the arrays the tables were written from.

    python -m benchmarks.experiment_scale [--users 1400000]
"""

import argparse
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from lumos import ledger
from lumos.config import Recipe
from lumos.delta import predicate, read, replace
from lumos.experiment.assignment import variant_of
from lumos.experiment.declaration import Experiment, declared
from lumos.recipes import load
from lumos.settings import REPOSITORY, Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Request

RECIPE = "fantasy_sports"
DAYS, SEED = 18, 0
_WRITTEN = ("exposures", "experiments", "outcomes", "moments", "effects", "looks", "metrics")


def main() -> int:
    """Print a table and, last, one JSON line."""
    made = argparse.ArgumentParser(
        prog="benchmarks.experiment_scale", description=__doc__.split("\n")[0]
    )
    made.add_argument("--users", type=int, default=1_400_000)
    arguments = made.parse_args()
    home = Settings.from_environment().home / "bench" / f"experiment-{arguments.users}"
    # The home is the user's own: there are Spark's JARs.
    settings = Settings.from_environment({**os.environ, "LUMOS_LAKE": str(home / "lake")})
    recipe = load(RECIPE)
    (experiment,) = declared(settings, recipe)
    date = experiment.start + dt.timedelta(days=DAYS - 1)
    write(settings, recipe, experiment, date, home, arguments.users)
    for name in _WRITTEN:
        shutil.rmtree(table_uri(settings, recipe, name), ignore_errors=True)
    found: dict[str, object] = {"users": arguments.users, "cores": len(os.sched_getaffinity(0))}
    took = {verb: timed(settings, verb, date) for verb in ("assign", "measure")}
    for verb, (seconds, peak) in took.items():
        found |= {f"{verb}_s": round(seconds, 1), f"{verb}_peak_mib": round(peak)}
    found["seconds"] = round(sum(seconds for seconds, _ in took.values()), 1)
    found["peak_mib"] = round(max(peak for _, peak in took.values()))
    found["results_equal"] = are_equal(settings, recipe, experiment, date, home)
    table = Table(title=f"{arguments.users:,} users, {DAYS} days")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in found.items():
        table.add_row(figure, str(value))
    Console().print(table)
    print(json.dumps(found))
    return 0


def write(
    settings: Settings,
    recipe: Recipe,
    experiment: Experiment,
    date: dt.date,
    home: Path,
    num_users: int,
) -> None:
    """The two tables and what is true of them, unless that was done."""
    truth = home / "truth.npz"
    if truth.exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    chance = np.random.default_rng(SEED)
    habit = chance.beta(0.5, 1.0, num_users)  # a third, on average
    ids = pa.array(names(num_users))
    begins = experiment.start - dt.timedelta(days=experiment.pre_days)
    num_active, cost = np.zeros(num_users), np.zeros(num_users)
    declared_as = tables(recipe)["activity"]
    for number in range((date - begins).days + 1):
        day = begins + dt.timedelta(days=number)
        who = np.flatnonzero(chance.random(num_users) < habit)
        bonus = np.rint(chance.lognormal(1, 1, len(who)) * 4) / 4
        if day >= experiment.start:
            num_active[who] += 1
            cost[who] += bonus
        zeros = np.zeros(len(who))
        columns = {name: zeros for name in declared_as.column_names} | {
            "user_id": ids.take(pa.array(who)),
            "day": pa.array([day] * len(who), pa.date32()),
            "active": zeros + 1,
            "bonus": bonus,
            "deposits": np.rint(chance.lognormal(2, 1, len(who))),
            "num_raw_rows": np.ones(len(who), np.int64),
        }
        rows = pa.table(columns, schema=declared_as.arrow_schema(recipe))
        uri = table_uri(settings, recipe, "activity")
        version = replace(uri, rows, where=predicate(day=day), partition=declared_as.partition)
    ready(settings, recipe, date, "activity", version)
    registered = pa.array([begins] * num_users, pa.date32())
    known = {"user_id": ids, "valid_from": registered, "registered_on": registered}
    schema = tables(recipe)["users"].arrow_schema(recipe)
    columns = {f.name: known.get(f.name, pa.nulls(num_users, f.type)) for f in schema}
    users = pa.table(columns, schema=schema)
    version = replace(table_uri(settings, recipe, "users"), users, where=None)
    ready(settings, recipe, date, "users", version)
    np.savez(truth, num_active=num_active, cost=cost)


def names(num_users: int) -> list[str]:
    """Ids of the users."""
    return [f"u{number:08d}" for number in range(num_users)]


def ready(settings: Settings, recipe: Recipe, date: dt.date, table: str, version: int) -> None:
    """Enter a table into the ledger."""
    request = Request(verb="land", recipe=recipe, date=date, settings=settings)
    written = (ledger.TableWritten(table=table, version=version, rows=0),)
    ledger.record(request, request.report(tables=written), inputs={"world": SEED})


def timed(settings: Settings, verb: str, date: dt.date) -> tuple[float, float]:
    """Seconds of a verb's process, and MiB resident with its children at most."""
    started, peak = time.monotonic(), 0.0
    process = subprocess.Popen(
        [sys.executable, "-m", "lumos", verb, "--recipe", RECIPE, "--date", str(date), "--force"],
        cwd=REPOSITORY,
        env={**os.environ, "LUMOS_LAKE": settings.lake},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        peak = max(peak, sum(resident(psutil.Process(process.pid))))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"lumos {verb} ended with {process.returncode}")
    return time.monotonic() - started, peak / 2**20


def resident(process: psutil.Process) -> Iterator[int]:
    """Bytes of a process and of each of its children; pages that they share count twice."""
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in tree:
        try:
            yield each.memory_info().rss
        except psutil.NoSuchProcess:
            continue


def are_equal(
    settings: Settings, recipe: Recipe, experiment: Experiment, date: dt.date, home: Path
) -> bool:
    """Counts and sums of each variant are those of the arrays; so are sums of squares."""
    with np.load(home / "truth.npz") as truth:
        num_active, cost = truth["num_active"], truth["cost"]
    variant = variant_of(names(len(cost)), experiment)
    capped = np.minimum(cost, np.quantile(cost, 0.999))
    rows = read(
        table_uri(settings, recipe, "moments"),
        where=predicate(experiment=experiment.name, as_of=date),
    )
    assert rows is not None
    kept = {
        (r["metric"], r["variant"], r["left"], r["right"]): r["value"]
        for r in rows.to_pylist()
        if r["segment"] == "all"
    }
    wanted = {}
    for name in (each.name for each in experiment.variants):
        mine = variant == name
        for metric, values in (("dau", num_active), ("offer_cost", capped)):
            wanted[metric, name, "one", "one"] = mine.sum()
            wanted[metric, name, "one", "numerator"] = values[mine].sum()
            wanted[metric, name, "numerator", "numerator"] = (values[mine] ** 2).sum()
    return all(np.isclose(kept[key], value, rtol=1e-9, atol=0) for key, value in wanted.items())


if __name__ == "__main__":
    sys.exit(main())
