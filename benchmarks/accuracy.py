"""Is one forecaster on raw columns better than LightGBM on hand-made features, on real shopping?

Complete Journey, forecasts of weekly origins whose first day is 2017-11-05 .. 2017-12-24 (with
28 days ahead: as long as they were recorded). All training labels end before 2017-10-08; both
sides chose their settings on October's origins alone. LightGBM learns one model a question, the
forecaster answers all of them at once. Intervals resample users, whose weeks hang together.

    python -m benchmarks.accuracy [--seeds 3]
"""

import argparse
import datetime as dt
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _trees
from lumos import ledger
from lumos.accio.contract import load_events, open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.split import Split
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.cli import VERBS, run
from lumos.config import Recipe, Task
from lumos.dates import day_number
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.accuracy import calibration_error
from lumos.serve.calibrators import fit_task
from lumos.serve.features import Examples, History
from lumos.settings import Settings
from lumos.train.checkpoint import Checkpoint
from lumos.train.distributed import StopSignal, World
from lumos.train.predict import forecast
from lumos.train.prepare import Origins, Prepared, prepare
from lumos.train.training import Training
from lumos.verbs import Request

AS_OF = dt.date(2017, 12, 31)
LAST_LABEL = dt.date(2017, 10, 7)
WEEK = dt.timedelta(days=7)
# The day before the first forecast day.
VALIDATION = [dt.date(2017, 10, 7) + WEEK * n for n in range(4)]
TEST = [dt.date(2017, 11, 4) + WEEK * n for n in range(8)]
NUM_DAYS = 7  # of which each is judged apart
RESAMPLES = 1000
DAYS_BETWEEN_TREES = 6  # prime to 7: training origins of the trees fall on every weekday
HELD_OUT = 0.01  # of all users, by both sides (SPEC: data)
QUESTIONS = {"7d": "shop_7d", "28d": "shop_28d", "wape_7d": "typical_sales_7d"}


@dataclass(frozen=True)
class Data:
    """The lake of the benchmark, and everybody in it."""

    settings: Settings
    recipe: Recipe
    inputs: dict[str, int | str]
    users: Users
    events: EventCalendar
    is_training: np.ndarray

    @property
    def first_day(self) -> dt.date:
        """First recorded day."""
        return min(e.first_day for e in ledger.entries(self.settings, self.recipe, "activity"))


def data() -> Data:
    """Aggregate the whole year once, kept under ``$LUMOS_HOME/bench``."""
    home = Settings.from_environment().home
    place = home / "bench" / "complete_journey"
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "spark").exists():
        (place / "spark").symlink_to((home / "spark").resolve())
    settings = Settings.from_environment({"LUMOS_HOME": str(place)})
    recipe = override(load("complete_journey"), {"training.held_out_users_share": HELD_OUT})
    for verb, options in (("land", {}), ("aggregate", {"days": 365}), ("sequences", {})):
        defaults = {flag.name.replace("-", "_"): flag.default for flag in VERBS[verb].flags}
        given = {**defaults, **options}
        run(Request(verb=verb, recipe=recipe, date=AS_OF, settings=settings, options=given))
    found = {
        name: ledger.require(settings, recipe, name, AS_OF, remedy="")
        for name in ("sequences", "event_context")
    }
    users = Users.concat(list(open_sequences(settings, recipe, found["sequences"].version).users()))
    return Data(
        settings=settings,
        recipe=recipe,
        inputs={name: entry.version for name, entry in found.items()},
        users=users,
        events=load_events(settings, recipe, found["event_context"].version),
        is_training=Split(HELD_OUT, recipe.training.seed, day_number(LAST_LABEL))(users),
    )


@dataclass(frozen=True)
class Judged:
    """Forecasts and outcomes of one question; rows of all origins.

    Attributes:
        user: Number of the user, shape (N,).
        outcome: What came true.
        said: By contestant.
    """

    user: np.ndarray
    outcome: np.ndarray
    said: Mapping[str, np.ndarray]


def train_forecaster(given: Data, seed: int) -> tuple[Checkpoint, float]:
    """The shipped recipe with labels up to October 7 only; returns it and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        return train_in(Path(folder) / "state", given, seed)


def train_in(folder: Path, given: Data, seed: int) -> tuple[Checkpoint, float]:
    """The same, going on from the state that the folder has."""
    recipe = override(given.recipe, {"training.seed": seed})
    training = recipe.training
    first = given.first_day + dt.timedelta(days=training.min_history_days - 1)
    shortest = min(task.window_days for task in recipe.tasks if task.has_head)
    origins = Origins(
        given.first_day, (first, LAST_LABEL - dt.timedelta(days=shortest)), LAST_LABEL, ()
    )
    request = Request(verb="train", recipe=recipe, date=LAST_LABEL, settings=given.settings)
    prepared = _same_split(prepare(request, given.inputs, origins, World()), given)
    started = time.monotonic()
    running = Training(prepared, World(), folder)
    running.run(StopSignal(), lambda _epochs: None)
    model = running.trained()
    seconds = time.monotonic() - started
    return Checkpoint(model=model, scaler=prepared.scaler, recipe=recipe, info={}), seconds


def _same_split(prepared: Prepared, given: Data) -> Prepared:
    """Every seed, and the trees, hold out the same users."""
    assert prepared.split.share == HELD_OUT
    assert prepared.num_training <= given.is_training.sum()
    return prepared


def answers(given: Data, checkpoint: Checkpoint, examples: Examples) -> dict[str, np.ndarray]:
    """The forecaster's task answers, and ``days`` of shape (N, NUM_DAYS)."""
    made = forecast(
        checkpoint,
        given.users.take(examples.user),
        examples.origin.astype(np.int32),
        given.events,
        batch_size=256,
    )
    active = given.recipe.binary.index(given.recipe.active)
    return {**made.heads, "days": made.p[:, :NUM_DAYS, active]}


def came(given: Data, examples: Examples) -> np.ndarray:
    """Whether the user was active on each of the next days, shape (N, NUM_DAYS)."""
    column = [c.name for c in given.recipe.activity].index(given.recipe.active)
    users = given.users.take(examples.user)
    targets = cut(users, examples.origin, 0, given.recipe.horizon_days).targets
    return np.asarray(targets[:, :NUM_DAYS, column] > 0)


def trees(given: Data, question: str, at: Mapping[str, Examples]) -> np.ndarray:
    """LightGBM's answers to one question on the test rows."""
    history = History(given.users.take(np.flatnonzero(given.is_training)), given.recipe)
    window = NUM_DAYS if question == "day" else _task(given, question).window_days
    first = day_number(given.first_day) + given.recipe.training.min_history_days - 1
    last = day_number(LAST_LABEL) - window
    train = history.examples(range(last, first - 1, -DAYS_BETWEEN_TREES), given.events)
    if question == "day":
        fitted_on = replace(given, users=given.users.take(np.flatnonzero(given.is_training)))
        rows = {
            "train": _trees.rows_of_days(train, given.events, came(fitted_on, train), NUM_DAYS),
            **{
                name: _trees.rows_of_days(x, given.events, came(given, x), NUM_DAYS)
                for name, x in at.items()
            },
        }
        is_binary = True
    else:
        task = _task(given, question)
        rows = {name: _trees.rows_of(task, x) for name, x in {"train": train, **at}.items()}
        is_binary = task.is_binary
    model = _trees.chosen(rows["train"], rows["validation"], is_binary=is_binary)
    return np.asarray(model.predict(rows["test"].features, num_iteration=model.best_iteration))


def _task(given: Data, question: str) -> Task:
    (task,) = (task for task in given.recipe.tasks if task.name == QUESTIONS[question])
    return task


def judge(given: Data, checkpoints: Sequence[Checkpoint]) -> tuple[dict[str, Judged], float]:
    """Everyone on the same test rows; and the worst calibration error of a binary task.

    Each seed's chances are calibrated as ``lumos publish`` does, on October's outcomes.
    """
    history = History(given.users, given.recipe)
    judged: dict[str, Judged] = {}
    errors: list[float] = []
    for question in ("7d", "28d", "day", "wape_7d"):
        window = NUM_DAYS if question == "day" else _task(given, question).window_days
        at = {
            "validation": _examples(given, history, VALIDATION, window),
            "test": _examples(given, history, TEST, window),
        }
        found = {name: _outcomes(given, question, x) for name, x in at.items()}
        said = {"lightgbm": trees(given, question, at)}
        for checkpoint in checkpoints:
            by_part = {
                name: _flat(question, answers(given, checkpoint, x)) for name, x in at.items()
            }
            said[f"seed_{checkpoint.recipe.training.seed}"] = by_part["test"]
            if question != "wape_7d":
                task = _task(given, "7d" if question == "day" else question)
                calibrator = fit_task(task, found["validation"], by_part["validation"])
                errors.append(calibration_error(found["test"], calibrator(by_part["test"])))
        user = at["test"].user
        user = np.tile(user, NUM_DAYS) if question == "day" else user
        judged[question] = Judged(user, found["test"], said)
    return judged, max(errors)


def _examples(given: Data, history: History, origins: Sequence[dt.date], window: int) -> Examples:
    matured = [o for o in origins if o + dt.timedelta(days=window) <= AS_OF]
    return history.examples([day_number(origin) for origin in matured], given.events)


def _outcomes(given: Data, question: str, examples: Examples) -> np.ndarray:
    if question == "day":
        return came(given, examples).T.ravel().astype(np.float64)
    return np.asarray(examples.outcomes[QUESTIONS[question]], np.float64)


def _flat(question: str, said: Mapping[str, np.ndarray]) -> np.ndarray:
    answer = said["days"].T.ravel() if question == "day" else said[QUESTIONS[question]]
    return np.asarray(answer, np.float64)


def weighted_auc(outcome: np.ndarray, group: np.ndarray, weight: np.ndarray) -> float:
    """AUC of rows that count ``weight`` times; ties count half.

    Args:
        outcome: Above zero or not, shape (N,).
        group: Rank of each forecast among the distinct ones.
        weight: Of each row.
    """
    positive = np.bincount(group, weight * (outcome > 0))
    negative = np.bincount(group, weight * (outcome <= 0))
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def weighted_wape(outcome: np.ndarray, said: np.ndarray, weight: np.ndarray) -> float:
    """WAPE of rows that count ``weight`` times."""
    return float((weight * np.abs(said - outcome)).sum() / (weight * np.abs(outcome)).sum())


def compared(question: str, judged: Judged) -> dict[str, float]:
    """The forecaster's figure (mean of its seeds), LightGBM's, and the difference's interval."""
    name = question if question.startswith("wape") else f"auc_{question}"
    measure = weighted_wape if question.startswith("wape") else weighted_auc
    said = dict(judged.said)
    if measure is weighted_auc:
        said = {who: np.unique(x, return_inverse=True)[1] for who, x in said.items()}

    def figures(weight: np.ndarray) -> tuple[float, float]:
        found = {who: measure(judged.outcome, x, weight) for who, x in said.items()}
        theirs = found.pop("lightgbm")
        return float(np.mean(list(found.values()))), theirs

    ours, theirs = figures(np.ones(len(judged.outcome)))
    random = np.random.default_rng(0)
    num_users = int(judged.user.max()) + 1
    present = np.unique(judged.user)
    differences = []
    for _ in range(RESAMPLES):
        counts = np.bincount(random.choice(present, len(present)), minlength=num_users)
        a, b = figures(counts[judged.user].astype(np.float64))
        differences.append(a - b)
    low, high = np.quantile(differences, [0.025, 0.975])
    return {
        name: ours,
        f"{name}_lightgbm": theirs,
        f"{name}_difference_low": float(low),
        f"{name}_difference_high": float(high),
        f"{name}_num_rows": float(len(judged.outcome)),
    }


def main() -> None:
    """Train, judge, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="forecasters to train (default 3)")
    num_seeds = parser.parse_args().seeds
    given = data()
    trained = [train_forecaster(given, seed) for seed in range(num_seeds)]
    judged, ece_max = judge(given, [checkpoint for checkpoint, _ in trained])
    table = Table(title=f"Complete Journey, test origins {TEST[0]} .. {TEST[-1]}")
    for heading in ("", "forecaster", "LightGBM", "difference, 95%", "rows"):
        table.add_column(heading, justify="right")
    figures: dict[str, float] = {}
    for question, rows in judged.items():
        found = compared(question, rows)
        name = next(iter(found))
        table.add_row(
            name,
            f"{found[name]:.4f}",
            f"{found[f'{name}_lightgbm']:.4f}",
            f"{found[f'{name}_difference_low']:+.4f} .. {found[f'{name}_difference_high']:+.4f}",
            f"{found[f'{name}_num_rows']:.0f}",
        )
        figures |= found
    seconds = float(np.mean([seconds for _, seconds in trained]))
    Console(width=100).print(table)
    print(f"worst calibration error of a chance: {ece_max:.4f}; {seconds:.0f} s a training")
    rounded = {name: round(value, 4) for name, value in figures.items()}
    print(
        json.dumps(
            {
                **rounded,
                "ece_max": round(ece_max, 4),
                "num_seeds": num_seeds,
                "training_seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
