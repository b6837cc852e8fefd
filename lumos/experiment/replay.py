"""The verb ``replay``: do the declared analyses keep their promises on this platform's users?

The users of the last days are split by chance, thousands of times, and nobody is treated
(:mod:`lumos.experiment.simulate`). What an analysis then finds is false, and its share has to be
the declared alpha to within what chance allows. A metric that a handful of users decide, or users
who are not independent of each other, show here and nowhere else.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from lumos import ledger
from lumos.experiment.declaration import ADJUSTMENTS, Experiment, declared, named
from lumos.experiment.faults import Faults
from lumos.experiment.figures import Figure, figure, write_figures
from lumos.experiment.held import digest
from lumos.experiment.history import begins, inputs_of, past, refuse_without_forecast
from lumos.experiment.plan import covariates, shares
from lumos.experiment.simulate import (
    Found,
    History,
    Rate,
    always_valid,
    at_the_end,
    group_sequential,
    peeking,
    rate,
    replays,
    split,
    uniform_p,
)
from lumos.experiment.views import pinned, pinned_views, publication
from lumos.verbs import GateRefused, Report, Request, TableWritten

log = logging.getLogger(__name__)

# P that chance alone makes some rate of an experiment critical; its rates share it.
_FALSE_ALARM = 0.01
_SEED = 20170101


@dataclass(frozen=True)
class _Counted:
    """A share of replays; ``chance`` is what was promised, none where nothing was."""

    name: str
    happened: Any
    chance: float | None
    is_limit: bool = False  # less than the chance is fair too


def replay(request: Request) -> Report:
    """A/A replays of each declared experiment, on the planned days that end on the date.

    Raises:
        BadInput: An unknown experiment, tables that are not ready, or a history too short. What
            is wrong with one experiment is raised when all others are done.
        GateRefused: Some analysis finds more, or less, than chance allows.
    """
    asked = request.options.get("experiment")
    faults = Faults()
    known = (named(request),) if asked else declared(request.settings, request.recipe, faults)
    if not known:
        faults.refuse(())
        note = f"recipe {request.recipe.name} declares no experiment: nothing to replay"
        return request.report(details={"note": note})
    versions = pinned(request, ("activity", "users"))
    scores = {
        item.name: publication(request, item, begins(request, item.planned_days)) for item in known
    }
    known = faults.sound(known, lambda item: _can_replay(request, item, scores[item.name]))
    inputs = inputs_of(request, known, versions, *(scores[item.name] for item in known))
    if done := ledger.already_done(request, "replay", inputs | faults.inputs()):
        faults.refuse(done.details["experiments"])
        return done
    _refuse_again(request, inputs | faults.inputs())
    found: dict[str, list[Figure]] = {}
    version = 0
    with pinned_views(request, versions) as spark:
        for experiment in known:
            with faults.kept():
                rows = _replayed(spark, request, experiment, scores[experiment.name])
                version = write_figures(request, experiment, rows)
                found[experiment.name] = rows
    if not found:
        faults.refuse(())
    critical = [
        f"{name}: {row['message']}"
        for name, rows in found.items()
        for row in rows
        if row["verdict"] == "critical"
    ]
    written = TableWritten(table="metrics", version=version, rows=sum(map(len, found.values())))
    report = request.report(
        tables=(written,),
        metrics={f"{name}.{row['name']}": row["value"] for name in found for row in found[name]},
        details={"experiments": list(found), "critical": critical},
    )
    ledger.record(
        request,
        report,
        inputs=inputs | faults.inputs(),
        verdict=ledger.REFUSED if critical else ledger.READY,
        tables_written=(written.model_copy(update={"table": "replay"}),),
    )
    _refuse(critical)
    faults.refuse(list(found))
    return report


def _can_replay(request: Request, experiment: Experiment, scores: Mapping[str, Any] | None) -> None:
    refuse_without_forecast(request, experiment, scores is not None)
    # All files that it names are there.
    digest(request, [experiment])


def _replayed(
    spark: SparkSession,
    request: Request,
    experiment: Experiment,
    scores: dict[str, Any] | None,
) -> list[Figure]:
    found = past(
        spark,
        request,
        experiment,
        names=tuple(experiment.metrics),
        num_days=experiment.planned_days,
        publication=scores,
    )
    return list(_rows(request, experiment, found.metrics))


def _refuse_again(request: Request, inputs: Mapping[str, int | str]) -> None:
    entry = ledger.find(request.settings, request.recipe, "replay", request.date)
    is_same = entry is not None and entry.fingerprint == ledger.fingerprint(request, inputs)
    if is_same and entry is not None and entry.verdict == ledger.REFUSED and not request.force:
        _refuse(list(entry.report.details["critical"]))


def _refuse(critical: list[str]) -> None:
    if critical:
        raise GateRefused("; ".join(critical))


def _rows(
    request: Request, experiment: Experiment, metrics: Mapping[str, History]
) -> Iterator[Figure]:
    """Of the table ``metrics``: rates, and how uniform p-values are."""
    counted: list[_Counted] = []
    for name, history in metrics.items():
        found = _found(request, experiment, name, history)
        for adjust, said in found.items():
            uniform = uniform_p(said.p_value[:, -1])
            yield figure(f"{name}.{adjust}.ks_p", uniform, "of uniform p-values")
            counted += _counted(experiment, name, adjust, said)
    num_promises = sum(each.chance is not None for each in counted)
    for each in counted:
        level = 1 - _FALSE_ALARM / num_promises
        yield _judged(each, rate(each.happened, each.chance or experiment.alpha_each, level))


def _found(
    request: Request, experiment: Experiment, name: str, history: History
) -> dict[str, Found]:
    """The primary metric by every adjustment at every look; others as declared, at the end."""
    is_primary = name == experiment.primary.metric
    by_name: dict[str, tuple[str, ...]] = {
        adjust: tuple(each for each in wanted if each in history.covariates)
        for adjust, wanted in ADJUSTMENTS.items()
        if "forecast" in history.covariates or "forecast" not in wanted
    }
    declared_only: dict[str, tuple[str, ...]] = {experiment.adjust: covariates(experiment, history)}
    return replays(
        history,
        history,
        split(
            history.num_users,
            shares(experiment),
            num_replays=request.options["replays"],
            seed=_SEED,
        ),
        looks=experiment.look_days if is_primary else (experiment.planned_days,),
        analyses=by_name if is_primary else declared_only,
        alpha=experiment.alpha_each,
    )


def _counted(experiment: Experiment, name: str, adjust: str, said: Found) -> Iterator[_Counted]:
    alpha, looks = experiment.alpha_each, experiment.look_days
    yield _Counted(f"{name}.{adjust}.at_the_end", at_the_end(said, alpha), alpha)
    if name != experiment.primary.metric:
        return
    yield _Counted(f"{name}.{adjust}.group_sequential", group_sequential(said, looks, alpha), alpha)
    yield _Counted(
        f"{name}.{adjust}.always_valid",
        always_valid(said, experiment.minimum_effect, alpha),
        alpha,
        is_limit=True,
    )
    if adjust == "none":
        yield _Counted(f"{name}.{adjust}.peeking", peeking(said, alpha), None)


def _judged(each: _Counted, found: Rate) -> Figure:
    if each.chance is None:
        text = "what plain p-values would find that are looked at on every look: nobody may"
        return figure(each.name, found.value, text)
    is_fair = found.value <= found.high if each.is_limit else found.is_fair
    text = (
        f"{each.name} finds {found.value:.2%} among equals, of {each.chance:.2%} promised; chance "
        f"allows {0 if each.is_limit else found.low:.2%} to {found.high:.2%}"
    )
    return figure(each.name, found.value, text, "ok" if is_fair else "critical")
