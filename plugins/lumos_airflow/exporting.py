"""Published scores go on to stores where the recipe has some, while anybody may use them."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from lumos_airflow.dates import business_date


def skip_without_stores(context: Mapping[str, Any]) -> None:
    """Before ``export`` runs: skip it where there is nothing to hand over, or nowhere.

    A backfill may publish days whose scores have expired by now: no consumer may read those.

    Raises:
        AirflowSkipException: The recipe has no stores, or no valid publication of the date.
    """
    from lumos.serve.manifest import valid_manifest
    from lumos.verbs import BadInput

    request = context["task"].request()
    if not request.recipe.publishing.stores:
        msg = "not exported: the recipe's publishing.stores is empty"
        raise AirflowSkipException(msg)
    try:
        valid_manifest(request.settings, request.recipe, business_date(context))
    except BadInput as nothing:
        raise AirflowSkipException(f"not exported: {nothing}") from nothing
