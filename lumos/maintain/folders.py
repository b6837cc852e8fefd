"""Folders beside the tables: pages, states of trainings, fetched models, calibrators."""

import logging
from collections.abc import Iterable
from pathlib import Path

from lumos.cloud import read_cloud
from lumos.maintain import files
from lumos.maintain.tending import Clock
from lumos.settings import Settings
from lumos.train import tracking
from lumos.verbs import Request

log = logging.getLogger(__name__)


def states_roots(settings: Settings) -> list[str]:
    """Where trainings of all recipes keep their states: here, and in storage that outlives it."""
    found = [str(settings.home / "train")]
    if settings.states:
        found.append(settings.states)
    elif settings.platform == "aws" and settings.cloud is not None:
        found.append(f"{read_cloud(settings.cloud).root}/train")
    return found


def is_training(request: Request, clock: Clock) -> bool:
    """Whether a training is under way or may go on: it reads what it pinned at its start."""
    young = clock.moment(request.recipe.retention.states_days)
    return any(
        each.written >= young
        for root in states_roots(request.settings)
        for each in files.listing(f"{root}/{request.recipe.name}")
    )


def tend_folders(request: Request, calibrators: Iterable[str], clock: Clock) -> dict[str, int]:
    """Remove what is older than the recipe's retention.

    Args:
        request: Of ``maintain``.
        calibrators: Versions that manifests name.
        clock: What day it is.

    Returns:
        Bytes that were or would be removed, by kind.
    """
    settings, recipe, keep = request.settings, request.recipe, request.recipe.retention
    states = [f"{root}/{recipe.name}" for root in states_roots(settings)]
    # Fetched again where they are asked for.
    models = str(settings.home / "models" / tracking.model_name(recipe))
    removed = {
        "reports": _old_files(request, str(settings.home / "reports" / recipe.name), clock),
        "states": sum(_old_folders(request, root, clock, keep.states_days) for root in states),
        "scratch": _old_folders(request, str(settings.home / "scratch"), clock, keep.states_days),
        "fetched_models": _old_folders(request, models, clock, keep.states_days),
        "calibrators": _calibrators(request, set(calibrators), clock),
    }
    return {what: size for what, size in removed.items() if size}


def _old_files(request: Request, root: str, clock: Clock) -> int:
    until = clock.moment(request.recipe.retention.reports_days)
    old = [each for each in files.listing(root) if each.written < until]
    if not request.options["dry_run"]:
        files.delete(root, old)
        if old:
            files.prune_empty(Path(root))
    return sum(each.size for each in old)


def _old_folders(request: Request, root: str, clock: Clock, days: int) -> int:
    found = files.old_folders(root, clock.moment(days))
    if not request.options["dry_run"]:
        for name in found:
            files.delete_folder(root, name)
            log.info("removed %s/%s", root, name)
    return sum(found.values())


def _calibrators(request: Request, named: set[str], clock: Clock) -> int:
    root = f"{request.settings.lake}/{request.recipe.name}/calibrators"
    until = clock.moment(request.recipe.retention.scores_days)
    old = [
        each
        for each in files.listing(root)
        if each.written < until and each.name.removesuffix(".json") not in named
    ]
    if not request.options["dry_run"]:
        files.delete(root, old)
    return sum(each.size for each in old)
