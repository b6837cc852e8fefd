"""Which model version serves: ``promote``, ``rollback`` and ``resolve`` over three MLflow aliases.

``challenger`` is what was trained last, ``champion`` what scores are made with, and
``previous_champion`` what ``rollback`` returns to. Aliases are written one at a time; the order
is such that a process that dies between two writes leaves a champion, and its rerun ends well.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from lumos import audit, ledger
from lumos.config import Recipe
from lumos.serve.matured import matured
from lumos.serve.metrics import Metric, write_metrics
from lumos.settings import Settings
from lumos.train import tracking
from lumos.verbs import BadInput, GateRefused, Report, Request

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous_champion"


def chosen(request: Request, *, alias: str, remedy: str) -> str:
    """The version that ``--model`` names, or else the one that has ``alias``.

    Raises:
        BadInput: Nothing has the alias; ends with the remedy.
    """
    settings, recipe, wanted = request.settings, request.recipe, request.options["model"]
    version = tracking.version_of(settings, recipe, alias) if wanted is None else str(wanted)
    if version is None:
        msg = f"recipe {recipe.name} has no {alias} yet. {remedy}"
        raise BadInput(msg)
    return version


def promote(request: Request) -> Report:
    """Make the challenger champion, if its evaluation for ``--date`` says it is good enough.

    It must not lose to the plain recency baseline, nor to the champion by more than
    ``evaluation.margin``, in the primary loss (:mod:`lumos.serve.contest`) over all users at the
    evaluation origins. A champion made for other columns than the recipe now has cannot score
    and need not be beaten. What was decided is a row of ``metrics``.

    With ``evaluation.shadow_days`` the evaluation may be an earlier one, and the challenger must
    not lose on so many matured days either (:mod:`lumos.serve.matured`): until there are as many
    it waits, which is no fault. Once refused it is challenger no more, so that every challenger
    is decided once.

    Raises:
        BadInput: There is no challenger, its files are gone, or there is no evaluation of it
            against today's champion.
        GateRefused: It is worse; the champion stays.
    """
    settings, recipe = request.settings, request.recipe
    challenger = tracking.version_of(settings, recipe, CHALLENGER)
    champion = tracking.version_of(settings, recipe, CHAMPION)
    if challenger is None:
        msg = f"recipe {recipe.name} has no challenger. Run `lumos train --date {request.date}`."
        raise BadInput(msg)
    if challenger == champion:
        return request.report(details={"champion": champion}, already_done=True)
    tracking.require_checkpoint(settings, recipe, challenger)
    judgement = _judge(request, challenger, champion)
    if judgement.waits_for:
        log.info("version %s waits: %s", challenger, judgement.waits_for)
        return request.report(
            details={
                "champion": champion,
                "challenger": challenger,
                "waits_for": judgement.waits_for,
            }
        )
    measured = _decision(judgement, challenger)
    written = write_metrics(request, measured)
    if judgement.reason:
        if recipe.evaluation.shadow_days:
            _unset(settings, recipe, CHALLENGER)
        msg = f"version {challenger} does not become champion: {judgement.reason}"
        raise GateRefused(msg)
    audit.enter(
        request,
        f"version {challenger} becomes champion, after {champion}",
        f"no worse than the others in the evaluation up to {request.date}",
    )
    if champion is not None:
        _set(settings, recipe, PREVIOUS, champion)
    _set(settings, recipe, CHAMPION, challenger)
    log.info("version %s is champion, after %s", challenger, champion)
    return request.report(
        tables=(written,),
        metrics={metric.name: metric.value for metric in measured},
        details={"champion": challenger, "previous_champion": champion},
    )


@dataclass(frozen=True)
class _Judgement:
    """Primary losses by contestant; why not to promote, or what has to be waited for first."""

    losses: Mapping[str, float | None]
    reason: str = ""
    waits_for: str = ""


def _judge(request: Request, challenger: str, champion: str | None) -> _Judgement:
    """By its evaluation, and if the recipe asks for it by the days it forecast as a shadow."""
    allowance = request.recipe.evaluation
    judged = _evaluation(request, challenger, champion)
    losses = {
        segment: judged.metrics.get(f"{segment}.primary_loss")
        for segment in ("challenger", "champion", "recency", "lightgbm")
    }
    rivals = {"recency": allowance.baseline_margin}
    if champion is None or "obsolete" in judged.details["champion_not_compared"]:
        return _Judgement(losses, _why_not(losses, rivals))
    against_champion = {"champion": allowance.margin}
    reason = _why_not(losses, rivals | against_champion)
    if reason or not allowance.shadow_days:
        return _Judgement(losses, reason)
    shadowed = matured(request, (challenger, champion))
    if (num_days := len(shadowed.days)) < allowance.shadow_days:
        waits_for = f"{num_days} of {allowance.shadow_days} shadow days have matured"
        return _Judgement(losses, waits_for=waits_for)
    seen = {"challenger": shadowed.losses[challenger], "champion": shadowed.losses[champion]}
    reason = _why_not(seen, against_champion)
    losses |= {f"shadow.{name}": loss for name, loss in seen.items()}
    where = f" on {num_days} shadow days" if reason else ""
    return _Judgement(losses, reason + where)


def _evaluation(request: Request, challenger: str, champion: str | None) -> Report:
    """The report of the newest evaluation by the date that compares exactly these two."""
    settings, recipe, date = request.settings, request.recipe, request.date
    remedy = f"Run `lumos evaluate --date {date}` first."
    compared = {"challenger": challenger, "champion": champion}
    for entry in reversed(ledger.entries(settings, recipe, "evaluations")):
        found = {name: entry.report.details.get(name) for name in compared}
        if entry.business_date <= date and entry.verdict == ledger.READY and found == compared:
            return entry.report
    entry = ledger.require(settings, recipe, "evaluations", date, remedy=remedy)
    found = {name: entry.report.details.get(name) for name in compared}
    msg = (
        f"the evaluation for {date} compares version {found['challenger']} with "
        f"champion {found['champion']}, but now the challenger is {challenger} and the "
        f"champion {champion}. {remedy}"
    )
    raise BadInput(msg)


def _why_not(losses: Mapping[str, float | None], rivals: Mapping[str, float]) -> str:
    """Why the challenger must not be champion; empty if it may.

    Args:
        losses: Primary losses by contestant.
        rivals: By how much each may be better.
    """
    ours = losses["challenger"]
    if ours is None:
        return "its loss could not be measured, for no task had both outcomes"
    for rival, allowed in rivals.items():
        theirs = losses[rival]
        if theirs is None:
            return f"it cannot be compared with the {rival}, which learned from these labels"
        if ours > theirs + allowed:
            return f"its primary loss {ours:.4f} is worse than {theirs:.4f} of the {rival}" + (
                f" by more than {allowed:g}" if allowed else ""
            )
    return ""


def _decision(judgement: _Judgement, challenger: str) -> list[Metric]:
    reason = judgement.reason
    promoted = Metric(
        "promoted",
        0.0 if reason else 1.0,
        segment=f"version {challenger}",
        verdict="critical" if reason else "ok",
        message=reason,
    )
    losses = judgement.losses.items()
    return [promoted, *(Metric(f"primary_loss.{name}", loss) for name, loss in losses)]


def resolve(request: Request) -> Report:
    """Say which versions hold the aliases now: a run pins them, whatever is promoted meanwhile.

    Raises:
        BadInput: There is no champion and ``--model`` names none.
    """
    champion = chosen(
        request,
        alias=CHAMPION,
        remedy=f"Run `lumos train`, `lumos evaluate` and `lumos promote` for {request.date} or "
        "earlier.",
    )
    challenger = tracking.version_of(request.settings, request.recipe, CHALLENGER)
    log.info("this run scores with version %s; the challenger is %s", champion, challenger)
    return request.report(details={"champion": champion, "challenger": challenger})


def rollback(request: Request) -> Report:
    """Make the previous champion champion again, and the other one previous.

    The version rolled back from loses the challenger's alias too, lest the next ``promote``
    bring it straight back.

    Raises:
        BadInput: There is no previous champion, or its files are gone.
    """
    settings, recipe = request.settings, request.recipe
    champion = tracking.version_of(settings, recipe, CHAMPION)
    previous = tracking.version_of(settings, recipe, PREVIOUS)
    if champion is None or previous is None or champion == previous:
        msg = (
            f"recipe {recipe.name} has no previous champion to return to "
            f"(champion: {champion}, previous: {previous}); one exists after two promotions"
        )
        raise BadInput(msg)
    tracking.require_checkpoint(settings, recipe, previous)
    audit.enter(
        request, f"version {previous} is champion again, after {champion}", "no reason given"
    )
    if tracking.version_of(settings, recipe, CHALLENGER) == champion:
        _unset(settings, recipe, CHALLENGER)
    _set(settings, recipe, CHAMPION, previous)
    _set(settings, recipe, PREVIOUS, champion)
    message = f"version {previous} is champion again, after {champion}"
    log.info("%s", message)
    written = write_metrics(
        request,
        [Metric("rolled_back", 1.0, segment=f"version {champion}", message=message)],
    )
    return request.report(
        tables=(written,), details={"champion": previous, "previous_champion": champion}
    )


def _set(settings: Settings, recipe: Recipe, alias: str, version: str) -> None:
    name = tracking.model_name(recipe)
    tracking.client(settings).set_registered_model_alias(name, alias, version)


def _unset(settings: Settings, recipe: Recipe, alias: str) -> None:
    name = tracking.model_name(recipe)
    tracking.client(settings).delete_registered_model_alias(name, alias)
