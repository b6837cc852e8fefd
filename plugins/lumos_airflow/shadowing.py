"""The challenger forecasts beside the champion only where there is one to be judged."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException


def skip_without_challenger(context: Mapping[str, Any]) -> None:
    """Before ``shadow`` runs: skip it where it could change nothing.

    Raises:
        AirflowSkipException: The recipe promotes without shadow days, or the run's challenger is
            its champion.
    """
    if not context["task"].request().recipe.evaluation.shadow_days:
        msg = "no shadow run: the recipe's evaluation.shadow_days is 0"
        raise AirflowSkipException(msg)
    pinned = context["ti"].xcom_pull(task_ids="resolve")["details"]
    if pinned["challenger"] in (None, pinned["champion"]):
        msg = f"no shadow run: there is no challenger beside version {pinned['champion']}"
        raise AirflowSkipException(msg)
