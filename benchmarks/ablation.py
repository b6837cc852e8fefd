"""What each choice of our form is worth on real shopping: one change at a time, trained again.

Complete Journey, judged on October's weekly origins alone (benchmarks.accuracy keeps November and
December). One seed a row: differences below .001 are noise.

    python -m benchmarks.ablation [--epochs 8] [--only NAME ...]
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import (
    NUM_DAYS,
    QUESTIONS,
    VALIDATION,
    Data,
    answers,
    came,
    data,
    train_forecaster,
)
from lumos.dates import day_number
from lumos.overrides import override
from lumos.serve.features import Examples, History
from lumos.tasks import auc, wape

ONE_ORIGIN = {"training.origins_per_window": 1}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "positions none": {"model.positions": "none"},
    "positions learned": {"model.positions": "learned"},
    "positions sinusoidal": {"model.positions": "sinusoidal"},
    "positions tape": {"model.positions": "tape"},
    "positions absolute": {"model.positions": "absolute"},
    "positions rope": {"model.positions": "rope"},
    "one origin a window": ONE_ORIGIN,
    "one origin, bidirectional": {**ONE_ORIGIN, "model.encoder": "bidirectional"},
    "events none": {"model.events": "none"},
    "events no future": {"model.events": "no_future"},
    "future embedding shared": {"model.future_embedding": "shared"},
    "day heads of two layers": {"model.head_layers": 2},
    "learned sigma (eq. 10)": {"training.loss.weighting": "learned"},
    "AdamW for the matrices": {"training.matrices": "adamw"},
    "last weights, no average": {"training.ema": 0.0},
    "no amounts of days": {"training.loss.continuous": 0.0},
    "width 128": {"model.d_model": 128, "model.d_ff": 256},
    "dropout .2": {"model.dropout": 0.2},
}


def figures(given: Data, examples: Examples) -> dict[str, float]:
    """Of one trained form on the validation rows; ``seconds`` of its training."""
    started = time.monotonic()
    checkpoint, _ = train_forecaster(given, seed=0)
    seconds = time.monotonic() - started
    said = answers(given, checkpoint, examples)
    found = {"seconds": seconds}
    for name, task in QUESTIONS.items():
        measure = wape if name.startswith("wape") else auc
        value = measure(examples.outcomes[task], np.asarray(said[task], np.float64))
        assert value is not None, "October shows both outcomes"
        found[name] = value
    by_day = auc(came(given, examples).ravel(), said["days"].astype(np.float64).ravel())
    assert by_day is not None, "October shows both outcomes"
    return found | {f"day_1_to_{NUM_DAYS}": by_day}


def main() -> None:
    """Train each form, print its figures as they come, then all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="of each training (default 8)")
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    arguments = parser.parse_args()
    given = data()
    history = History(given.users, given.recipe)
    examples = history.examples([day_number(origin) for origin in VALIDATION], given.events)
    found: dict[str, dict[str, float]] = {}
    for name in arguments.only:
        changes = {"training.epochs": arguments.epochs, **CHANGES[name]}
        changed = replace(given, recipe=override(given.recipe, changes))
        found[name] = {key: round(x, 4) for key, x in figures(changed, examples).items()}
        sys.stderr.write(f"{name}: {found[name]}\n")
    table = Table(title=f"October's origins, {arguments.epochs} epochs, one seed")
    columns = list(next(iter(found.values())))
    for heading in ("", *columns):
        table.add_column(heading, justify="right")
    for name, row in found.items():
        table.add_row(name, *(f"{row[column]:.4f}" for column in columns))
    Console(width=110).print(table)
    sys.stdout.write(json.dumps({"epochs": arguments.epochs, **found}) + "\n")


if __name__ == "__main__":
    main()
