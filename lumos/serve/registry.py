"""Which model version serves: the verbs ``promote`` and ``rollback`` over three MLflow aliases.

``challenger`` is what was trained last, ``champion`` what scores are made with, and
``previous_champion`` what ``rollback`` returns to. Aliases are written one at a time; the order
is such that a process that dies between two writes leaves a champion, and its rerun ends well.
"""

import logging

from lumos import ledger
from lumos.config import EvaluationConfig, Recipe
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

    Raises:
        BadInput: There is no challenger, or no evaluation of it against today's champion.
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
    judged = _evaluation(request, challenger, champion)
    losses = {
        segment: judged.metrics.get(f"{segment}.primary_loss")
        for segment in ("challenger", "champion", "recency", "lightgbm")
    }
    is_obsolete = "obsolete" in judged.details["champion_not_compared"]
    rival = None if is_obsolete else champion
    reason = _why_not(losses, rival, recipe.evaluation)
    measured = _decision(losses, challenger, reason)
    written = write_metrics(request, measured)
    if reason:
        msg = f"version {challenger} stays challenger: {reason}"
        raise GateRefused(msg)
    if champion is not None:
        _set(settings, recipe, PREVIOUS, champion)
    _set(settings, recipe, CHAMPION, challenger)
    log.info("version %s is champion, after %s", challenger, champion)
    return request.report(
        tables=(written,),
        metrics={metric.name: metric.value for metric in measured},
        details={"champion": challenger, "previous_champion": champion},
    )


def _evaluation(request: Request, challenger: str, champion: str | None) -> Report:
    """The report of the evaluation that compares exactly these two."""
    remedy = f"Run `lumos evaluate --date {request.date}` first."
    entry = ledger.require(
        request.settings, request.recipe, "evaluations", request.date, remedy=remedy
    )
    compared = {"challenger": challenger, "champion": champion}
    found = {name: entry.report.details.get(name) for name in compared}
    if found != compared:
        msg = (
            f"the evaluation for {request.date} compares version {found['challenger']} with "
            f"champion {found['champion']}, but now the challenger is {challenger} and the "
            f"champion {champion}. {remedy}"
        )
        raise BadInput(msg)
    return entry.report


def _why_not(
    losses: dict[str, float | None], champion: str | None, allowance: EvaluationConfig
) -> str:
    """Why the challenger must not be champion; empty if it may."""
    ours = losses["challenger"]
    if ours is None:
        return "its loss could not be measured, for no task had both outcomes"
    rivals = {"recency": allowance.baseline_margin}
    if champion is not None:
        rivals["champion"] = allowance.margin
    for rival, allowed in rivals.items():
        theirs = losses[rival]
        if theirs is None:
            return f"it cannot be compared with the {rival}, which learned from these labels"
        if ours > theirs + allowed:
            return f"its primary loss {ours:.4f} is worse than {theirs:.4f} of the {rival}" + (
                f" by more than {allowed:g}" if allowed else ""
            )
    return ""


def _decision(losses: dict[str, float | None], challenger: str, reason: str) -> list[Metric]:
    promoted = Metric(
        "promoted",
        0.0 if reason else 1.0,
        segment=f"version {challenger}",
        verdict="critical" if reason else "ok",
        message=reason,
    )
    return [promoted, *(Metric(f"primary_loss.{name}", loss) for name, loss in losses.items())]


def rollback(request: Request) -> Report:
    """Make the previous champion champion again, and the other one previous.

    The version rolled back from loses the challenger's alias too, lest the next ``promote``
    bring it straight back.

    Raises:
        BadInput: There is no previous champion.
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
    if tracking.version_of(settings, recipe, CHALLENGER) == champion:
        name = tracking.model_name(recipe)
        tracking.client(settings).delete_registered_model_alias(name, CHALLENGER)
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
