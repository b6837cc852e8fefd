"""The verb ``shadow``: the challenger forecasts beside the champion, and nobody acts on it.

Both forecast the same users on the same day, before anybody knows what comes. Once a day's
longest window has passed it is *matured*, and ``promote`` compares the two on such days: that is
the only comparison that no choice of ours, made after the fact, can flatter.
"""

import logging

import numpy as np
import pyarrow as pa

from lumos import ledger
from lumos.accio.contract import load_events
from lumos.accio.users import Users
from lumos.dates import day_number
from lumos.delta import predicate, replace
from lumos.serve.inputs import Inputs, is_active, pin
from lumos.serve.sample import sample
from lumos.serve.versions import usable
from lumos.tables import table_uri, tables
from lumos.tasks import task_scores
from lumos.train import tracking
from lumos.train.predict import forecast
from lumos.verbs import Report, Request, TableWritten

log = logging.getLogger(__name__)


def shadow(request: Request) -> Report:
    """Forecast ``--date``'s active users with the champion and the challenger.

    All of them, or a fixed sample on a large platform: more would add cost and no certainty.
    Without a challenger beside the champion there is nothing to do, which is no fault.

    Raises:
        BadInput: Tables not ready, or a version that cannot forecast the date.
    """
    settings, recipe = request.settings, request.recipe
    versions = {
        name: tracking.version_of(settings, recipe, name) for name in ("champion", "challenger")
    }
    if None in versions.values() or versions["champion"] == versions["challenger"]:
        why = "there is no challenger beside the champion: nothing to compare"
        log.info("%s", why)
        return request.report(details={**versions, "why_not": why}, already_done=True)
    pins = pin(request)
    inputs: dict[str, int | str] = {**pins.named, **{n: str(v) for n, v in versions.items()}}
    if done := ledger.already_done(request, "shadows", inputs):
        return done
    users = _asked(request, pins)
    written = [_forecast(request, pins, users, str(version)) for version in versions.values()]
    last = TableWritten(table="shadows", version=written[-1], rows=2 * len(users))
    report = request.report(tables=(last,), metrics={"num_users": len(users)}, details=versions)
    return ledger.record(request, report, inputs=inputs)


def _asked(request: Request, pins: Inputs) -> Users:
    users = sample(request, pins)
    return users.take(is_active(users, request.date, request.recipe.scoring.active_within_days))


def _forecast(request: Request, pins: Inputs, users: Users, version: str) -> int:
    """Commit a version's forecasts of the day in the place of its earlier ones."""
    recipe = request.recipe
    model = usable(request, version)
    days = forecast(
        model,
        users,
        np.full(len(users), day_number(request.date), np.int32),
        load_events(request.settings, recipe, pins.event_context),
        batch_size=recipe.scoring.batch_size,
    )
    columns = {
        "as_of": [request.date] * len(users),
        "model_version": [version] * len(users),
        "user_id": users.user_id,
        **task_scores(recipe, days),
    }
    table = tables(recipe)["shadows"]
    schema = table.arrow_schema(recipe)
    log.info("version %s forecast %d users", version, len(users))
    return replace(
        table_uri(request.settings, recipe, table.name),
        pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema),
        where=predicate(as_of=request.date, model_version=version),
        partition=table.partition,
    )
