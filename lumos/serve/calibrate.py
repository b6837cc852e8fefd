"""Make forecasts mean what they say, by how the same model version did on days that matured.

For chances a monotone curve (centred isotonic regression: Oron & Flournoy 2017), which
keeps the order of users where it rises; with few positives or negatives two numbers only (Platt:
the log odds shifted and stretched), drawn towards no change. For means the ratio of outcomes to
forecasts, drawn towards 1. Medians are left as they are: no ratio to what came true is theirs.

A calibrator is a small JSON object whose version is the hash of its content, kept beside the
tables: who holds a published score can find out exactly how it was made.

Shape suffixes: N evaluated forecasts.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import fs
from scipy.optimize import isotonic_regression

from lumos.accio.chance import hash_users, uniform
from lumos.config import Config, Recipe, Task
from lumos.dates import EPOCH
from lumos.delta import predicate, read
from lumos.serve.accuracy import Floats, beside_median, bins
from lumos.serve.logistic import fit_logistic, log_odds, sigmoid
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused

_ENOUGH = 200  # positives, and negatives, from which a curve is worth more than a number
_PRIOR = 20.0  # outcomes of typical size that the ratio's pull towards 1 is worth
_FIRMNESS = 4.0  # inverse variance of the belief that log odds are right as they are
_MAX_BINS = 10
_SURE = 2.0  # standard errors
_BIN_SIZE = 50
_HALVES = 10  # salt of this stream of chance, its own; accio.chance names the others


class Calibrator(Config):
    """One task's map from raw to calibrated forecasts.

    Attributes:
        task: Name of the task.
        kind: ``isotonic`` interpolates ``y`` over ``x``; ``logistic`` maps log odds ``l`` to
            ``shift + stretch * l``; ``ratio`` multiplies.
        x: Raw forecasts, ascending.
        y: Calibrated values at ``x``.
    """

    task: str
    kind: Literal["isotonic", "logistic", "ratio"]
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    shift: float = 0.0
    stretch: float = 1.0
    ratio: float = 1.0

    def __call__(self, forecast_N: Floats) -> Floats:
        """Calibrated forecasts."""
        if self.kind == "isotonic":
            return np.interp(forecast_N, self.x, self.y)
        if self.kind == "logistic":
            return sigmoid(self.shift + self.stretch * log_odds(forecast_N))
        return forecast_N * self.ratio


class Calibration(Config):
    """The calibrators of one model version."""

    model_version: str
    evaluated: dt.date
    calibrators: tuple[Calibrator, ...]

    @property
    def version(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def apply(self, forecasts: Mapping[str, Floats]) -> dict[str, Floats]:
        """Calibrate each task's forecasts."""
        return {c.task: c(forecasts[c.task]) for c in self.calibrators}

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
    return Calibration(
        model_version=evaluated.model_version,
        evaluated=evaluated.as_of,
        calibrators=tuple(
            fit_task(task, evaluated.outcomes[task.name], evaluated.forecasts[task.name])
            for task in recipe.tasks
        ),
    )


def fit_task(task: Task, outcome_N: Floats, forecast_N: Floats) -> Calibrator:
    """Fit one task: a curve where there is enough to see, else a number or two."""
    if task.is_median:
        return Calibrator(task=task.name, kind="ratio")
    total = float(outcome_N.sum())
    if not task.is_binary:
        # In the task's own unit, a prior of so many outcomes of typical size.
        prior = _PRIOR * float(np.abs(outcome_N).mean()) or 1.0
        ratio = max((total + prior) / (float(forecast_N.sum()) + prior), 0.0)
        return Calibrator(task=task.name, kind="ratio", ratio=ratio)
    if min(total, len(outcome_N) - total) >= _ENOUGH:
        x, y = _centred_isotonic(outcome_N, forecast_N)
        return Calibrator(task=task.name, kind="isotonic", x=tuple(x), y=tuple(y))
    shift, stretch = _platt(outcome_N, log_odds(forecast_N))
    return Calibrator(task=task.name, kind="logistic", shift=shift, stretch=stretch)


def _platt(outcome_N: Floats, odds_N: Floats) -> tuple[float, float]:
    inputs = np.column_stack([np.ones_like(odds_N), odds_N])
    prior = np.array([0.0, 1.0])
    shift, stretch = fit_logistic(inputs, outcome_N, prior_K=prior, strength=_FIRMNESS)
    if stretch >= 0:
        return float(shift), float(stretch)
    # Users ranked upside down are not for a calibrator to turn round: say the same of everyone.
    rate = (outcome_N.sum() + 0.5) / (len(outcome_N) + 1)
    return float(log_odds(rate)), 0.0


def _centred_isotonic(outcome_N: Floats, forecast_N: Floats) -> tuple[list[float], list[float]]:
    """Mean forecast and mean outcome of each pooled block.

    Blocks start as groups of like forecasts, lest a handful of users at either end become a
    step of its own.
    """
    _, group = np.unique(bins(forecast_N, len(outcome_N) // _BIN_SIZE), return_inverse=True)
    weight = np.bincount(group).astype(np.float64)
    x, y = np.bincount(group, forecast_N) / weight, np.bincount(group, outcome_N) / weight
    blocks = isotonic_regression(y, weights=weight).blocks[:-1]
    size = np.add.reduceat(weight, blocks)
    centre = np.add.reduceat(x * weight, blocks) / size
    level = np.add.reduceat(y * weight, blocks) / size
    # Nobody's chance is 0 or 1 because fifty others' was.
    least = 0.5 / (_BIN_SIZE + 1)
    return centre.tolist(), np.clip(level, least, 1 - least).tolist()


def cross_fitted(
    task: Task, outcome_N: Floats, forecast_N: Floats, user_id: NDArray[np.object_]
) -> Floats:
    """Forecasts calibrated by users other than one's own half of all users."""
    is_first = uniform(hash_users(user_id), _HALVES) < 0.5
    if is_first.all() or not is_first.any():
        return forecast_N
    calibrated = np.empty_like(forecast_N)
    for half in (is_first, ~is_first):
        calibrated[half] = fit_task(task, outcome_N[~half], forecast_N[~half])(forecast_N[half])
    return calibrated


def cross_fitted_error(task: Task, evaluated: Evaluated) -> float:
    """Calibration error on users whose outcomes the calibrator has not seen, beyond chance.

    The mean distance between forecast and outcome over bins. On few users a perfect calibrator
    shows gaps too: of each, only what exceeds two standard errors counts, so that a gate
    refuses what is surely off by more than it allows, and no platform is refused now and then
    for being small. The errors of the two halves are averaged, not pooled: they have opposite
    signs and would cancel. Means have one bin, and a gap relative to the mean outcome. A median's
    gap is by how much more than half of a bin's outcomes lie on one side of it; nothing is fitted
    to it, so that there are no halves.
    """
    outcome, hashes = evaluated.outcomes[task.name], hash_users(evaluated.user_id)
    calibrated = cross_fitted(task, outcome, evaluated.forecasts[task.name], evaluated.user_id)
    is_first = uniform(hashes, _HALVES) < 0.5
    halves = [half for half in (is_first, ~is_first) if half.any()]
    if task.is_median:
        halves = [np.ones_like(is_first)]
    most = int(np.clip(min(half.sum() for half in halves) // _BIN_SIZE, 1, _MAX_BINS))
    is_share = task.is_binary or task.is_median
    num_bins = most if is_share else 1
    bins_of = [_binned(task, outcome[h], calibrated[h], hashes[h], num_bins) for h in halves]
    # A half's gap is as uncertain as the outcomes of both: its calibrator was fitted on the other.
    num_uncertain = 1 if task.is_median else 2
    variance_K = sum(half.variance_K for half in bins_of) * num_uncertain / len(bins_of)
    surely = [np.maximum(np.abs(h.gap_K) - _SURE * np.sqrt(variance_K), 0) for h in bins_of]
    error = float(np.mean([np.dot(s, h.share_K) for s, h in zip(surely, bins_of, strict=True)]))
    if is_share or error == 0:
        return error
    mean = abs(float(outcome.mean()))
    return error / mean if mean else float("inf")


@dataclass(frozen=True)
class _Bins:
    """How far off each bin is on the mean, the variance of that, and its share of all rows."""

    gap_K: Floats
    variance_K: Floats
    share_K: Floats


def _binned(
    task: Task,
    outcome_N: Floats,
    forecast_N: Floats,
    user_N: NDArray[np.uint64],
    num_bins: int,
) -> _Bins:
    """The variance is estimated over users: their forecasts at several origins err together."""
    number = bins(forecast_N, num_bins)
    size = np.maximum(np.bincount(number, minlength=num_bins), 1)
    off = forecast_N - outcome_N
    if task.is_median:
        below, above = beside_median(outcome_N, forecast_N)
        is_high = np.bincount(number, below, num_bins) > np.bincount(number, above, num_bins)
        off = np.where(is_high[number], below, above) - 0.5
    gap = np.bincount(number, off, num_bins) / size
    residual = off - gap[number]
    _, user = np.unique(user_N, return_inverse=True)
    _, first, cell = np.unique(user * num_bins + number, return_index=True, return_inverse=True)
    squares = np.bincount(number[first], np.bincount(cell, residual) ** 2, num_bins)
    if task.is_median:
        gap = np.maximum(gap, 0)  # where many outcomes tie with it, neither side has half of them
    return _Bins(gap, squares / size**2, size / len(outcome_N))
