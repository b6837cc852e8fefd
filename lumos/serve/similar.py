"""The verb ``similar``: whom a user resembles, or which days were like another.

Answers from one date's embeddings, which are all of one model version; those of two versions are
never put side by side. Exact, and one chunk of the table in memory at a time.
"""

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from lumos import ledger
from lumos.accio.contract import load_events
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.serve.neighbours import directions, nearest_exactly
from lumos.serve.vectors import DAY, KINDS, STATIC, USER, Floats, Stored, Vectors
from lumos.verbs import BadInput, Report, Request

_LONGEST_ID = 256


def similar(request: Request) -> Report:
    """The ``--k`` nearest of ``--kind`` to ``--id``, most similar first.

    Raises:
        BadInput: An unknown kind, a malformed id, no embeddings, or none of that id.
    """
    kind, name, k = (request.options[option] for option in ("kind", "id", "k"))
    _check(kind, name)
    entry = _newest(request)
    stored = Stored.of(request, entry)
    asked = stored.read(kind, id=name)
    if asked is None:
        raise BadInput(_unknown(request, entry, kind, name))
    centre_D = _centre(stored, kind)
    nearest = _nearest(stored, kind, asked, centre_D, k)
    if kind == DAY:
        context = _contexts(request, entry, [name, *(found["id"] for found in nearest)])
        for found in nearest:
            found["context"] = context[found["id"]]
    return request.report(
        details={
            "as_of": entry.business_date.isoformat(),
            "model_version": entry.report.details["model_version"],
            "kind": kind,
            "id": name,
            **({"context": context[name]} if kind == DAY else {}),
            "neighbours": nearest,
        }
    )


def _check(kind: object, name: object) -> None:
    if kind not in KINDS:
        msg = f"--kind {kind!r} is none of {', '.join(KINDS)}"
        raise BadInput(msg)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID or not name.isprintable():
        msg = (
            f"--id {str(name)[:_LONGEST_ID]!r} is no id: a user_id of 1 to {_LONGEST_ID} "
            "printable characters, or with --kind day a day as YYYY-MM-DD"
        )
        raise BadInput(msg)
    if kind == DAY and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", name):
        msg = f"--id {name!r} is not a day written as YYYY-MM-DD, such as 2017-11-23"
        raise BadInput(msg)


def _newest(request: Request) -> ledger.Entry:
    found = [
        entry
        for entry in ledger.entries(request.settings, request.recipe, "embeddings")
        if entry.business_date <= request.date and entry.verdict == ledger.READY
    ]
    if not found:
        msg = (
            f"recipe {request.recipe.name} has no embeddings up to {request.date}. "
            "Run `lumos embed --date YYYY-MM-DD` first"
        )
        raise BadInput(msg)
    return found[-1]


def _unknown(request: Request, entry: ledger.Entry, kind: str, name: str) -> str:
    recipe, day = request.recipe, entry.business_date
    why = {
        USER: f"it has those active in the {recipe.scoring.active_within_days} days before; "
        f"--kind {STATIC} also has those who did nothing yet",
        STATIC: "it has everybody registered by then",
        DAY: f"it has {recipe.history_days} days up to then and {recipe.horizon_days} after, "
        "if the model sees events at all",
    }
    return f"{kind} {name!r} has no embedding as of {day}: {why[kind]}"


def _centre(stored: Stored, kind: str) -> Floats:
    """Mean of all vectors of the kind, shape (D,)."""
    total, number = np.zeros(1), 0
    for chunk in stored.chunks(kind):
        total = total + chunk.matrix_ND.sum(axis=0, dtype=np.float64)
        number += len(chunk)
    return np.asarray(total / number, np.float32)


def _nearest(
    stored: Stored, kind: str, asked: Vectors, centre_D: Floats, k: int
) -> list[dict[str, Any]]:
    def others() -> Iterator[Vectors]:
        for chunk in stored.chunks(kind):
            without = chunk.take(chunk.ids != asked.ids[0])
            if len(without):
                yield without

    query_D = directions(asked.matrix_ND, centre_D)[0]
    near, similarity = nearest_exactly(query_D, others(), centre_D, k)
    return [
        {"id": name, "similarity": round(float(value), 4)}
        | ({} if kind == DAY else {"num_active_days": days})
        for name, value, days in zip(
            near.ids.tolist(), similarity.tolist(), near.num_active_days.tolist(), strict=True
        )
    ]


def _contexts(
    request: Request, entry: ledger.Entry, days: list[str]
) -> dict[str, dict[str, float]]:
    """What was on, on each day, as known on the date; columns that are not zero."""
    recipe: Recipe = request.recipe
    pinned = entry.inputs.get("event_context")
    version = int(pinned) if pinned is not None else None
    events = load_events(request.settings, recipe, version)
    names = [*recipe.calendar, *(column.name for column in recipe.events)]
    as_of = day_number(entry.business_date)
    found = {}
    for day in days:
        row = events.window(as_of, day_number(dt.date.fromisoformat(day)), 1)[0]
        found[day] = {
            name: round(float(value), 3)
            for name, value in zip(names, row.tolist(), strict=True)
            if value
        }
    return found
