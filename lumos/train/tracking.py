"""MLflow: runs, artefacts and the registry; the only module of the rooms that imports it.

MLflow takes seconds to import, so it is imported inside functions, and only by the first process.
Every run and model version carries the ledger's fingerprint as a tag: a training that was killed
between registering and the ledger finds its version again instead of registering it twice.
"""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from lumos.addresses import refuse_unencoded, without_password
from lumos.config import Recipe
from lumos.ownership import Platform
from lumos.settings import Settings
from lumos.verbs import BadInput

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHALLENGER = "challenger"
CHECKPOINT_FOLDER = "checkpoint"
_FINGERPRINT = "lumos.fingerprint"
_OWNER = "lumos.platform."
_EPOCH_METRIC = "train/loss"


def client(settings: Settings) -> "MlflowClient":
    """A client of the tracking server and registry that the settings name.

    Raises:
        BadInput: Their address holds a password that is not percent-encoded.
    """
    refuse_unencoded("MLFLOW_TRACKING_URI", settings.mlflow_uri)
    # No calls home from a batch job, and no progress bars for five small files.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    if settings.mlflow_uri.startswith("sqlite:///"):
        Path(settings.mlflow_uri.removeprefix("sqlite:///")).parent.mkdir(
            parents=True, exist_ok=True
        )
    return MlflowClient(settings.mlflow_uri, settings.mlflow_uri)


def model_name(recipe: Recipe) -> str:
    """The registered model of a recipe; also the name of its experiment."""
    return f"lumos_{recipe.name}"


def version_of(settings: Settings, recipe: Recipe, alias: str) -> str | None:
    """The registry version that an alias points to, or ``None`` where it points nowhere.

    Raises:
        BadInput: The registered model is another platform's.
    """
    registry = client(settings)
    from mlflow.exceptions import MlflowException

    _require_own_model(registry, recipe)
    try:
        return str(registry.get_model_version_by_alias(model_name(recipe), alias).version)
    except MlflowException as error:
        # A missing alias is INVALID_PARAMETER_VALUE, a missing model the other one.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def checkpoint_of(settings: Settings, recipe: Recipe, version: str) -> Path:
    """A local folder with the checkpoint of a registry version, downloaded where need be.

    Raises:
        BadInput: The registry has no such version, or its files are gone.
    """
    source, local = _source(settings, recipe, version)
    if local is not None:
        return local
    folder = settings.home / "models" / model_name(recipe) / version
    if not folder.exists():
        _download(source, folder, settings)
    return folder


def require_checkpoint(settings: Settings, recipe: Recipe, version: str) -> None:
    """A version that is to serve has its files, as far as this machine can see.

    Raises:
        BadInput: The registry has no such version, or its files are gone.
    """
    _source(settings, recipe, version)


def _source(settings: Settings, recipe: Recipe, version: str) -> tuple[str, Path | None]:
    """Where the registry says that a version's checkpoint is; the folder, if it is local."""
    registry, name = client(settings), model_name(recipe)
    known = {str(v.version): v for v in registry.search_model_versions(f"name='{name}'")}
    if version not in known:
        msg = (
            f"model version {version} of {name} is not in the registry "
            f"{without_password(settings.mlflow_uri)}; "
            f"it has {', '.join(sorted(known, key=int)) or 'none: run `lumos train` first'}"
        )
        raise BadInput(msg)
    source = str(known[version].source)
    folder = _local_checkpoint(settings, name, source, str(known[version].run_id))
    if folder is not None and not folder.exists():
        msg = f"the checkpoint of {name} version {version} is gone from {folder}; train again"
        raise BadInput(msg)
    return source, folder


def _local_checkpoint(settings: Settings, name: str, source: str, run_id: str) -> Path | None:
    """Where a version's checkpoint lies on this machine; ``None`` if MLflow keeps it elsewhere.

    By the home as it is called now: the registry has the place that it had when it was trained,
    and a home may have been moved, or copied.
    """
    parsed = urlparse(source)
    if parsed.scheme not in ("", "file"):
        return None
    own = _artifacts(settings, name, run_id) / CHECKPOINT_FOLDER
    return own if _is_local(settings) and own.exists() else Path(unquote(parsed.path))


def _is_local(settings: Settings) -> bool:
    """Whether this process keeps artefacts itself: a database has no place for them."""
    return settings.mlflow_uri.startswith(("sqlite:", "postgresql"))


def _artifacts(settings: Settings, name: str, run_id: str) -> Path:
    """Where MLflow would put a run's artefacts, had the home always been where it is."""
    return settings.home / "mlartifacts" / name / run_id / "artifacts"


def _download(source: str, folder: Path, settings: Settings) -> None:
    from mlflow.artifacts import download_artifacts

    draft = folder.with_name(f".draft-{folder.name}-{os.getpid()}")
    got = download_artifacts(
        artifact_uri=source, dst_path=str(draft), tracking_uri=settings.mlflow_uri
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    Path(got).rename(folder)
    shutil.rmtree(draft, ignore_errors=True)


@dataclass(frozen=True)
class Run:
    """One training in MLflow, found again by its fingerprint after a restart."""

    client: "MlflowClient"
    settings: Settings
    recipe: Recipe
    fingerprint: str
    run_id: str

    @classmethod
    def start(
        cls,
        settings: Settings,
        recipe: Recipe,
        fingerprint: str,
        *,
        tags: Mapping[str, str],
        is_fresh: bool = False,
    ) -> "Run":
        """Take up the run of this fingerprint, or begin one.

        Args:
            settings: Where MLflow is.
            recipe: Its name is the experiment's.
            fingerprint: The ledger's, of the training.
            tags: Of a new run; ``as_of`` among them.
            is_fresh: Do not take up a run that was finished: a forced one is another run.
        """
        tracker = client(settings)
        _require_own_model(tracker, recipe)
        experiment_id = _experiment(tracker, settings, model_name(recipe))
        wanted = f"tags.`{_FINGERPRINT}` = '{fingerprint}'"
        if is_fresh:
            wanted += " and attributes.status = 'RUNNING'"
        found = tracker.search_runs([experiment_id], wanted, max_results=1)
        run = (
            found[0]
            if found
            else tracker.create_run(
                experiment_id,
                run_name=f"{recipe.name} {tags['as_of']}",
                tags={_FINGERPRINT: fingerprint, **tags},
            )
        )
        return cls(tracker, settings, recipe, fingerprint, run.info.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; logging the same ones again is harmless."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)[:500]) for key, value in params.items()]
        for start in range(0, len(entities), 100):
            self.client.log_batch(self.run_id, params=entities[start : start + 100])

    def log_epochs(
        self,
        epochs: tuple[Mapping[str, float], ...],
        beside: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        """Log the epochs that MLflow does not have yet, each in one call.

        Args:
            epochs: All of them.
            beside: Further metrics, by the number of their epoch.
        """
        logged = len(self.client.get_metric_history(self.run_id, _EPOCH_METRIC))
        for number in range(logged, len(epochs)):
            named = {k if "/" in k else f"train/{k}": v for k, v in epochs[number].items()}
            self.log_metrics({**named, **(beside or {}).get(number, {})}, step=number)

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log metrics; those that are ``None`` could not be computed and are left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        known = {key: value for key, value in metrics.items() if value is not None}
        self.client.log_batch(
            self.run_id, metrics=[Metric(key, value, now, step) for key, value in known.items()]
        )

    def register(self, folder: Path, description: str) -> str:
        """Upload ``folder``, register its checkpoint as a version, make it the challenger.

        Args:
            folder: Everything in it becomes an artefact; its ``checkpoint/`` is the model.
            description: The model card, in markdown.

        Returns:
            The registry version.
        """
        name = model_name(self.recipe)
        version = self._registered(name)
        if version is None:
            place = self._keep(folder, name)
            self._create_model(name)
            source = f"{place}/{CHECKPOINT_FOLDER}"
            version = self.client.create_model_version(
                name,
                source,
                self.run_id,
                tags={_FINGERPRINT: self.fingerprint, "run": self.run_id},
                description=description,
            )
        self.client.set_registered_model_alias(name, CHALLENGER, version.version)
        self.client.set_terminated(self.run_id, "FINISHED")
        return str(version.version)

    def _keep(self, folder: Path, name: str) -> str:
        """Make everything in the folder artefacts of the run; returns their address."""
        if not _is_local(self.settings):
            self.client.log_artifacts(self.run_id, str(folder))
            return str(self.client.get_run(self.run_id).info.artifact_uri)
        # MLflow would write to where the experiment began: the original of a copied home.
        place = _artifacts(self.settings, name, self.run_id)
        shutil.copytree(folder, place, dirs_exist_ok=True)
        return place.as_uri()

    def _registered(self, name: str) -> "ModelVersion | None":
        """The version that this very run has registered before it was killed."""
        versions = self.client.search_model_versions(f"name='{name}'")
        return next((v for v in versions if v.tags.get("run") == self.run_id), None)

    def _create_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name, tags=_owner_tags(self.recipe))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            for key, value in _owner_tags(self.recipe).items():
                self.client.set_registered_model_tag(name, key, value)


def _owner_tags(recipe: Recipe) -> dict[str, str]:
    return {f"{_OWNER}{key}": value for key, value in Platform.of(recipe).model_dump().items()}


def _require_own_model(registry: "MlflowClient", recipe: Recipe) -> None:
    """The registered model of the recipe's name is this platform's, or nobody's yet."""
    from mlflow.exceptions import MlflowException

    name = model_name(recipe)
    try:
        tags = registry.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    found = {key.removeprefix(_OWNER): tags[key] for key in tags if key.startswith(_OWNER)}
    owner = Platform.model_validate(found) if found else None
    Platform.of(recipe).refuse_other(owner, f"the registered model {name}")


def _experiment(tracker: "MlflowClient", settings: Settings, name: str) -> str:
    experiment = tracker.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # A tracking server knows where its artefacts go.
    location = (settings.home / "mlartifacts" / name).as_uri() if _is_local(settings) else None
    return str(tracker.create_experiment(name, artifact_location=location))
