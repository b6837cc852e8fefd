"""Who decided what, when and why: promotions, retractions, erasures, limits that were moved.

A row is written before what it tells of is done: a process that dies between the two leaves a row
too many, never an act without one. Rows are only added. They hold counts, never the id of a user.
"""

import datetime as dt
import os
import pwd

import pyarrow as pa

from lumos.delta import append
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Request

TABLE = "audit"


def enter(request: Request, what: str, why: str) -> None:
    """Add a row to `audit`; ``--reason`` of the request goes before ``why``.

    Args:
        request: Of the verb that is about to do it.
        what: What it does, without the id of a user.
        why: What the verb went by, where nobody gave a reason.
    """
    row = {
        "at": dt.datetime.now(dt.UTC),
        "actor": actor(request.settings),
        "verb": request.verb,
        "recipe": request.recipe.name,
        "what": what,
        "why": request.options.get("reason") or why,
    }
    schema = tables(request.recipe)[TABLE].arrow_schema(request.recipe)
    uri = table_uri(request.settings, request.recipe, TABLE)
    append(uri, pa.Table.from_pylist([row], schema=schema))


def actor(settings: Settings) -> str:
    """Airflow's user of the run where a task gave one, else the system's user."""
    if settings.actor:
        return f"airflow:{settings.actor}"
    try:
        return f"system:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # containers run under ids that have no name
        return f"system:uid {os.getuid()}"
