"""Model versions and runs in MLflow that nobody needs, and the evaluations of such versions."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from lumos.delta import MAINTAIN, data_files, marked, open_table
from lumos.maintain.rules import before
from lumos.maintain.tending import Clock
from lumos.tables import table_uri
from lumos.train import tracking
from lumos.verbs import Request

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_PAGE = 500


def tend_models(request: Request, named: Iterable[str], clock: Clock) -> dict[str, int]:
    """Remove versions and runs older than ``retention.models_days``; evaluations go with them.

    A version stays while it has an alias or something that stays names it. Its files go before its
    run: who is killed in between finds the run again.

    Args:
        request: Of ``maintain``.
        named: Versions that the ledger and the manifests name.
        clock: What day it is.

    Returns:
        How many of what were or would be removed.
    """
    settings, recipe = request.settings, request.recipe
    client, name = tracking.client(settings), tracking.model_name(recipe)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return {}
    is_dry_run = request.options["dry_run"]
    until = clock.moment(recipe.retention.models_days).timestamp() * 1000
    versions = list(client.search_model_versions(f"name='{name}'"))
    aliased = set()
    if versions:
        aliased = {str(each) for each in client.get_registered_model(name).aliases.values()}
    kept = {*map(str, named), *aliased}
    old = [v for v in versions if v.creation_timestamp < until and str(v.version) not in kept]
    needed = {v.run_id for v in versions} - {v.run_id for v in old}
    runs = [run for run in _runs(client, experiment.experiment_id, until) if run not in needed]
    if not is_dry_run:
        for version in old:
            client.delete_model_version(name, str(version.version))
            log.info("removed version %s of %s", version.version, name)
        for run_id in runs:
            _remove(client, run_id)
    left = {str(v.version) for v in versions} - {str(v.version) for v in old}
    evaluations = _evaluations(request, left | kept, clock)
    found = {"versions": len(old), "runs": len(runs), "evaluations": evaluations}
    return {what: number for what, number in found.items() if number}


def _runs(client: "MlflowClient", experiment_id: str, until: float) -> list[str]:
    """Ids of all runs that began before a moment in milliseconds."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"attributes.start_time < {int(until)}", max_results=_PAGE,
            page_token=token,
        )  # fmt: skip
        found += page
        token = page.token
        if not token:
            return [run.info.run_id for run in found]


def _remove(client: "MlflowClient", run_id: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(client.get_run(run_id).info.artifact_uri)
    try:
        repository.delete_artifacts()  # type: ignore[no-untyped-call]
    except (FileNotFoundError, MlflowException) as error:
        log.info("run %s has no files left: %s", run_id, error)
    client.delete_run(run_id)
    log.info("removed run %s", run_id)


def _evaluations(request: Request, versions: Iterable[str], clock: Clock) -> int:
    """Rows of evaluations of versions that are there no more."""
    uri = table_uri(request.settings, request.recipe, "evaluations")
    table = open_table(uri)
    first = before(clock.newest, request.recipe.retention.models_days)
    if table is None or not any(f.partition["as_of"] < first for f in data_files(table)):
        return 0
    named = ", ".join(f"'{int(version)}'" for version in versions if version.isdecimal()) or "''"
    where = f'"as_of" < DATE \'{first}\' AND "model_version" NOT IN ({named})'
    found = table.scan(columns=["as_of"], predicate=where).read_all().num_rows
    if found and not request.options["dry_run"]:
        try:
            DeltaTable(uri).delete(where, commit_properties=marked(MAINTAIN))
        except CommitFailedError as error:
            log.info("evaluations: left for the next run, others write to it: %s", error)
            return 0
    return found
