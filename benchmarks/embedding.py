"""What are the embeddings worth: against hand-made features, of one task or of many, by which form?

    python -m benchmarks.embedding [--users 1000] [--epochs 2]

A made-up fantasy-sports platform of four years. One encoder is trained on the days' activity and
five tasks at once, five more on one of the tasks alone, by the real training, same seed, epochs and
batches. On weekly origins that no training saw, logistic regressions answer the five tasks from a
user's embedding: fitted on the first four origins, the form of the embedding and the shrinkage
chosen on the next two, the last four judged once. Intervals resample users.

Beside it, on consecutive days: how many users keep their cohort overnight, how many are flagged on
a day like any other (at most 1%), and how many of the half per cent who that day do twenty times as
much of everything. And how many of the ten nearest an index of cells finds.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.calendar import trained, written
from lumos.accio.contract import load_events, open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import EmbeddingConfig, LossConfig, Recipe
from lumos.datasets.fantasy_sports import World, recipe
from lumos.dates import day_number, from_day_number
from lumos.model.pooling import day_weights
from lumos.overrides import override
from lumos.serve.accuracy import auc
from lumos.serve.changes import Step, groups_of, p_values
from lumos.serve.cohorts import fit_centroids, nearest
from lumos.serve.embed import recent
from lumos.serve.features import Examples, History
from lumos.serve.inputs import is_active
from lumos.serve.neighbours import directions, index_of
from lumos.serve.vectors import RECENT_DAYS
from lumos.settings import Settings
from lumos.study.embedding import Fit, Parts, difference, downstream, hand_made
from lumos.tasks import Days, task
from lumos.train.checkpoint import Checkpoint
from lumos.train.prepare import find_origins
from lumos.train.represent import user_vectors

NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 4, 2, 4
DECAYS = (5.0, 10.0, 30.0, 100.0)
FORMS = tuple(
    EmbeddingConfig(pooling=pooling, stage=stage, decay=decay)
    for stage in ("pre", "post")
    for pooling, decays in (("mean", (5.0,)), ("max", (5.0,)), ("ema", DECAYS))
    for decay in decays
)
MULTI = "multi-task"
_BATCH_SIZE, _DRAWS, _COHORTS = 256, 200, 12
_RATE, _STRANGE = 0.01, 0.005


@task(answer="binary", window_days=7, has_head=True)
def active_7d(days: Days) -> np.ndarray:
    """Opens the app in the week."""
    return days.any("active")


@task(answer="binary", window_days=7, has_head=True)
def join_7d(days: Days) -> np.ndarray:
    """Joins a contest."""
    return days.any("joined")


@task(answer="binary", window_days=7, has_head=True)
def deposit_7d(days: Days) -> np.ndarray:
    """Pays in."""
    return days.any("deposited")


@task(answer="binary", window_days=7, has_head=True)
def withdraw_7d(days: Days) -> np.ndarray:
    """Takes money out."""
    return np.asarray(days.sum("withdrawals") > 0, np.float64)


@task(answer="binary", window_days=7, has_head=True)
def two_hours_7d(days: Days) -> np.ndarray:
    """Spends more than two hours."""
    return np.asarray(days.sum("session_minutes") > 120, np.float64)


TASKS = (active_7d, join_7d, deposit_7d, withdraw_7d, two_hours_7d)


@dataclass(frozen=True)
class Data:
    """Active users at the origins that no training saw.

    Attributes:
        settings: Where the world lies.
        users: Everybody.
        events: The calendar.
        examples: N rows: users at origins, with features and outcomes.
        parts: What each row is for.
    """

    settings: Settings
    users: Users
    events: EventCalendar
    examples: Examples
    parts: Parts


def main() -> int:
    """Print the tables and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.embedding", description=__doc__.split("\n")[0])
    made.add_argument("--users", type=int, default=1_000)
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--index-vectors", type=int, default=100_000)
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = made.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    started, world = time.monotonic(), World(arguments.users)
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        folder = Path(name)
        shaped = override(
            recipe(),
            {
                "tasks": [each.model_dump() for each in TASKS],
                "num_buckets": 2,
                "training.epochs": arguments.epochs,
                "evaluation.num_origins": NUM_TRAIN + NUM_VALIDATION + NUM_TEST,
            },
        )
        settings = written(folder, world, shaped)
        data = examples_of(settings, shaped, world)
        encoders = {MULTI: shaped} | {each.name: single(shaped, each.name) for each in TASKS}
        models = {}
        for encoder, its in encoders.items():
            begun = time.monotonic()
            models[encoder] = trained(
                settings, its, world, folder / encoder, threads=arguments.threads
            )
            print(f"trained {encoder} in {time.monotonic() - begun:.0f} s", flush=True)
        form, figures["validation"] = chosen_form(data, models[MULTI])
        figures["form"] = form.form
        figures |= judged(data, models, form)
        figures["overnight"] = overnight(data, models[MULTI], world)
        vectors = vectors_of(data, models[MULTI], (form,))[form.form]
        figures["index"] = recall(vectors, arguments.index_vectors)
    figures["seconds"] = round(time.monotonic() - started)
    show(figures)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def single(shaped: Recipe, name: str) -> Recipe:
    """The same encoder, of the loss of one task alone."""
    alone = [each.model_dump() for each in TASKS if each.name == name]
    loss = LossConfig(binary=0, continuous=0, hazard=0, chance=1, amount=0)
    return override(shaped, {"tasks": alone, "training.loss": loss.model_dump()})


def examples_of(settings: Settings, shaped: Recipe, world: World) -> Data:
    """Active users at each origin."""
    users = Users.concat(list(open_sequences(settings, shaped, None).users()))
    events = load_events(settings, shaped, None)
    evaluation = find_origins(settings, shaped, world.last_day).evaluation
    origins = [day_number(day) for day in evaluation]
    examples = History(users, shaped).examples(origins, events)
    within = shaped.scoring.active_within_days
    active = np.stack([is_active(users, day, within) for day in evaluation])
    kept = active[np.searchsorted(origins, examples.origin), examples.user]
    examples = replace(
        examples,
        user=examples.user[kept],
        origin=examples.origin[kept],
        values={name: column[kept] for name, column in examples.values.items()},
        horizon={name: rows[kept] for name, rows in examples.horizon.items()},
        outcomes={name: column[kept] for name, column in examples.outcomes.items()},
    )
    parts = Parts.of(examples.origin, num_train=NUM_TRAIN, num_validation=NUM_VALIDATION)
    return Data(settings, users, events, examples, parts)


def vectors_of(
    data: Data, model: Checkpoint, forms: tuple[EmbeddingConfig, ...]
) -> dict[str, np.ndarray]:
    """Embeddings of all rows by form, each (N, D)."""
    rows = data.users.take(data.examples.user)
    found = user_vectors(
        model, rows, data.examples.origin, data.events, forms, batch_size=_BATCH_SIZE
    )
    return {form.form: vectors for form, vectors in zip(forms, found, strict=True)}


def inputs_of(data: Data, name: str, *own: np.ndarray) -> np.ndarray:
    """Of a task: one's own inputs, and the calendar ahead, which everybody knows."""
    return np.column_stack([*own, data.examples.horizon[name]])


def chosen_form(
    data: Data, model: Checkpoint
) -> tuple[EmbeddingConfig, dict[str, dict[str, float]]]:
    """By the mean validation AUC of the five tasks."""
    made = vectors_of(data, model, FORMS)
    table = {
        form: {each.name: round(fitted(data, each.name, vectors).validation, 4) for each in TASKS}
        for form, vectors in made.items()
    }
    best = max(FORMS, key=lambda form: np.mean(list(table[form.form].values())))
    return best, table


def fitted(data: Data, name: str, *own: np.ndarray) -> Fit:
    """A regression for a task."""
    return downstream(inputs_of(data, name, *own), data.examples.outcomes[name], data.parts)


def judged(
    data: Data, models: Mapping[str, Checkpoint], form: EmbeddingConfig
) -> dict[str, object]:
    """AUC of every contestant on every task, on the test origins, looked at once."""
    features = hand_made(data.examples)
    vectors = {name: vectors_of(data, model, (form,))[form.form] for name, model in models.items()}
    inputs = {"features": (features,), **{name: (v,) for name, v in vectors.items()}}
    inputs["features and multi-task"] = (features, vectors[MULTI])
    fits = {
        who: {each.name: fitted(data, each.name, *own) for each in TASKS}
        for who, own in inputs.items()
    }
    test, user = data.parts.test, data.examples.user[data.parts.test]
    outcome = {each.name: data.examples.outcomes[each.name][test] for each in TASKS}

    def said(who: str, name: str) -> np.ndarray:
        return fits[who][name].said_N[test]

    scores = {
        who: {name: round(auc(outcome[name], said(who, name)) or np.nan, 4) for name in outcome}
        for who in inputs
    }
    against = {
        f"{ours} - {theirs or 'single-task'}": {
            name: [
                round(value, 4)
                for value in difference(
                    outcome[name],
                    said(ours, name),
                    said(theirs or name, name),
                    user,
                    draws=_DRAWS,
                )
            ]
            for name in outcome
        }
        for ours, theirs in (
            (MULTI, "features"),
            (MULTI, ""),
            ("features and multi-task", "features"),
        )
    }
    own = np.mean([scores[name][name] for name in outcome])
    other = np.mean([scores[a][b] for a in outcome for b in outcome if a != b])
    return {
        "test": scores,
        "differences": against,
        "auc_multi_task": round(float(np.mean(list(scores[MULTI].values()))), 4),
        "auc_features": round(float(np.mean(list(scores["features"].values()))), 4),
        "auc_single_task_own": round(float(own), 4),
        "auc_single_task_others": round(float(other), 4),
    }


def overnight(data: Data, model: Checkpoint, world: World) -> dict[str, dict[str, float]]:
    """Four consecutive days: cohorts kept, users flagged, and strangers' days found, by form."""
    last = day_number(world.last_day)
    within = model.recipe.scoring.active_within_days
    there = is_active(data.users, from_day_number(last - 3), within)
    users = data.users.take(there & (data.users.registered <= last - 3 - RECENT_DAYS))
    changed, victims = with_strange_days(users, last)
    days = [(day, users) for day in range(last - 3, last + 1)] + [(last, changed)]
    made = [
        user_vectors(
            model, whose, np.full(len(users), day), data.events, FORMS, batch_size=_BATCH_SIZE
        )
        for day, whose in days
    ]
    groups = [
        groups_of(recent(users, day - 1)[0], recent(users, day)[1] == day) for day, _ in days[1:]
    ]
    history_days = model.recipe.history_days
    found = {}
    for number, form in enumerate(FORMS):
        weight_N = day_weights(last - users.registered + 1, history_days, form)
        in_days = [of_day[number] / weight_N[:, None] for of_day in made]
        found[form.form] = _overnight([of[number] for of in made], in_days, groups, victims)
    return found


def _overnight(
    days: list[np.ndarray],
    in_days: list[np.ndarray],
    groups: list[np.ndarray],
    victims: np.ndarray,
) -> dict[str, float]:
    """Of one form: embeddings of four days, and of the last one again, with some strange days."""
    usual = np.sort(
        np.concatenate([Step.fit(in_days[n + 1] - in_days[n], groups[n]).scores for n in (0, 1)])
    )

    def flagged(now: np.ndarray) -> np.ndarray:
        step = Step.fit(now - in_days[2], groups[2])
        _, score = step.measure(now - in_days[2], groups[2])
        return (p_values(score, usual) <= _RATE) & (score > step.cutoff(_RATE))

    centred = [vectors - vectors.mean(axis=0) for vectors in days[:2]]
    centroids = fit_centroids(centred[0], _COHORTS)
    kept = nearest(centred[0], centroids) == nearest(centred[1], centroids)
    return {
        "cohort_kept": round(float(kept.mean()), 4),
        "flagged": round(float(flagged(in_days[3]).mean()), 5),
        "found": round(float(flagged(in_days[4])[victims].mean()), 3),
    }


def with_strange_days(users: Users, day: int) -> tuple[Users, np.ndarray]:
    """Some who came on the day do twenty times as much of everything then; who they are."""
    is_day = users.days == day
    random = np.random.default_rng(0)
    came = np.flatnonzero(is_day)
    num = max(1, int(_STRANGE * len(users)))
    rows = random.choice(came, size=min(num, len(came)), replace=False)
    columns = []
    for column in users.columns:
        column = column.copy()
        column[rows] = np.where(column[rows] > 1, 20 * column[rows], 20 * (column.max() > 1) or 1)
        columns.append(column)
    return replace(users, columns=tuple(columns)), users.owner[rows]


def recall(vectors: np.ndarray, num: int) -> dict[str, float]:
    """Of the ten nearest, by an index of cells; vectors are the users' own with a little noise."""
    random = np.random.default_rng(0)
    index = random.integers(0, len(vectors), num)
    noise = 0.1 * vectors.std(axis=0)
    many = vectors[index] + random.normal(size=(num, vectors.shape[1])) * noise
    many = directions(many.astype(np.float32), many.mean(axis=0).astype(np.float32))
    queries = many[random.choice(num, 500, replace=False)]
    exact, cells = index_of(many, exact_up_to=num), index_of(many, exact_up_to=0)
    found, milliseconds = [], []
    for each in (exact, cells):
        begun = time.monotonic()
        found.append(each.search(queries, 10)[1])
        milliseconds.append(1000 * (time.monotonic() - begun) / len(queries))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(*(f.tolist() for f in found), strict=True)]
    return {
        "vectors": num,
        "recall_at_10": round(float(np.mean(shared)), 4),
        "ms_exact": round(milliseconds[0], 2),
        "ms_cells": round(milliseconds[1], 2),
    }


def show(figures: Mapping[str, object]) -> None:
    """The tables for people."""
    for name in ("validation", "test", "differences", "overnight"):
        rows = figures[name]
        assert isinstance(rows, dict)
        table = Table(title=name)
        table.add_column("")
        for column in next(iter(rows.values())):
            table.add_column(column, justify="right")
        for row, cells in rows.items():
            table.add_row(row, *(str(cell) for cell in cells.values()))
        Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
