"""The business date of a DAG run: one rule for scheduled, hand-triggered and backfilled runs.

``ds`` is not it: a manual run's logical date is the moment of the click, while its data
interval is the last complete one before. The interval's start is right in all three cases.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException
from jinja2 import pass_context

MISSING = (
    "this run has no data interval, so its business date is unknown: trigger it again with the "
    "parameter business_date (YYYY-MM-DD), or with a logical date"
)


def business_date(context: Mapping[str, Any]) -> dt.date:
    """The last observed day that this run works on.

    The parameter ``business_date`` if it is given, else the UTC day on which the data interval
    starts.

    Raises:
        AirflowFailException: Neither is known, or the parameter is no day; a retry cannot help.
    """
    given = context["params"].get("business_date")
    if given:
        try:
            return dt.date.fromisoformat(str(given))
        except ValueError as error:
            msg = f"business_date={given!r} is not a day written as YYYY-MM-DD"
            raise AirflowFailException(msg) from error
    start = context.get("data_interval_start")
    if start is None:
        raise AirflowFailException(MISSING)
    day: dt.date = start.astimezone(dt.UTC).date()
    return day


@pass_context
def macro(context: Mapping[str, Any]) -> str:
    """``{{ business_date() }}`` in a template, so that the UI shows the date a task was given."""
    return business_date(context).isoformat()
