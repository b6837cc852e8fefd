"""Does the known future calendar help, and is what the forecaster learned of it true?

    python -m benchmarks.calendar [--users 20000] [--epochs 2] [--weeks 52]

A made-up fantasy-sports platform of four years is written as contract tables, and our form of the
forecaster is trained on it three times by the real training, same seeds: with the whole calendar,
without its future (``events="no_future"``), and with weekdays, seasons and holidays alone
(``events=()``). All are judged on time that no training saw, a year of weekly origins: *joins a
contest on day k*, users, origins and days 1 to 7 pooled.

Then the forecaster with the whole calendar is asked what it makes of calendars that never came: on
one horizon day nothing is on, or one of the changes below. The mean change of the log-odds of
activity that it forecasts for real users is compared with the world's own law for the same users
and days. Seven minutes of processor time: each training takes 80 seconds of it, two epochs of eight
origins a user.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lumos.accio.batch import ragged_batch
from lumos.accio.contract import event_calendar, load_events, open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World, recipe
from lumos.datasets.fantasy_sports.activity import probability
from lumos.datasets.fantasy_sports.context import COLUMN, EVENT_COLUMNS, context_of
from lumos.datasets.fantasy_sports.users import users_of
from lumos.datasets.fantasy_sports.world import BLOCK_USERS
from lumos.datasets.fantasy_sports.write import write_tables
from lumos.dates import day_number
from lumos.overrides import override
from lumos.progress import progress
from lumos.serve.accuracy import auc, spearman
from lumos.settings import Settings
from lumos.train.checkpoint import Checkpoint
from lumos.train.distributed import StopSignal, joined
from lumos.train.predict import forecast
from lumos.train.prepare import find_origins, pinned, prepare
from lumos.train.training import Training
from lumos.verbs import Request

VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "without_calendar": {"model.events": "no_future"},
    "weekdays_only": {"events": ()},
}
_BATCH_SIZE = 256
# What is asked of hypothetical days: every so many weeks, on this horizon day, of users who have
# been there for so many days.
_WEEKS_APART, _HORIZON_DAY, _DAYS_THERE = 8, 3, 28


@dataclass(frozen=True)
class Change:
    """What is on, on a day that has nothing else on; asked of all users, or of a city's."""

    name: str
    on: dict[str, int]
    region: str = ""

    @property
    def row(self) -> np.ndarray:
        """Event columns of the day."""
        row = np.zeros(len(EVENT_COLUMNS), np.float32)
        for name, value in self.on.items():
            row[COLUMN[name]] = value
        return row


def _matches(sport: str, part: str, *also: str, count: int = 1, **columns: int) -> dict[str, int]:
    names = ("num_matches", f"num_{sport}", f"num_{part}", *also)
    return dict.fromkeys(names, count) | columns


_SIDES = {"mumbai_plays": 1, "chennai_plays": 1}
_FOUR = _SIDES | {"kolkata_plays": 1, "delhi_plays": 1}
_HOME = {"india_plays": 1, "num_free_to_air": 1}
CHANGES = (
    Change("a match overseas at night", _matches("t20", "night", "num_overseas")),
    Change("a match overseas in the morning", _matches("t20", "morning", "num_overseas")),
    Change("a league match", _matches("t20", "evening", "num_league", **_SIDES)),
    Change("the same, to a side's city", _matches("t20", "evening", "num_league", **_SIDES),
           region="mumbai"),
    Change("the same, to another city", _matches("t20", "evening", "num_league", **_SIDES),
           region="bengaluru"),
    Change("two league matches", _matches("t20", "evening", "num_league", count=2, **_FOUR)
           | {"num_evening": 1, "num_afternoon": 1}),
    Change("a league knock-out",
           _matches("t20", "evening", "num_league", "num_knockouts", **_SIDES)),
    Change("the league's final", _matches("t20", "evening", "num_league", "num_finals",
                                          "num_free_to_air", **_SIDES)),
    Change("a women's league match", _matches("t20", "evening", "num_womens")),
    Change("the home nation, test", _matches("test", "morning", "num_tour", **_HOME)),
    Change("the home nation, one day", _matches("odi", "evening", "num_tour", **_HOME)),
    Change("the home nation, T20", _matches("t20", "evening", "num_tour", **_HOME)),
    Change("a world cup match of others", _matches("odi", "afternoon", "num_world_cup")),
    Change("the home nation in a world cup",
           _matches("odi", "afternoon", "num_world_cup", **_HOME)),
    Change("three football matches", _matches("football", "night", count=3)),
    Change("two kabaddi matches", _matches("kabaddi", "evening", count=2)),
    Change("a prize pool of 20 crore", {"prize_pool": 20}),
    Change("a match called off", {"num_cancelled": 1}),
)  # fmt: skip


def main() -> int:
    """Print the tables and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.calendar", description=__doc__.split("\n")[0])
    made.add_argument("--users", type=int, default=20_000)
    made.add_argument("--judged", type=int, default=BLOCK_USERS, help="the first so many")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--weeks", type=int, default=52, help="judged, after the training")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = made.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world, started = World(arguments.users), time.monotonic()
    changes = {
        "num_buckets": 4,
        "training.epochs": arguments.epochs,
        "evaluation.num_origins": arguments.weeks,
    }
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        settings = written(Path(name), world, override(recipe(), changes))
        for variant in arguments.variants:
            shaped = override(recipe(), changes | VARIANTS[variant])
            begun = time.process_time()
            checkpoint = trained(
                settings, shaped, world, Path(name) / variant, threads=arguments.threads
            )
            figures[f"cpu_seconds_training_{variant}"] = round(time.process_time() - begun)
            figures[f"auc_{variant}"] = judged(settings, checkpoint, world, arguments.judged)
            if variant == "full":
                figures |= effects(settings, checkpoint, world)
    if {"full", "without_calendar"} <= set(arguments.variants):
        gain = float(str(figures["auc_full"])) - float(str(figures["auc_without_calendar"]))
        figures["auc_gain"] = round(gain, 4)
    figures["seconds"] = round(time.monotonic() - started)
    figures["cpu_seconds"] = round(time.process_time())
    print_figures(figures)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def written(folder: Path, world: World, shaped: Recipe) -> Settings:
    """The contract tables that a training reads."""
    settings = Settings.from_environment({"LUMOS_HOME": str(folder)})
    write_tables(
        settings,
        shaped,
        world,
        scratch=folder / "scratch",
        names=("event_context", "users", "sequences"),
        processes=len(os.sched_getaffinity(0)),
    )
    return settings


def trained(
    settings: Settings, shaped: Recipe, world: World, folder: Path, *, threads: int
) -> Checkpoint:
    """By the real training, on what came before the judged weeks."""
    request = Request(verb="train", recipe=shaped, date=world.last_day, settings=settings)
    with joined() as alone, StopSignal().listening() as stop:
        torch.set_num_threads(threads)
        origins = find_origins(settings, shaped, world.last_day)
        prepared = prepare(request, pinned(request), origins, alone)
        training = Training(prepared, alone, folder)
        training.run(stop, lambda _epochs: None)
        return Checkpoint(training.trained(), prepared.scaler, shaped, info={})


def some_users(settings: Settings, shaped: Recipe, num_users: int) -> Users:
    """The first users of the world, sorted by name."""
    last = f"usr{num_users:09d}"
    parts = [
        users.take(users.user_id.astype(str) < last)
        for users in open_sequences(settings, shaped, None).users()
    ]
    users = Users.concat(parts)
    return users.take(np.argsort(users.user_id.astype(str)))


def judged_origins(shaped: Recipe, world: World, settings: Settings) -> list[int]:
    """Day numbers of the weekly origins after the training."""
    evaluation = find_origins(settings, shaped, world.last_day).evaluation
    return [day_number(day) for day in evaluation]


def judged(settings: Settings, checkpoint: Checkpoint, world: World, num_users: int) -> float:
    """AUC of *joins a contest on day k*, all users, origins and days pooled."""
    shaped = checkpoint.recipe
    users = some_users(settings, shaped, num_users)
    events = load_events(settings, shaped, None)
    column, binary = (
        names.index("joined") for names in ([c.name for c in shaped.activity], shaped.binary)
    )
    said, came = [], []
    origins = judged_origins(shaped, world, settings)
    with progress("judging", len(origins)) as advance:
        for origin in origins:
            there = users.take(users.registered <= origin)
            at = np.full(len(there), origin)
            p = forecast(checkpoint, there, at, events, batch_size=_BATCH_SIZE).p
            said.append(p[..., binary].ravel())
            targets = ragged_batch(there, at, 1, shaped.horizon_days).windows.targets
            came.append(targets[..., column].ravel())
            advance()
    found = auc(np.concatenate(came), np.concatenate(said))
    assert found is not None, "somebody joined, somebody did not"
    return round(found, 4)


def effects(settings: Settings, checkpoint: Checkpoint, world: World) -> dict[str, object]:
    """How the learned effects of calendar changes compare with the true ones."""
    learned, true = [], []
    everybody = some_users(settings, checkpoint.recipe, BLOCK_USERS)
    origins = judged_origins(checkpoint.recipe, world, settings)[::_WEEKS_APART]
    with progress("asking what if", len(origins)) as advance:
        for origin in origins:
            has_been = everybody.registered <= origin - _DAYS_THERE
            users = everybody.take(has_been)
            calendars = [Change("nothing", {}), *CHANGES]
            said = np.stack([forecast_log_odds(checkpoint, users, origin, c) for c in calendars])
            law = true_log_odds(world, origin + _HORIZON_DAY, calendars)[:, has_been]
            groups = [_of_region(users, change.region) for change in CHANGES]
            for found, log_odds in ((learned, said), (true, law)):
                pairs = zip(log_odds[1:], groups, strict=True)
                found.append([(row - log_odds[0])[group].mean() for row, group in pairs])
            advance()
    learned_C, true_C = np.mean(learned, axis=0), np.mean(true, axis=0)
    print_effects(learned_C, true_C)
    has_sign = true_C != 0
    return {
        "effect_rank_correlation": round(float(spearman(true_C, learned_C) or 0), 3),
        "effect_correlation": round(float(np.corrcoef(true_C, learned_C)[0, 1]), 3),
        "effect_slope": round(float(learned_C @ true_C / (true_C @ true_C)), 3),
        "effect_sign_agreement": round(
            float((np.sign(learned_C) == np.sign(true_C))[has_sign].mean()), 3
        ),
        "num_changes": len(CHANGES),
    }


def forecast_log_odds(
    checkpoint: Checkpoint, users: Users, origin: int, change: Change
) -> np.ndarray:
    """Of activity on the horizon day that is changed, shape (N,)."""
    calendar = changed_calendar(checkpoint.recipe, World(1), origin, change)
    at = np.full(len(users), origin)
    said = forecast(checkpoint, users, at, calendar, batch_size=_BATCH_SIZE).p
    binary = checkpoint.recipe.binary.index(checkpoint.recipe.active)
    return _log_odds(said[:, _HORIZON_DAY - 1, binary])


def changed_calendar(shaped: Recipe, world: World, origin: int, change: Change) -> EventCalendar:
    """All that was announced, and on the origin one notice more, about the horizon day."""
    context = context_of(world)
    return event_calendar(
        shaped,
        np.append(context.day, origin + _HORIZON_DAY),
        np.append(context.known_on, origin),
        np.concatenate([context.values, change.row[None]]),
    )


def true_log_odds(world: World, day: int, calendars: Sequence[Change]) -> np.ndarray:
    """Of activity of the world's first block of users on a day under each calendar, (C, N)."""
    few = World(BLOCK_USERS, world.seed)
    users, place = users_of(few, 0), day - few.first
    rows = []
    for change in calendars:
        came = context_of(few).as_it_came.copy()
        came[place] = change.row
        rows.append(_log_odds(probability(few, users, events=came)[:, place]))
    return np.stack(rows)


def _log_odds(p: np.ndarray) -> np.ndarray:
    wide = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(wide / (1 - wide)))


def _of_region(users: Users, region: str) -> np.ndarray:
    if not region:
        return np.ones(len(users), bool)
    return np.array([value == region for value in users.static["region"].to_pylist()])


def print_effects(learned_C: np.ndarray, true_C: np.ndarray) -> None:
    """Change by change, for people."""
    table = Table(title="Mean change of the log-odds of activity, against a day with nothing on")
    for column in ("on that day", "true", "learned"):
        table.add_column(column, justify="left" if column == "on that day" else "right")
    for place in np.argsort(-true_C):
        shown = (f"{effects_C[place]:+.2f}" for effects_C in (true_C, learned_C))
        table.add_row(CHANGES[place].name, *shown)
    Console().print(table)


def print_figures(figures: dict[str, object]) -> None:
    """The figures for people."""
    table = Table(title="The calendar, on time that no training saw")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
