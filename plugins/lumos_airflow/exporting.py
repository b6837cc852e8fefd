"""Published scores go on to stores only where the recipe has some."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException


def skip_without_stores(context: Mapping[str, Any]) -> None:
    """Before ``export`` runs: skip it for a recipe without stores.

    Raises:
        AirflowSkipException: There is nowhere to export to.
    """
    if not context["task"].request().recipe.publishing.stores:
        msg = "not exported: the recipe's publishing.stores is empty"
        raise AirflowSkipException(msg)
