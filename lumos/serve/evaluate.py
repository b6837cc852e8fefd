"""The verb ``evaluate``: is the challenger better than the champion, and than simple methods?

All of them forecast the same users at the same origins, after the period that the forecasters
were trained on, with the same future calendar. Reported for all users and, apart, for users
that no forecaster has seen. The evaluated version's forecasts and what came true are kept in
`evaluations`: calibrators are fitted on them. Groups of users for whom its calibrated forecasts are
off are named, and nothing is refused for them.
"""

import datetime as dt
import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from lumos import ledger
from lumos.accio.chance import is_held_out
from lumos.accio.contract import load_events
from lumos.config import Recipe
from lumos.dates import day_number, from_day_number, split_origins
from lumos.delta import predicate, replace
from lumos.serve.accuracy import Measures
from lumos.serve.contest import Forecasts, Setting, contest, measured, published
from lumos.serve.features import Examples, History
from lumos.serve.inputs import Inputs, check_columns, pin
from lumos.serve.metrics import Metric, write_metrics
from lumos.serve.registry import CHALLENGER, CHAMPION, chosen
from lumos.serve.sample import sample
from lumos.serve.segments import groupings, judge, warnings
from lumos.tables import table_uri, tables
from lumos.train import checkpoint, tracking
from lumos.train.checkpoint import Checkpoint
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)

_MOST_NAMED = 20  # groups in the report; `metrics` has all


def evaluate(request: Request) -> Report:
    """Evaluate the challenger (or ``--model``) for ``--date``.

    The segment ``challenger`` of ``metrics`` is the evaluated version, whichever that is.

    Raises:
        BadInput: No such model, tables not ready, or the model learned from the very labels
            it would be judged by.
    """
    version = chosen(request, alias=CHALLENGER, remedy=f"Run `lumos train --date {request.date}`.")
    pins = pin(request)
    rival = _rival(request, version)
    inputs = {**pins.named, "challenger": version, "champion": rival or "none"}
    if done := ledger.already_done(request, "evaluations", inputs):
        return done
    evaluated = _load(request, version)
    setting = _setting(request, pins, evaluated)
    _refuse_what_it_learned(request, setting, evaluated, version)
    champion, why_not = _comparable(request, setting, rival)
    examples = History(setting.users, request.recipe).examples(setting.origins, setting.events)
    models = {"challenger": evaluated, **champion}
    forecasts = contest(request.recipe, setting, examples, models)
    found = measured(request.recipe, setting, examples, forecasts)
    written = _write(request, setting, examples, forecasts["challenger"], version)
    warned = _segments(request.recipe, setting, examples, forecasts["challenger"])
    metrics = write_metrics(request, [*_rows(found), *warned])
    _track(request, version, found)
    report = request.report(
        tables=(written, metrics),
        metrics=_summary(found) | {"challenger.segments_off": warned[0].value},
        details={
            "challenger": version,
            "champion": rival,
            "champion_not_compared": why_not,
            "segments_off": [metric.message for metric in warned[1 : 1 + _MOST_NAMED]],
            "origins": [from_day_number(origin).isoformat() for origin in setting.origins],
        },
    )
    return ledger.record(request, report, inputs=inputs, tables_written=(written,))


def _segments(
    recipe: Recipe, setting: Setting, examples: Examples, forecasts: Forecasts
) -> list[Metric]:
    """How many groups of users are off as the challenger would be published, and which."""
    judged = judge(
        recipe.tasks,
        recipe.calibration.segment_tolerance,
        groupings(recipe, setting.users, examples, setting.is_held_out),
        setting.users.user_id[examples.user],
        examples.outcomes,
        published(recipe, setting, examples, forecasts),
    )
    return warnings(judged, "challenger")


def _rival(request: Request, version: str) -> str | None:
    """The version to compare with: the champion.

    Once a version is champion itself, the comparison that made it so stands: doing its
    evaluation again must not change it.
    """
    champion = tracking.version_of(request.settings, request.recipe, CHAMPION)
    if champion != version:
        return champion
    entry = ledger.find(request.settings, request.recipe, "evaluations", request.date)
    if entry is None or entry.inputs["challenger"] != version:
        return None
    before = str(entry.inputs["champion"])
    return None if before == "none" else before


def _load(request: Request, version: str) -> Checkpoint:
    folder = tracking.checkpoint_of(request.settings, request.recipe, version)
    loaded = checkpoint.load(folder)
    check_columns(loaded.recipe, request.recipe, version)
    return loaded


def _setting(request: Request, pins: Inputs, evaluated: Checkpoint) -> Setting:
    recipe = request.recipe
    _, origins = split_origins(
        request.date,
        horizon_days=recipe.horizon_days,
        num_origins=recipe.evaluation.num_origins,
        days_between=recipe.evaluation.days_between_origins,
    )
    assert origins[-1] + dt.timedelta(days=recipe.horizon_days) <= request.date, "unmatured labels"
    users = sample(request, pins)
    # Held out as the model saw it: by the share and seed that it was trained with.
    trained = evaluated.recipe.training
    return Setting(
        users=users,
        is_held_out=is_held_out(users.user_id, trained.held_out_users_share, trained.seed),
        events=load_events(request.settings, recipe, pins.event_context),
        last_label=day_number(origins[0]),
        origins=tuple(day_number(origin) for origin in origins),
    )


def _labels_learned(trained: Checkpoint) -> int:
    """Last day whose activity was a training label."""
    return day_number(dt.date.fromisoformat(str(trained.info["last_label"])))


def _refuse_what_it_learned(
    request: Request, setting: Setting, trained: Checkpoint, version: str
) -> None:
    learned = _labels_learned(trained)
    if learned > setting.origins[0]:
        msg = (
            f"model version {version} learned from labels up to {from_day_number(learned)}, "
            f"after the first evaluation origin {from_day_number(setting.origins[0])}: it would "
            "be judged by what it was taught. Evaluate it for a later date, or run "
            f"`lumos train --date {request.date}`"
        )
        raise BadInput(msg)


def _comparable(
    request: Request, setting: Setting, rival: str | None
) -> tuple[dict[str, Checkpoint], dict[str, str]]:
    """The champion's checkpoint, or none and why it cannot be asked the same questions.

    A champion that cannot even be asked (made for other columns, files gone) is ``obsolete``:
    it could not score either. One that learned from these labels is ``unfair`` to compare.
    """
    if rival is None:
        return {}, {}
    try:
        loaded = _load(request, rival)
    except BadInput as error:
        log.warning("the champion is obsolete: %s", error)
        return {}, {"obsolete": str(error)}
    try:
        _refuse_what_it_learned(request, setting, loaded, rival)
    except BadInput as error:
        log.warning("the champion is not compared: %s", error)
        return {}, {"unfair": str(error)}
    return {"champion": loaded}, {}


def _summary(found: Mapping[str, Measures]) -> dict[str, float | None]:
    """The comparison in the report: everything over all users, the primary loss for held-out."""
    return {
        f"{segment}.{name}": value
        for segment, values in found.items()
        for name, value in values.items()
        if not segment.endswith("|held_out") or name == "primary_loss"
    }


def _rows(found: Mapping[str, Measures]) -> list[Metric]:
    return [
        Metric(name, value, segment=segment)
        for segment, values in found.items()
        for name, value in values.items()
    ]


def _write(
    request: Request,
    setting: Setting,
    examples: Examples,
    forecasts: Forecasts,
    version: str,
) -> TableWritten:
    """Forecast and outcome of each user and origin, in the place of the version's earlier ones."""
    recipe, date = request.recipe, request.date
    num_rows = len(examples.user)
    columns = {
        "as_of": [date] * num_rows,
        "origin": examples.origin.astype(np.int32),
        "user_id": setting.users.user_id[examples.user],
        "is_held_out": setting.is_held_out[examples.user],
        "model_version": [version] * num_rows,
    }
    for task in recipe.tasks:
        columns[f"{task.name}_forecast"] = forecasts[task.name]
        columns[f"{task.name}_outcome"] = examples.outcomes[task.name]
    table = tables(recipe)["evaluations"]
    schema = table.arrow_schema(recipe)
    rows = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    delta_version = replace(
        table_uri(request.settings, recipe, table.name),
        rows,
        where=predicate(as_of=date, model_version=version),
        partition=table.partition,
    )
    return TableWritten(table=table.name, version=delta_version, rows=num_rows)


def _track(request: Request, version: str, found: Mapping[str, Measures]) -> None:
    """Log the comparison to the MLflow run that made the version."""
    name = tracking.model_name(request.recipe)
    made = tracking.client(request.settings).get_model_version(name, version)
    run = tracking.Run(
        tracking.client(request.settings), request.settings, request.recipe, "", str(made.run_id)
    )
    # MLflow allows no bar in a name.
    values = {
        f"evaluate/{segment.replace('|', '/')}/{key}": value
        for segment, measures in found.items()
        for key, value in measures.items()
    }
    run.log_metrics(values, step=day_number(request.date))
