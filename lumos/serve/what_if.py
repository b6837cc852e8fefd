"""``lumos score --what-if calendar.csv``: what would users do if the coming days were others?

The same users are forecast twice from the same history, under the calendar as it is known and as
it would be. The difference is the forecaster's answer, no more: it learned from days that came
about as they did, and not from an experiment.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from lumos.accio.contract import load_events
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.delta import predicate, replace
from lumos.dependencies import VERBS
from lumos.progress import progress
from lumos.serve.accuracy import Floats
from lumos.serve.calibrate import Calibration, fit, read_evaluated
from lumos.serve.edits import edited, read_edits, refuse_unseen, training_period
from lumos.serve.inputs import Inputs, is_active, pin
from lumos.serve.registry import CHAMPION, chosen
from lumos.serve.versions import usable
from lumos.tables import table_uri, tables
from lumos.tasks import task_scores
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import forecast
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)

_USERS_A_PART = 100_000


@dataclass
class _Totals:
    """Sums over users, by task: as known, and as it would be."""

    known: dict[str, float] = field(default_factory=dict)
    imagined: dict[str, float] = field(default_factory=dict)

    def add(self, known: dict[str, Floats], imagined: dict[str, Floats]) -> None:
        for totals, answers in ((self.known, known), (self.imagined, imagined)):
            for name, values in answers.items():
                totals[name] = totals.get(name, 0.0) + float(values.sum())


@dataclass(frozen=True)
class _Question:
    """Two calendars, and who answers."""

    request: Request
    number: str
    version: str
    model: Checkpoint
    calibration: Calibration
    calendars: tuple[EventCalendar, EventCalendar]


def what_if(request: Request) -> Report:
    """Forecast ``--date``'s active users under two calendars; rows in `what_ifs`.

    Answers are calibrated as published scores are. Nothing that Pacman reads is touched.

    Raises:
        BadInput: No champion or evaluation of it; a model without a future calendar; a file that
            is no calendar; days unlike all that training saw.
    """
    recipe, date = request.recipe, request.date
    if not recipe.events:
        msg = f"recipe {recipe.name} has no event columns: there is no calendar to imagine anew"
        raise BadInput(msg)
    edits = read_edits(Path(str(request.options["what_if"])), recipe, date)
    version = chosen(
        request, alias=CHAMPION, remedy=f"Run `lumos train` and `lumos promote` for {date}."
    )
    pins = pin(request)
    model = usable(request, version)
    if model.recipe.model.events not in ("full", "no_past"):
        msg = (
            f"model version {version} sees no future calendar "
            f"(model.events={model.recipe.model.events!r}): it would answer the same to anything"
        )
        raise BadInput(msg)
    known = load_events(request.settings, recipe, pins.event_context)
    imagined = edited(recipe, known, edits, date)
    refuse_unseen(recipe, imagined, edits, date=date, seen=training_period(model.info))
    calibration = fit(recipe, read_evaluated(request.settings, recipe, version, date))
    inputs = {**pins.named, "model": version, "calibrator": calibration.version}
    text = f"{sorted(inputs.items())} {VERBS['score'].digest(recipe)} {edits.canonical}"
    number = hashlib.sha256(text.encode()).hexdigest()[:16]
    question = _Question(request, number, version, model, calibration, (known, imagined))
    return _answer(question, pins, [str(day) for day in edits.days])


def _answer(question: _Question, pins: Inputs, days: list[str]) -> Report:
    request, totals = question.request, _Totals()
    uri, version, num_users = table_uri(request.settings, request.recipe, "what_ifs"), 0, 0
    for part, users in enumerate(_parts(request, pins)):
        answers = [_ask(question, users, calendar) for calendar in question.calendars]
        totals.add(*answers)
        version = replace(
            uri,
            _rows(question, part, users, *answers),
            where=predicate(as_of=request.date, question=question.number, part=part),
            partition=tables(request.recipe)["what_ifs"].partition,
        )
        num_users += len(users)
        log.info("part %d: %d users answered", part + 1, num_users)
    written = TableWritten(table="what_ifs", version=version, rows=num_users)
    metrics: dict[str, float | None] = {"num_users": num_users}
    for name, total in totals.known.items():
        metrics[f"{name}.known"] = total
        metrics[f"{name}.if"] = totals.imagined[name]
        metrics[f"{name}.change"] = totals.imagined[name] - total
    return request.report(
        tables=(written,),
        metrics=metrics,
        details={
            "question": question.number,
            "model_version": question.version,
            "edited_days": days,
        },
    )


def _parts(request: Request, pins: Inputs) -> Iterator[Users]:
    """Active users in the table's order, some row groups at a time."""
    table, within = pins.table(request), request.recipe.scoring.active_within_days
    waiting: list[Users] = []
    with progress("answering", len(table.shards)) as advance:
        for users in table.users():
            waiting.append(users.take(is_active(users, request.date, within)))
            if sum(map(len, waiting)) >= _USERS_A_PART:
                yield Users.concat(waiting)
                waiting = []
            advance()
        if waiting:
            yield Users.concat(waiting)


def _ask(question: _Question, users: Users, calendar: EventCalendar) -> dict[str, Floats]:
    recipe = question.request.recipe
    days = forecast(
        question.model,
        users,
        np.full(len(users), day_number(question.request.date), np.int32),
        calendar,
        batch_size=recipe.scoring.batch_size,
    )
    calibrated = question.calibration.apply(task_scores(recipe, days))
    return {task.name: calibrated[task.name] for task in recipe.tasks}


def _rows(
    question: _Question,
    part: int,
    users: Users,
    known: dict[str, Floats],
    imagined: dict[str, Floats],
) -> pa.Table:
    recipe: Recipe = question.request.recipe
    columns = {
        "as_of": [question.request.date] * len(users),
        "question": [question.number] * len(users),
        "part": np.full(len(users), part, np.int32),
        "user_id": users.user_id,
        "model_version": [question.version] * len(users),
    }
    for name, values in known.items():
        columns[name] = values
        columns[f"{name}_if"] = imagined[name]
        columns[f"{name}_change"] = imagined[name] - values
    schema = tables(recipe)["what_ifs"].arrow_schema(recipe)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
