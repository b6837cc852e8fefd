"""Make forecasts mean what they say, by how the same model version did on days that matured.

A calibration is a small JSON object whose version is the hash of its content, kept beside the
tables: who holds a published score can find out exactly how it was made.

Shape suffixes: N evaluated forecasts.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import fs

from lumos.accio.chance import hash_users
from lumos.config import Config, Recipe, Task
from lumos.dates import EPOCH
from lumos.delta import predicate, read
from lumos.serve.accuracy import Floats, bins
from lumos.serve.calibrators import Calibrator, cross_fitted, fit_task, in_first_half
from lumos.serve.intervals import Interval, fit_interval
from lumos.serve.reliability import off_by_cell
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused

_MAX_BINS = 10
_SURE = 2.0  # standard errors
_BIN_SIZE = 50


class Calibration(Config):
    """The calibrators of one model version, and the intervals of its amounts."""

    model_version: str
    evaluated: dt.date
    calibrators: tuple[Calibrator, ...]
    intervals: tuple[Interval, ...]

    @property
    def version(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def apply(self, forecasts: Mapping[str, Floats]) -> dict[str, Floats]:
        """Columns of `scores`: each task calibrated, and ``_low`` and ``_high`` of amounts."""
        columns = {c.task: c(forecasts[c.task]) for c in self.calibrators}
        for interval in self.intervals:
            low, high = interval(columns[interval.task])
            columns |= {f"{interval.task}_low": low, f"{interval.task}_high": high}
        return columns

    def store(self, settings: Settings, recipe: Recipe) -> str:
        """Write it where its version says, unless it is there; returns the address."""
        folder = f"{settings.lake}/{recipe.name}/calibrators"
        filesystem, inner = fs.FileSystem.from_uri(folder)
        filesystem.create_dir(inner, recursive=True)
        path, partial = f"{inner}/{self.version}.json", f"{inner}/.{uuid4().hex}"
        if filesystem.get_file_info(path).type == fs.FileType.NotFound:
            with filesystem.open_output_stream(partial) as stream:
                stream.write(self.model_dump_json(indent=1).encode())
            filesystem.move(partial, path)
        return f"{folder}/{self.version}.json"


@dataclass(frozen=True)
class Evaluated:
    """What one model version forecast on the origins of its evaluation, and what came true."""

    as_of: dt.date
    model_version: str
    user_id: NDArray[np.object_]
    forecasts: Mapping[str, Floats]
    outcomes: Mapping[str, Floats]


def read_evaluated(
    settings: Settings, recipe: Recipe, model_version: str, date: dt.date
) -> Evaluated:
    """The latest evaluation of a model version made by ``date``.

    Raises:
        BadInput: The version was not evaluated by then, or for other tasks.
        GateRefused: A label in it had not matured by ``date``: it was observed in part.
    """
    rows = read(
        table_uri(settings, recipe, "evaluations"),
        where=predicate(model_version=model_version, as_of=(EPOCH, date)),
    )
    remedy = f"Run `lumos evaluate --date {date} --model {model_version}` first."
    if rows is None or not rows.num_rows:
        msg = f"model version {model_version} has no evaluation made by {date}. {remedy}"
        raise BadInput(msg)
    as_of = pc.max(rows["as_of"]).as_py()
    rows = rows.filter(pc.equal(rows["as_of"], as_of)).sort_by(
        [("origin", "ascending"), ("user_id", "ascending")]
    )
    columns = {f"{task.name}_{what}" for task in recipe.tasks for what in ("forecast", "outcome")}
    if missing := sorted(columns - set(rows.column_names)):
        msg = f"the evaluation of model version {model_version} lacks {missing}. {remedy}"
        raise BadInput(msg)
    _require_matured(rows, recipe, date)
    return Evaluated(
        as_of=as_of,
        model_version=model_version,
        user_id=rows["user_id"].to_numpy().astype(object),
        forecasts={t.name: rows[f"{t.name}_forecast"].to_numpy() for t in recipe.tasks},
        outcomes={t.name: rows[f"{t.name}_outcome"].to_numpy() for t in recipe.tasks},
    )


def _require_matured(rows: pa.Table, recipe: Recipe, date: dt.date) -> None:
    matured = pc.max(rows["origin"]).as_py() + dt.timedelta(days=recipe.horizon_days)
    if matured > date:
        msg = (
            f"evaluations hold labels up to {matured}, which {date} had not observed: "
            f"calibrators are fitted on matured days only. Run `lumos evaluate --date {date} "
            "--force`"
        )
        raise GateRefused(msg)


def fit(recipe: Recipe, evaluated: Evaluated) -> Calibration:
    """Fit every task on all evaluated forecasts."""
    level = recipe.calibration.interval_level
    calibrators, intervals = [], []
    for task in recipe.tasks:
        outcome, forecast = evaluated.outcomes[task.name], evaluated.forecasts[task.name]
        calibrators.append(fit_task(task, outcome, forecast))
        if not task.is_binary:
            intervals.append(fit_interval(task, level, outcome, calibrators[-1](forecast)))
    return Calibration(
        model_version=evaluated.model_version,
        evaluated=evaluated.as_of,
        calibrators=tuple(calibrators),
        intervals=tuple(intervals),
    )


def cross_fitted_error(task: Task, evaluated: Evaluated) -> float:
    """Calibration error on users whose outcomes the calibrator has not seen, beyond chance.

    The mean distance between forecast and outcome over bins. On few users a perfect calibrator
    shows gaps too: of each, only what exceeds two standard errors counts, so that a gate
    refuses what is surely off by more than it allows, and no platform is refused now and then
    for being small. The errors of the two halves are averaged, not pooled: they have opposite
    signs and would cancel. Means have one bin, and a gap relative to the mean size of an outcome.
    A median's gap is by how much more than half of a bin's outcomes lie on one side of it; nothing
    is fitted to it, so that there are no halves.
    """
    outcome, hashes = evaluated.outcomes[task.name], hash_users(evaluated.user_id)
    calibrated = cross_fitted(task, outcome, evaluated.forecasts[task.name], evaluated.user_id)
    is_first = in_first_half(evaluated.user_id)
    halves = [half for half in (is_first, ~is_first) if half.any()]
    if task.is_median:
        halves = [np.ones_like(is_first)]
    most = int(np.clip(min(half.sum() for half in halves) // _BIN_SIZE, 1, _MAX_BINS))
    is_share = task.is_binary or task.is_median
    num_bins = most if is_share else 1
    bins_of = [
        off_by_cell(
            task, outcome[h], calibrated[h], hashes[h], bins(calibrated[h], num_bins), num_bins
        )
        for h in halves
    ]
    # A half's gap is as uncertain as the outcomes of both: its calibrator was fitted on the other.
    num_uncertain = 1 if task.is_median else 2
    variance_K = sum(half.variance_K for half in bins_of) * num_uncertain / len(bins_of)
    surely = [np.maximum(np.abs(h.gap_K) - _SURE * np.sqrt(variance_K), 0) for h in bins_of]
    error = float(np.mean([np.dot(s, h.share_K) for s, h in zip(surely, bins_of, strict=True)]))
    if is_share or error == 0:
        return error
    # Of gains and losses that cancel out, the net mean would be no measure.
    size = float(np.abs(outcome).mean())
    return error / size if size else float("inf")
