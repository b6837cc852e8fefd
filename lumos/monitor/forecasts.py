"""What is monitored of forecasts: their drift, and what came of those whose days have passed.

Prediction drift needs no row of `scores`: every manifest already holds how its scores are spread,
in bins that are the same on all days. Matured days are judged by what was published, user by user,
against what `sequences` of the business date knows to have happened since.

Shape suffixes: N users of one origin.
"""

import datetime as dt
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.accio.contract import load_events
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import Recipe, Task
from lumos.dates import day_number
from lumos.delta import open_table, predicate
from lumos.gone import VersionGone
from lumos.monitor.history import Limits
from lumos.monitor.names import FORECASTS
from lumos.monitor.words import compared, drifts, unknown
from lumos.serve.accuracy import Floats, auc, calibration_error, relative_loss
from lumos.serve.baselines import Recency
from lumos.serve.features import Examples, History
from lumos.serve.inputs import Inputs, pin
from lumos.serve.manifest import LIVE, Manifest, read_manifests
from lumos.serve.metrics import Metric, Verdict
from lumos.serve.sample import sample
from lumos.serve.segments import groupings
from lumos.tables import table_uri
from lumos.tasks import wape
from lumos.verbs import BadInput, Request

log = logging.getLogger(__name__)

_DAYS = 28  # of publications, and of matured origins
_WEEK = 7
_TRAINING_ORIGINS = 4
_LEAST_USERS = 50
_LEAST_OF_A_KIND = 10  # users who did, and users who did not: fewer say nothing of an AUC
_ALL = "all"
# The least losses that anybody would act upon.
_LIMITS = {
    "matured_auc": Limits(0.02, 0.05, "below"),
    "matured_ece": Limits(0.02, 0.05, "above"),
    "matured_wape": Limits(0.05, 0.15, "above"),
    "matured_loss_vs_baseline": Limits(0.05, 0.15, "above"),
}
_LOOK_DRIFT = "Look at the drift of columns, and whether the model version has changed"
_LOOK_MATURED = "Look at the drift of columns and of scores since; if it stays, train anew"

# By task and group of users, what each origin came to.
_Figures = dict[tuple[str, str, str], dict[dt.date, float]]


@dataclass
class Judged:
    """Figures of matured origins.

    Attributes:
        figures: By monitor, task and group, the figure of each origin.
        too_few: By monitor and task, groups whose newest origin says nothing.
    """

    figures: _Figures = field(default_factory=lambda: defaultdict(dict))
    too_few: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))


class ForecastMonitors:
    """The half ``forecasts`` for one request; what it reads is pinned when it is made."""

    half = FORECASTS

    def __init__(self, request: Request) -> None:
        """Find the publications and tables to read; what is missing will be ``unknown``."""
        self._request = request
        every = read_manifests(request.settings, request.recipe)
        self._all = every
        self._live = {m.as_of: m for m in every if m.state == LIVE and m.as_of <= request.date}
        try:
            self._pins: Inputs | None = pin(request)
            self._why_not = ""
        except BadInput as error:
            self._pins, self._why_not = None, str(error).rstrip(".")

    @property
    def inputs(self) -> dict[str, int | str]:
        """What the ledger compares a rerun by."""
        recent = [f"{day}@{m.scores_version}" for day, m in sorted(self._live.items())]
        pinned = self._pins.named if self._pins else {}
        is_skipped = not self._live and bool(self._all)
        return {**pinned, "published": " ".join(recent[-3 * _DAYS :]), "skipped": int(is_skipped)}

    def findings(self) -> list[Metric]:
        """Every monitor of the half, in the order of their names."""
        return [self._publication(), *self._drift(), *self._matured()]

    def _publication(self) -> Metric:
        name, segment, date = "publication_freshness", "scores", self._request.date
        newest = max(self._live, default=None)
        if newest is None:
            return unknown(name, segment, f"nothing published by {date} is live")
        behind = (date - newest).days
        valid = self._live[newest].valid_until
        verdict: Verdict = "ok" if behind == 0 else "warning" if date < valid else "critical"
        message = (
            f"{segment}: the newest live publication on {date} is that of {newest}, valid until "
            f"{valid}."
        )
        look = "" if verdict == "ok" else " Look at publish in batch_scoring: refused, or skipped."
        if verdict != "ok" and any(m.as_of > date for m in self._all):
            # A backfill of an old date publishes nothing, on purpose.
            verdict, look = "info", " A newer date has been published since."
        return Metric(name, float(behind), segment, verdict, message + look)

    def _drift(self) -> Iterator[Metric]:
        date, recipe = self._request.date, self._request.recipe
        today = self._live.get(date)
        past = {day: m for day, m in self._live.items() if 0 < (date - day).days <= _DAYS}
        versions = {m.model_version for m in past.values()}
        look = _LOOK_DRIFT
        if today is not None and versions - {today.model_version}:
            look = (
                f"The scores are of model version {today.model_version}, those before of "
                f"{', '.join(sorted(versions))}. {_LOOK_DRIFT}"
            )
        for task in recipe.tasks:
            if today is None:
                for what in ("prediction_psi", "prediction_ks"):
                    yield unknown(what, task.name, f"no scores of {date} are live")
                continue
            histograms = {day: spread_of(m, task.name) for day, m in past.items()}
            yield from drifts(
                "prediction",
                task.name,
                spread_of(today, task.name),
                {day: histogram for day, histogram in histograms.items() if histogram},
                date=date,
                look=look,
            )

    def _matured(self) -> Iterator[Metric]:
        recipe = self._request.recipe
        due = [o for o in self._origins() if o in self._live]
        if self._pins is None or not due:
            why = self._why_not or f"no publication's days have passed by {self._request.date}"
            for task in recipe.tasks:
                for name in _monitors_of(task):
                    yield unknown(name, task.name, why)
            return
        judged = self._judge(self._pins, due)
        for task in recipe.tasks:
            for name in _monitors_of(task):
                yield from self._verdicts(judged, name, task)

    def _origins(self) -> list[dt.date]:
        """Days whose publications may have matured for one task at least, ascending."""
        windows = [task.window_days for task in self._request.recipe.tasks]
        back = range(max(windows) + _DAYS, min(windows) - 1, -1)
        return [self._request.date - dt.timedelta(days=days) for days in back]

    def _judge(self, pins: Inputs, due: list[dt.date]) -> Judged:
        request, recipe = self._request, self._request.recipe
        users = sample(request, pins)
        events = load_events(request.settings, recipe, pins.event_context)
        history = History(users, recipe)
        baseline = _baseline(recipe, history, users, events, due[0])
        judged = Judged()
        for origin in due:
            examples = history.examples([day_number(origin)], events)
            row_N, scores = _published(request, self._live[origin], users, examples)
            if not len(row_N):
                continue
            plain = baseline.forecast(examples) if baseline else None
            groups = groupings(recipe, users, examples, np.zeros(len(users), bool))[:-1]
            for task in recipe.tasks:
                is_due = origin + dt.timedelta(days=task.window_days) <= request.date
                if not is_due or task.name not in scores:
                    continue
                came_N, said_N = examples.outcomes[task.name][row_N], scores[task.name]
                rival_N = plain[task.name][row_N] if plain else None
                _add(judged, task, origin, _ALL, came_N, said_N, rival_N)
                for grouping in groups:
                    group_N = grouping.group_N[row_N]
                    for k in np.unique(group_N):
                        inside = group_N == k
                        name = grouping.names[k]
                        _add(judged, task, origin, name, came_N[inside], said_N[inside], None)
        return judged

    def _verdicts(self, judged: Judged, name: str, task: Task) -> Iterator[Metric]:
        """Of all users first; then groups, of which only what is far off is named."""
        newest = self._request.date - dt.timedelta(days=task.window_days)
        groups = sorted(g for n, t, g in judged.figures if (n, t) == (name, task.name))
        silent = set(judged.too_few[name, task.name])
        for group in [_ALL, *(g for g in groups if g != _ALL)]:
            by_origin = judged.figures.get((name, task.name, group), {})
            segment = task.name if group == _ALL else f"{task.name}/{group}"
            if newest not in by_origin:
                if group == _ALL:
                    silent.discard(group)
                    why = f"nothing that can be judged was published for {newest}"
                    yield unknown(name, segment, why)
                continue
            silent.discard(group)
            found = compared(
                name,
                segment,
                by_origin[newest],
                by_origin,
                date=newest,
                limits=_LIMITS[name],
                look=_LOOK_MATURED,
            )
            if name == "matured_loss_vs_baseline":
                found = self._against_baseline(found, by_origin, newest)
            yield found if group == _ALL else _milder(found)
        if silent:
            why = f"too few users, or too few of one kind, in {', '.join(sorted(silent))}"
            yield unknown(name, f"{task.name}/(small groups)", why)

    def _against_baseline(
        self, found: Metric, by_origin: Mapping[dt.date, float], newest: dt.date
    ) -> Metric:
        """Over a whole week, the champion must not be worse than the plain baseline."""
        week = [v for day, v in by_origin.items() if 0 <= (newest - day).days < _WEEK]
        most = 1 + self._request.recipe.evaluation.baseline_margin
        mean = float(np.mean(week))
        if len(week) < _WEEK or mean <= most:
            return found
        message = (
            f"{found.segment}: over the week up to {newest} the loss of what was published is "
            f"{mean:.3g} of the plain baseline's; at most {most:g} is worth its cost. "
            "Look at matured_auc and at the drift; train anew, or roll back."
        )
        return Metric(found.name, found.value, found.segment, "critical", message)


def spread_of(manifest: Manifest, task: str) -> dict[int, int]:
    """How a task's published scores are spread: users by bin of :mod:`lumos.serve.spread`."""
    cells: Mapping[str, int] = json.loads(manifest.spread).get(task, {})
    return {int(number): amount for number, amount in cells.items()}


def _monitors_of(task: Task) -> tuple[str, ...]:
    judged = ("matured_auc", "matured_ece") if task.is_binary else ("matured_wape",)
    return (*judged, "matured_loss_vs_baseline")


def _baseline(
    recipe: Recipe, history: History, users: Users, events: EventCalendar, first: dt.date
) -> Recency | None:
    """The plain baseline, whose labels end before the first judged origin; ``None`` without any."""
    last = day_number(first) - recipe.horizon_days
    origins = [last - _WEEK * number for number in reversed(range(_TRAINING_ORIGINS))]
    known = [o for o in origins if (users.registered <= o).any()]
    if not known or not (users.days <= last).any():
        return None
    return Recency.fit(recipe, history.examples(known, events))


def _published(
    request: Request, manifest: Manifest, users: Users, examples: Examples
) -> tuple[np.ndarray, dict[str, Floats]]:
    """Published scores of the examples' users: places among the examples, and scores by task.

    Read in batches, of which only these users are kept.
    """
    recipe = request.recipe
    there = set(manifest.columns.split(","))
    tasks = [task.name for task in recipe.tasks if task.name in there]
    try:
        table = open_table(table_uri(request.settings, recipe, "scores"), manifest.scores_version)
    except VersionGone as error:
        log.warning("the publication of %s is not judged: %s", manifest.as_of, error)
        return np.zeros(0, np.int64), {}
    assert table is not None, "a manifest names it"
    wanted = pa.array(users.user_id[examples.user], pa.string())
    scan = table.scan(columns=["user_id", *tasks], predicate=predicate(as_of=manifest.as_of))
    places: list[np.ndarray] = []
    parts: dict[str, list[Floats]] = {name: [] for name in tasks}
    for batch in pa.RecordBatchReader.from_stream(scan):
        place = pc.index_in(pc.cast(batch["user_id"], pa.string()), wanted)
        is_ours = pc.is_valid(place)
        places.append(place.filter(is_ours).to_numpy(zero_copy_only=False).astype(np.int64))
        for name in tasks:
            values = batch[name].filter(is_ours).to_numpy(zero_copy_only=False)
            parts[name].append(values.astype(np.float64))
    if not places:
        return np.zeros(0, np.int64), {}
    return np.concatenate(places), {name: np.concatenate(p) for name, p in parts.items()}


def _add(
    judged: Judged,
    task: Task,
    origin: dt.date,
    group: str,
    came_N: Floats,
    said_N: Floats,
    rival_N: Floats | None,
) -> None:
    """Judge one origin's forecasts of a group, as far as it is large enough."""
    figures: dict[str, float | None] = {}
    if task.is_binary:
        num_did = int(came_N.sum())
        has_both = min(num_did, len(came_N) - num_did) >= _LEAST_OF_A_KIND
        is_judged = len(came_N) >= _LEAST_USERS and has_both
        figures["matured_auc"] = auc(came_N, said_N) if is_judged else None
        figures["matured_ece"] = calibration_error(came_N, said_N) if is_judged else None
    else:
        is_judged = len(came_N) >= _LEAST_USERS
        figures["matured_wape"] = wape(came_N, said_N) if is_judged else None
    if rival_N is not None:
        ours, theirs = (relative_loss(task, came_N, each) for each in (said_N, rival_N))
        figures["matured_loss_vs_baseline"] = ours / theirs if ours and theirs else None
    for name, value in figures.items():
        if value is None:
            judged.too_few[name, task.name].add(group)
        else:
            judged.figures[name, task.name, group][origin] = value


def _milder(found: Metric) -> Metric:
    """Of the many groups, some are beyond a limit by chance: only what is critical is named."""
    match found.verdict:
        case "critical":
            return replace(found, verdict="warning")
        case "warning":
            return replace(found, verdict="ok")
    return found
