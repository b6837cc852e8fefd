"""The verb ``power``: what an experiment as declared would find, before anybody is exposed.

Real users of the last days are the population: the experiment is run on them again and again with
a known effect (:mod:`lumos.experiment.simulate`), by the declared looks, bounds and adjustment. The
same is predicted from the errors alone (:mod:`lumos.experiment.plan`); where the two disagree, the
metric is too skewed for so few users.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from lumos import ledger
from lumos.experiment.declaration import Experiment, named
from lumos.experiment.figures import figure, write_figures
from lumos.experiment.history import (
    Past,
    begins,
    inputs_of,
    longest,
    past,
    refuse_without_forecast,
)
from lumos.experiment.plan import Plan, covariates, looks_until, shares
from lumos.experiment.simulate import (
    Found,
    History,
    bounds_of,
    draw,
    group_sequential,
    replays,
    treated,
)
from lumos.experiment.views import pinned, pinned_views, publication
from lumos.verbs import BadInput, Report, Request, TableWritten

# Where the planned days do not suffice, it is asked whether so many times as long would.
_TIMES_LONGER = 3
_SEED = 20170101


def power(request: Request) -> Report:
    """Power of an experiment on the users of the planned days that end on the date.

    Raises:
        BadInput: An unknown experiment, effects that are none, tables that are not ready, or a
            history that is too short.
    """
    experiment = named(request)
    effects = _effects(request.options.get("effects"), experiment)
    versions = pinned(request, ("activity", "users"))
    scores = publication(request, experiment, begins(request, experiment.planned_days))
    refuse_without_forecast(request, experiment, scores is not None)
    inputs = inputs_of(request, [experiment], versions, scores)
    if done := ledger.already_done(request, f"power.{experiment.name}", inputs):
        return done
    metric = experiment.primary.metric
    with pinned_views(request, versions) as spark:

        def window(num_days: int) -> Past:
            return past(
                spark, request, experiment, names=[metric], num_days=num_days, publication=scores
            )

        planned = window(experiment.planned_days)
        told = _Told.of(experiment, planned, metric)
        longer = None
        if told.smallest > experiment.minimum_effect:
            days = min(_TIMES_LONGER * experiment.planned_days, longest(spark, request, experiment))
            if days > experiment.planned_days:
                longer = window(days)
    rows = [_simulated(request, experiment, told, effect) for effect in effects]
    at_smallest = _simulated(request, experiment, told, told.smallest)
    users, days_needed = told.users_needed(), _days_needed(experiment, told, longer, metric)
    metrics = {f"power.{row['effect']:g}": row["power"] for row in rows} | {
        "smallest_effect": told.smallest,
        "smallest_effect_power": at_smallest["power"],
        "users_needed": float(users),
        "days_needed": None if days_needed is None else float(days_needed),
        "num_users": float(planned.num_users),
    }
    notes = _notes(experiment, told, days_needed, longer)
    _show(experiment, told, [*rows, at_smallest], notes)
    version = write_figures(request, experiment, [figure(n, v) for n, v in metrics.items()])
    report = request.report(
        metrics=metrics,
        details={"experiment": experiment.name, "effects": [*rows, at_smallest], "notes": notes},
    )
    written = TableWritten(table=f"power.{experiment.name}", version=version, rows=len(metrics))
    return ledger.record(request, report, inputs=inputs, tables_written=(written,))


@dataclass(frozen=True, eq=False)
class _Told:
    """What history says of the primary metric."""

    experiment: Experiment
    history: History
    num_users: int
    plan: Plan
    smallest: float

    @classmethod
    def of(cls, experiment: Experiment, found: Past, metric: str) -> "_Told":
        history = found.metrics[metric]
        try:
            plan = _plan(experiment, history, found.num_users, experiment.planned_days)
        except ValueError as error:
            msg = f"experiment {experiment.name}, metric {metric}: {error}"
            raise BadInput(msg) from error
        return cls(experiment, history, found.num_users, plan, plan.smallest(experiment.power))

    def users_needed(self) -> int:
        """Errors fall with the square root of the users, and with them what is found."""
        return math.ceil(self.num_users * (self.smallest / self.experiment.minimum_effect) ** 2)


def _plan(experiment: Experiment, history: History, num_users: int, num_days: int) -> Plan:
    control, treatment = shares(experiment)
    return Plan.of(
        history,
        looks=looks_until(experiment, num_days),
        sizes=(num_users * control, num_users * treatment),
        adjust=covariates(experiment, history),
        alpha=experiment.alpha_each,
    )


def _days_needed(
    experiment: Experiment, told: _Told, longer: Past | None, metric: str
) -> int | None:
    """The shortest plan that finds the minimum effect with the declared power."""
    if told.smallest <= experiment.minimum_effect:
        history, num_users, most = told.history, told.num_users, experiment.planned_days
    elif longer is not None:
        history, num_users = longer.metrics[metric], longer.num_users
        most = history.num_days
    else:
        return None

    def suffices(num_days: int) -> bool:
        plan = _plan(experiment, history, num_users, num_days)
        return plan.power(experiment.minimum_effect) >= experiment.power

    if not suffices(most):
        return None
    least = 0  # does not suffice
    while most - least > 1:
        middle = (least + most) // 2
        try:
            enough = suffices(middle)
        except ValueError:  # nobody differs from anybody by then
            enough = False
        least, most = (least, middle) if enough else (middle, most)
    return most


def _simulated(
    request: Request, experiment: Experiment, told: _Told, effect: float
) -> dict[str, Any]:
    """Power of a relative effect, simulated and predicted."""
    sign = 1 if experiment.primary.direction == "up" else -1
    try:
        changed = treated(told.history, sign * effect, seed=_SEED)
    except ValueError as error:
        msg = f"experiment {experiment.name}, metric {experiment.primary.metric}: {error}"
        raise BadInput(msg) from error
    weights = draw(
        told.num_users,
        shares(experiment),
        of=told.history.num_users,
        num_replays=request.options["replays"],
        seed=_SEED,
    )
    found = replays(
        told.history,
        changed,
        weights,
        looks=experiment.look_days,
        analyses={"": covariates(experiment, told.history)},
        alpha=experiment.alpha_each,
    )[""]
    alpha, looks = experiment.alpha_each, experiment.look_days
    return {
        "effect": effect,
        "power": float(group_sequential(found, looks, alpha).mean()),
        "predicted": told.plan.power(effect),
        "days": _median_day(found, looks, alpha),
    }


def _median_day(found: Found, looks: Sequence[int], alpha: float) -> int | None:
    """By which day half of the replays that find the effect have found it."""
    crossed = abs(found.z) >= bounds_of(found.information, looks, alpha)
    days = sorted(looks[row.argmax()] for row in crossed if row.any())
    return int(days[len(days) // 2]) if days else None


def _effects(text: str | None, experiment: Experiment) -> list[float]:
    if not text:
        return [experiment.minimum_effect * times for times in (0.5, 1.0, 2.0)]
    try:
        effects = [float(part) for part in text.split(",")]
    except ValueError:
        effects = []
    if not effects or not all(0 < effect < 10 for effect in effects):
        msg = f"--effects {text!r}, expected relative changes such as 0.01,0.02,0.05"
        raise BadInput(msg)
    return effects


def _notes(experiment: Experiment, told: _Told, days: int | None, longer: Past | None) -> list[str]:
    wanted = f"{experiment.minimum_effect:.3g} with power {experiment.power:g}"
    notes = [
        f"{told.num_users:,} users on {experiment.planned_days} days find "
        f"{told.smallest:.3g} with power {experiment.power:g}",
        f"to find {wanted} on {experiment.planned_days} days takes {told.users_needed():,} users",
    ]
    if days is not None:
        notes.append(f"to find {wanted} with {told.num_users:,} users takes {days} days")
    else:
        longest_days = (
            experiment.planned_days
            if longer is None
            else (next(iter(longer.metrics.values())).num_days)
        )
        notes.append(
            f"to find {wanted} with {told.num_users:,} users takes more than the {longest_days} "
            "days that could be tried"
        )
    return notes


def _show(
    experiment: Experiment, told: _Told, rows: Sequence[dict[str, Any]], notes: Sequence[str]
) -> None:
    table = Table(
        title=f"{experiment.name}: {experiment.primary.metric}, adjusted by {experiment.adjust}, "
        f"{told.num_users:,} users, {experiment.planned_days} days"
    )
    for heading in ("relative effect", "power", "predicted", "found by day"):
        table.add_column(heading, justify="right")
    for row in rows:
        day = "" if row["days"] is None else str(row["days"])
        table.add_row(f"{row['effect']:.4g}", f"{row['power']:.3f}", f"{row['predicted']:.3f}", day)
    console = Console(file=sys.stderr, width=100)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
