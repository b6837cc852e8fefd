"""The verb ``publish``: calibrate a day's forecasts, judge them, and commit them once.

Staged in memory, judged, committed in one Delta version, read back and checked, and only then
named by a manifest row: a consumer (:func:`read_scores`) sees a whole publication or none,
whenever this process dies and whoever publishes at the same moment.
"""

import datetime as dt
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos import ledger
from lumos.accio.contract import open_sequences
from lumos.config import Recipe, Task
from lumos.delta import predicate, read, replace
from lumos.serve.calibrate import (
    Calibration,
    Evaluated,
    cross_fitted_error,
    fit,
    read_evaluated,
)
from lumos.serve.inputs import is_active
from lumos.serve.manifest import Manifest, checksum, committed, read_scores, row
from lumos.serve.metrics import Metric, write_metrics
from lumos.serve.stage import stage
from lumos.tables import table_uri, tables
from lumos.verbs import GateRefused, Report, Request, TableWritten

__all__ = ["publish", "read_scores"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staged:
    """Everything about to be published, and what the gate has to know about it."""

    rows: pa.Table
    found_versions: frozenset[str]
    calibration: Calibration
    errors: Mapping[str, float]
    num_active: int


def publish(request: Request) -> Report:
    """Publish the scores of ``--date``.

    Raises:
        BadInput: No forecasts for the date, or their model version has no evaluation.
        GateRefused: Rows are missing or out of range, or the calibration is off; nothing was
            published, and ``metrics`` says what was measured.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    forecasts = ledger.require(
        settings, recipe, "forecasts", date, remedy=f"Run `lumos score --date {date}` first."
    )
    _require_quality(request)
    evaluated = read_evaluated(settings, recipe, str(forecasts.inputs["model"]), date)
    calibration = fit(recipe, evaluated)
    inputs: dict[str, int | str] = {
        "forecasts": forecasts.version,
        "calibrator": calibration.version,
    }
    if done := ledger.already_done(request, "scores", inputs):
        return done
    staged = _stage(request, forecasts, calibration, evaluated)
    measured = _judge(request, staged)
    pinned = {
        **forecasts.inputs,
        "forecasts": forecasts.version,
        "evaluations_as_of": evaluated.as_of.isoformat(),
    }
    calibrator = calibration.store(settings, recipe)
    written = _commit(request, staged, json.dumps(pinned, sort_keys=True))
    report = request.report(
        tables=(*written, write_metrics(request, measured)),
        metrics={metric.name: metric.value for metric in measured},
        details={
            "model_version": calibration.model_version,
            "calibrator_version": calibration.version,
            "calibrator": calibrator,
        },
    )
    return ledger.record(request, report, inputs=inputs, tables_written=written)


def _stage(
    request: Request, forecasts: ledger.Entry, calibration: Calibration, evaluated: Evaluated
) -> Staged:
    recipe = request.recipe
    day = _read_forecasts(request, forecasts.version)
    return Staged(
        rows=stage(recipe, request.date, day, calibration),
        found_versions=frozenset(pc.unique(day["model_version"]).to_pylist()),
        calibration=calibration,
        errors={task.name: cross_fitted_error(task, evaluated) for task in recipe.tasks},
        num_active=_num_active(request, int(forecasts.inputs["sequences"])),
    )


def _require_quality(request: Request) -> None:
    date = request.date
    ledger.require(
        request.settings,
        request.recipe,
        "quality",
        date,
        remedy=f"Run `lumos validate --date {date}` and look at its metrics.",
    )


def _read_forecasts(request: Request, version: int) -> pa.Table:
    """The day's forecasts at the pinned version, sorted by user and day."""
    rows = read(
        table_uri(request.settings, request.recipe, "forecasts"),
        version=version,
        where=predicate(as_of=request.date),
    )
    if rows is None:
        msg = f"the forecasts table is gone; run `lumos score --date {request.date} --force`"
        raise GateRefused(msg)
    return rows.sort_by([("user_id", "ascending"), ("horizon_day", "ascending")])


def _num_active(request: Request, sequences_version: int) -> int:
    """How many users should have a score: counted anew, not taken from the scorer."""
    recipe = request.recipe
    within = recipe.scoring.active_within_days
    table = open_sequences(request.settings, recipe, sequences_version)
    return sum(int(is_active(users, request.date, within).sum()) for users in table.users())


def _judge(request: Request, staged: Staged) -> list[Metric]:
    """The gate. Returns what it measured; a refusal is recorded in `metrics` as well.

    Raises:
        GateRefused: Names everything that is wrong.
    """
    recipe = request.recipe
    measured = [_coverage(recipe, staged), _one_model(staged)]
    for task in recipe.tasks:
        measured += [_calibration(recipe, task, staged), _range(recipe, task, staged)]
    if wrong := [metric.message for metric in measured if metric.message]:
        write_metrics(request, measured)
        raise GateRefused("nothing was published: " + "; ".join(wrong))
    return measured


def _verdict(name: str, value: float, problem: str) -> Metric:
    return Metric(name, value, verdict="critical" if problem else "ok", message=problem)


def _coverage(recipe: Recipe, staged: Staged) -> Metric:
    least = recipe.publishing.min_coverage
    share = staged.rows.num_rows / staged.num_active if staged.num_active else 0.0
    problem = (
        f"{staged.rows.num_rows} users have whole forecasts, {staged.num_active} are active "
        f"(at least {least:.0%} of them expected)"
    )
    return _verdict("coverage", share, "" if least <= share <= 1 else problem)


def _one_model(staged: Staged) -> Metric:
    found, named = sorted(staged.found_versions), staged.calibration.model_version
    problem = f"forecasts are of model versions {found}, not of {named} alone"
    return _verdict("num_model_versions", float(len(found)), "" if found == [named] else problem)


def _calibration(recipe: Recipe, task: Task, staged: Staged) -> Metric:
    error, most = staged.errors[task.name], recipe.publishing.max_calibration_error
    problem = f"{task.name} is off by {error:.3f} on matured days (at most {most} allowed)"
    return _verdict(f"{task.name}.calibration_error", error, "" if error <= most else problem)


def _range(recipe: Recipe, task: Task, staged: Staged) -> Metric:
    values = staged.rows[task.name].to_numpy()
    outside = ~np.isfinite(values)
    # What a formula of amounts may give at least, it alone knows.
    minimum = [column.minimum for column in recipe.activity if column.name == task.column]
    if task.is_binary:
        outside |= (values < 0) | (values > 1)
    elif minimum and minimum[0] is not None:
        outside |= values < min(minimum[0], 0.0) * task.window_days
    number = int(outside.sum())
    problem = f"{task.name} is no number or out of range for {number} users"
    return _verdict(f"{task.name}.out_of_range", float(number), problem if number else "")


def _commit(request: Request, staged: Staged, inputs: str) -> tuple[TableWritten, ...]:
    """Scores in one commit, read back and checked; then the manifest that makes them public."""
    settings, recipe, date = request.settings, request.recipe, request.date
    table = tables(recipe)["scores"]
    version = replace(
        table_uri(settings, recipe, "scores"),
        staged.rows,
        where=predicate(as_of=date),
        partition=table.partition,
    )
    digest = checksum(staged.rows, recipe)
    if checksum(committed(settings, recipe, date, version), recipe) != digest:
        msg = f"another publisher replaced the scores of {date} meanwhile; nothing was announced"
        raise RuntimeError(msg)
    manifest = Manifest(
        as_of=date,
        scores_version=version,
        num_rows=staged.rows.num_rows,
        checksum=digest,
        model_version=staged.calibration.model_version,
        calibrator_version=staged.calibration.version,
        inputs=inputs,
        valid_until=date + dt.timedelta(days=recipe.publishing.valid_days),
    )
    manifests = replace(
        table_uri(settings, recipe, "manifests"), row(manifest, recipe), where=predicate(as_of=date)
    )
    log.info("published %d scores of %s, version %d", manifest.num_rows, date, version)
    return (
        TableWritten(table="scores", version=version, rows=manifest.num_rows),
        TableWritten(table="manifests", version=manifests, rows=1),
    )
