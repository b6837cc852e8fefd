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
from lumos.accio.read import read_users, sequence_files
from lumos.config import Recipe, Task
from lumos.serve.accuracy import Floats
from lumos.serve.calibrate import Calibration, cross_fitted_error, fit, read_evaluated
from lumos.serve.inputs import is_active
from lumos.serve.manifest import Manifest, checksum, committed, read_scores, row
from lumos.serve.metrics import Metric, write_metrics
from lumos.tables import predicate, read, replace, table_uri, tables
from lumos.tasks import DayForecasts, task_scores
from lumos.verbs import GateRefused, Report, Request, TableWritten

__all__ = ["publish", "read_scores"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staged:
    """Everything about to be published, and what the gate has to know about it."""

    rows: pa.Table
    model_version: str
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
    model_version = str(forecasts.inputs["model"])
    evaluated = read_evaluated(settings, recipe, model_version, date)
    calibration = fit(recipe, evaluated)
    inputs: dict[str, int | str] = {
        "forecasts": forecasts.version,
        "calibrator": calibration.version,
    }
    if done := ledger.already_done(request, "scores", inputs):
        return done
    day = _read_forecasts(request, forecasts.version)
    staged = Staged(
        rows=_stage(request, day, calibration),
        model_version=model_version,
        calibration=calibration,
        errors={task.name: cross_fitted_error(task, evaluated) for task in recipe.tasks},
        num_active=_num_active(request, int(forecasts.inputs["sequences"])),
    )
    measured = _judge(request, staged, day)
    pinned = {
        **forecasts.inputs,
        "forecasts": forecasts.version,
        "evaluations_as_of": evaluated.as_of.isoformat(),
    }
    written = _commit(request, staged, json.dumps(pinned, sort_keys=True))
    metrics = write_metrics(request, measured)
    report = request.report(
        tables=(*written, metrics),
        metrics={metric.name: metric.value for metric in measured},
        details={
            "model_version": model_version,
            "calibrator_version": calibration.version,
            "calibrator": calibration.store(settings, recipe),
        },
    )
    return ledger.record(request, report, inputs=inputs, tables_written=written)


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


def _stage(request: Request, day: pa.Table, calibration: Calibration) -> pa.Table:
    """Calibrated task scores of every user whose horizon is whole, sorted by user."""
    recipe, date = request.recipe, request.date
    users, whole = _whole_horizons(day, recipe, date)
    shape = (len(users), recipe.horizon_days, -1)

    def cells(prefix: str, names: tuple[str, ...]) -> np.ndarray:
        columns = [whole[f"{prefix}_{name}"].to_numpy() for name in names]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((whole.num_rows, 0))
        return stacked.reshape(*shape[:2], len(names))

    raw = task_scores(
        recipe,
        DayForecasts(
            p=cells("p", recipe.binary),
            given=cells("given", recipe.continuous),
            mean=cells("mean", recipe.continuous),
        ),
    )
    constants = {
        "as_of": date,
        "model_version": calibration.model_version,
        "calibrator_version": calibration.version,
    }
    columns = {
        **{name: [value] * len(users) for name, value in constants.items()},
        "user_id": users,
        **calibration.apply(raw),
    }
    schema = tables(recipe)["scores"].arrow_schema(recipe)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _whole_horizons(day: pa.Table, recipe: Recipe, date: dt.date) -> tuple[list[str], pa.Table]:
    """Users that have exactly the days of the horizon, and their rows."""
    ahead = pc.subtract(
        pc.cast(day["horizon_day"], pa.int32()), pa.scalar(date, pa.date32()).cast(pa.int32())
    )
    offset = ahead.to_numpy()
    _, first, number, count = np.unique(
        day["user_id"].to_numpy().astype(str),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    position = np.arange(len(offset)) - first[number]
    is_right = np.bincount(number, offset == position + 1, len(first)) == count
    is_whole = is_right & (count == recipe.horizon_days)
    rows = day.filter(pa.array(is_whole[number]))
    return rows["user_id"].to_pylist()[:: recipe.horizon_days], rows


def _num_active(request: Request, sequences_version: int) -> int:
    """How many users should have a score: counted anew, not taken from the scorer."""
    recipe = request.recipe
    uri = table_uri(request.settings, recipe, "sequences")
    within = recipe.scoring.active_within_days
    return sum(
        int(is_active(read_users(file, recipe), request.date, within).sum())
        for file in sequence_files(uri, sequences_version)
    )


def _judge(request: Request, staged: Staged, day: pa.Table) -> list[Metric]:
    """The gate. Returns what it measured; a refusal is recorded in `metrics` as well.

    Raises:
        GateRefused: Names everything that is wrong.
    """
    recipe, publishing = request.recipe, request.recipe.publishing
    coverage = staged.rows.num_rows / staged.num_active if staged.num_active else 0.0
    problems = {
        "coverage": ""
        if publishing.min_coverage <= coverage <= 1
        else f"{staged.rows.num_rows} users have whole forecasts, {staged.num_active} are active "
        f"(at least {publishing.min_coverage:.0%} expected)"
    }
    values = {"coverage": coverage}
    for task in recipe.tasks:
        name, error = f"{task.name}.calibration_error", staged.errors[task.name]
        values[name] = error
        problems[name] = (
            ""
            if error <= publishing.max_calibration_error
            else f"{task.name} is off by {error:.3f} on matured days "
            f"(at most {publishing.max_calibration_error} allowed)"
        )
        cells = staged.rows[task.name].to_numpy()
        values[f"{task.name}.out_of_range"] = wrong = float(_out_of_range(recipe, task, cells).sum())
        problems[f"{task.name}.out_of_range"] = (
            f"{task.name} is missing or out of range for {wrong:.0f} users" if wrong else ""
        )
    versions = set(pc.unique(day["model_version"]).to_pylist())
    values["num_model_versions"] = float(len(versions))
    problems["num_model_versions"] = (
        ""
        if versions == {staged.model_version}
        else f"forecasts are of model versions {sorted(versions)}, not of {staged.model_version}"
    )
    measured = [
        Metric(name, value, verdict="critical" if problems[name] else "ok", message=problems[name])
        for name, value in values.items()
    ]
    if wrong_things := [text for text in problems.values() if text]:
        write_metrics(request, measured)
        raise GateRefused("nothing was published: " + "; ".join(wrong_things))
    return measured


def _out_of_range(recipe: Recipe, task: Task, values_N: Floats) -> np.ndarray:
    outside: np.ndarray = ~np.isfinite(values_N)
    (column,) = (column for column in recipe.activity if column.name == task.column)
    if task.kind == "any":
        outside |= (values_N < 0) | (values_N > 1)
    elif column.minimum is not None:
        outside |= values_N < min(column.minimum, 0.0) * task.window_days
    return outside


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
        model_version=staged.model_version,
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
