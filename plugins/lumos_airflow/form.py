"""What the DAGs share: the form in the UI, the retries, the names in templates."""

import datetime as dt
import os
import pkgutil
from typing import Any

from airflow.sdk import Param

import lumos.datasets
from lumos.settings import Settings
from lumos_airflow.alerts import OWNER
from lumos_airflow.dates import macro
from lumos_airflow.notify import TaskDone, TaskFailed, channels, repeat_after

# Before any data, so that every past day can be backfilled.
START = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
MACROS = {"business_date": macro}
_RECIPE = r"^([a-z][a-z0-9_]*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
_OVERRIDE = r"^[a-z][a-z0-9_]*(\.[A-Za-z0-9_]+)*=.+$"


def recipe_suggestions() -> list[str]:
    """Names of the shipped recipes, read off the folder: importing one would cost numpy."""
    found = {module.name for module in pkgutil.iter_modules(lumos.datasets.__path__)}
    return sorted(found - {"land"})


def form(**own: Param) -> dict[str, Param]:
    """The parameters of a DAG, a DAG's own between the common ones."""
    return {
        "business_date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Business date",
            description="Last observed day. Empty: the day on which the data interval starts.",
        ),
        "recipe": Param(
            Settings.from_environment().recipe,
            type="string",
            pattern=_RECIPE,
            examples=recipe_suggestions(),
            title="Recipe",
            description="A shipped one, or your own as package.module:function.",
        ),
        **own,
        "settings": Param(
            [],
            type=["null", "array"],
            items={"type": "string", "pattern": _OVERRIDE},
            title="Overrides",
            description="One a line, KEY.PATH=VALUE, such as training.epochs=2.",
        ),
        "force": Param(
            False,
            type="boolean",
            title="Do it again",
            description="Also where the ledger says that the same work was done already.",
        ),
    }


def days(what: str) -> Param:
    """A number of days that end with the business date; empty means the recipe's own."""
    return Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=5000,
        title="Days",
        description=f"{what} Empty: the recipe's late_days.",
    )


def defaults() -> dict[str, Any]:
    """Task arguments: two retries of faults, further and further apart, and then an alert.

    Raises:
        ValueError: An environment variable about alerts is wrong: said while a DAG is parsed.
    """
    channels(), repeat_after()
    seconds = float(os.environ.get("LUMOS_RETRY_SECONDS", "60"))
    return {
        "owner": OWNER,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=seconds),
        "retry_exponential_backoff": True,
        "max_retry_delay": dt.timedelta(seconds=20 * seconds),
        "on_failure_callback": [TaskFailed()],
        "on_success_callback": [TaskDone()],
    }
