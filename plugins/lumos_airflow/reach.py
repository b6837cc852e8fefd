"""What a verb that runs elsewhere is told of this deployment, once it is sure to reach it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from airflow.sdk.exceptions import AirflowFailException

from lumos.addresses import refuse_unencoded
from lumos.allowed import allowed
from lumos.cloud import Cloud
from lumos.settings import Settings


@dataclass(frozen=True)
class Place:
    """Where verbs run, when not here.

    Attributes:
        name: As a sentence calls it.
        trackers: Schemes of MLflow addresses that it can reach.
        secrets: How a password gets there without lying about in the open.
    """

    name: str
    trackers: tuple[str, ...]
    secrets: str


MACHINE = Place(
    "a rented machine",
    ("http", "https"),
    "under [secrets] of LUMOS_CLOUD",
)
DATABRICKS = Place(
    "Databricks",
    ("http", "https", "databricks", "databricks-uc"),
    "as {{secrets/SCOPE/KEY}} in spark_env_vars of databricks.cluster in LUMOS_CLOUD",
)


def verb_environment(
    settings: Settings, cloud: Cloud, place: Place, actor: str, **own: str
) -> dict[str, str]:
    """Variables of a verb: this deployment's, the place's ``own``, and last ``[environment]``.

    Args:
        settings: The deployment's.
        cloud: Likewise.
        place: Where the verb runs.
        actor: Who started the run.
        **own: Variables by name.

    Raises:
        AirflowFailException: The lake or MLflow cannot be reached from there, or a password would
            be written down.
    """
    found = {
        "LUMOS_LAKE": settings.lake,
        "LUMOS_RECIPE": settings.recipe,
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "LUMOS_ACTOR": actor,
        "LUMOS_ALLOWED_RECIPES": ",".join(allowed(settings)),
        **own,
        **cloud.environment,
    }
    if urlsplit(settings.lake).scheme in ("", "file") and "LUMOS_LAKE" not in cloud.environment:
        msg = f"LUMOS_LAKE={settings.lake} is on this host alone; give an s3:// address"
        raise AirflowFailException(msg)
    address = found["MLFLOW_TRACKING_URI"]
    # Here, because DAG files import this module and must parse without numpy.
    from lumos.verbs import BadInput

    try:
        refuse_unencoded("MLFLOW_TRACKING_URI", address)
    except BadInput as error:
        raise AirflowFailException(str(error)) from error
    scheme = address.partition(":")[0]
    # Who names another address in [environment] knows what is there.
    if "MLFLOW_TRACKING_URI" not in cloud.environment and scheme not in place.trackers:
        msg = (
            f"MLFLOW_TRACKING_URI={scheme}:... cannot be reached from {place.name}; "
            "give the http(s):// address of a tracking server"
        )
        raise AirflowFailException(msg)
    if urlsplit(address).password:
        msg = (
            "MLFLOW_TRACKING_URI holds a password, which others could read there: give "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD {place.secrets}"
        )
        raise AirflowFailException(msg)
    return found
