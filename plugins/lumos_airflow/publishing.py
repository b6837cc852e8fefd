"""Publishing never goes back by itself, whoever or whatever started the run.

Pacman reads the newest manifest. A backfill, a cleared task or a mistyped date must not put an
older day on top of it, nor bring back what was taken back on purpose: a business date older than
the newest published one, or whose publication was retracted, is scored, but not published unless
``republish`` is ticked. Publishing the newest date again is harmless: the verb changes nothing that
is already so.
"""

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from lumos_airflow.dates import business_date

REPUBLISH = "{{ params.force or params.republish }}"


def skip_unless_wanted(context: Mapping[str, Any]) -> None:
    """Before ``publish`` runs: skip it, with the reason, where it is not wanted.

    Raises:
        AirflowSkipException: The parameters or the rule above say so.
    """
    # Here, because DAG files import this module and must parse in no time.
    from lumos import stored
    from lumos.serve.manifest import LIVE, RETRACTED, read_manifests, today_in
    from lumos.settings import Settings

    params = context["params"]
    if not params["publish"]:
        msg = "not published: the parameter publish is off"
        raise AirflowSkipException(msg)
    if params["republish"]:
        return
    date, settings = business_date(context), Settings.from_environment()
    try:
        recipe = stored.read(settings, params["recipe"])
    except stored.NotStored:
        return  # so nothing was ever published
    manifests = read_manifests(settings, recipe)
    of_date = [manifest for manifest in manifests if manifest.as_of == date]
    if of_date and of_date[-1].state == RETRACTED:
        msg = (
            f"not published: the scores of {date} were taken back ({of_date[-1].reason}); "
            "to publish them again on purpose, run this date with republish ticked"
        )
        raise AirflowSkipException(msg)
    # One of the future is for the verb to refuse, aloud: it would have every day skipped here.
    today = today_in(recipe)
    live = [m for m in manifests if m.state == LIVE and not m.is_of_the_future(today)]
    if live and live[-1].as_of > date:
        msg = (
            f"not published: {date} is older than {live[-1].as_of}, which is "
            "published already; to go back on purpose, run this date with republish ticked"
        )
        raise AirflowSkipException(msg)
