"""Publishing never goes back in time by itself, whoever or whatever started the run.

Pacman reads the newest manifest. A backfill, a cleared task or a mistyped date must not put an
older day on top of it, so the one rule is: a business date older than the newest published one
is scored, but not published unless ``republish`` is ticked. Publishing the newest date again is
harmless: the verb changes nothing that is already so.
"""

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from lumos_airflow.dates import business_date


def skip_unless_wanted(context: Mapping[str, Any]) -> None:
    """Before ``publish`` runs: skip it, with the reason, where it is not wanted.

    Raises:
        AirflowSkipException: The parameters or the rule above say so.
    """
    # Here, because DAG files import this module and must parse in no time.
    from lumos import ledger
    from lumos.recipes import load
    from lumos.settings import Settings

    params = context["params"]
    if not params["publish"]:
        msg = "not published: the parameter publish is off"
        raise AirflowSkipException(msg)
    if params["republish"]:
        return
    date = business_date(context)
    published = ledger.entries(Settings.from_environment(), load(params["recipe"]), "manifests")
    if published and published[-1].business_date > date:
        msg = (
            f"not published: {date} is older than {published[-1].business_date}, which is "
            "published already; to go back on purpose, run this date with republish ticked"
        )
        raise AirflowSkipException(msg)
