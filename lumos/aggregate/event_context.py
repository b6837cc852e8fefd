"""``event_context``: what was known of each day, from when on, so that no forecast sees too much.

A row (day, known_on) is a *revision*: all that is known of ``day`` from ``known_on`` on. A
reader as of D takes, for each day, the latest revision with ``known_on`` <= D.
"""

import datetime as dt
from collections.abc import Iterable

from lumos.aggregate.facts import Days
from lumos.ledger import READY, Entry

# Revisions and registrations of all time before the first covered day belong to the first run.
BEGINNING = dt.date(1970, 1, 1)


def known_days(days: Days, date: dt.date, runs: Iterable[Entry]) -> Days:
    """Days on which something became known, as far as this run answers for them.

    The run that covers the first days of the lake also answers for everything announced
    before them; every other run answers for its own window.

    Args:
        days: The window.
        date: The business date, whose own earlier entry does not count.
        runs: Ledger entries of ``activity``.
    """
    others = (run for run in runs if run.verdict == READY and run.business_date != date)
    is_first = all(run.first_day >= days.first for run in others)
    return Days(BEGINNING, days.last) if is_first else days
