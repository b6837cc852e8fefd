"""What the DAGs share: the form in the UI, the retries, the names in templates."""

import datetime as dt
import os
from typing import Any

from airflow.sdk import Param

from lumos.allowed import allowed
from lumos.overrides import MAX_CHARACTERS, MAX_SETTINGS, PATTERN
from lumos.settings import Settings
from lumos_airflow.alerts import OWNER
from lumos_airflow.dates import macro
from lumos_airflow.notify import TaskDone, TaskFailed, channels, repeat_after

# Before any data, so that every past day can be backfilled.
START = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
MACROS = {"business_date": macro}


def form(**own: Param) -> dict[str, Param]:
    """The parameters of a DAG, a DAG's own between the common ones.

    Raises:
        ValueError: ``LUMOS_ALLOWED_RECIPES`` is wrong: said while the DAG is parsed.
    """
    settings = Settings.from_environment()
    return {
        "business_date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Business date",
            description="Last observed day. Empty: the day on which the data interval starts.",
        ),
        "recipe": Param(
            settings.recipe,
            type="string",
            enum=list(allowed(settings)),
            title="Recipe",
            description="One that this deployment allows.",
        ),
        **own,
        "settings": Param(
            [],
            type=["null", "array"],
            items={"type": "string", "pattern": PATTERN, "maxLength": MAX_CHARACTERS},
            maxItems=MAX_SETTINGS,
            title="Overrides",
            description="One a line, KEY.PATH=VALUE, such as training.epochs=2: of training, "
            "model, scoring and evaluation, and limits of quality and publishing.",
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
