"""The sentences of findings, and how a day's histogram becomes one: shared by both halves."""

import datetime as dt
import math
from collections.abc import Callable, Mapping

from lumos.monitor.drift import distance, stability
from lumos.monitor.histograms import Histogram, merged
from lumos.monitor.history import FEWEST_DAYS, Limits, usual
from lumos.serve.metrics import Metric

# The least drift that is worth a look: a tenth and a quarter are the customary limits of the
# stability index (Siddiqi 2006); a tenth of the users, or a fifth, with other values.
_DRIFT: Mapping[str, tuple[Callable[[Histogram, Histogram], float | None], Limits]] = {
    "psi": (stability, Limits(0.1, 0.25, "above")),
    "ks": (distance, Limits(0.1, 0.2, "above")),
}


def unknown(name: str, segment: str, why: str) -> Metric:
    """A monitor that cannot compute; ``why`` is a whole clause without a full stop."""
    return Metric(name, None, segment, "unknown", f"{segment}: {name} is unknown: {why}.")


def compared(
    name: str,
    segment: str,
    value: float,
    history: Mapping[dt.date, float],
    *,
    date: dt.date,
    limits: Limits,
    look: str,
    is_log: bool = False,
) -> Metric:
    """A figure against its own past days.

    Args:
        name: Of the monitor.
        segment: What it is about.
        value: The figure of ``date``.
        history: The figure on other days; those before ``date`` count.
        date: The business date.
        limits: The least changes that matter; of a logarithm, if ``is_log``.
        look: What to look at if it is unusual, a clause.
        is_log: Compare logarithms of one more than the figure: counts change by factors.
    """
    scale, back = (math.log1p, math.expm1) if is_log else (float, float)
    found = usual({day: scale(past) for day, past in history.items()}, date)
    if found is None:
        num_past = sum(day < date for day in history)
        why = (
            f"it is {value:.4g}, and there are {num_past} days before {date} to compare it with; "
            f"{FEWEST_DAYS} are needed"
        )
        return Metric(name, value, segment, "unknown", f"{segment}: {name} is unknown: {why}.")
    allowed, _ = found.allowed(limits)
    ends = [
        f"{back(found.centre - allowed):.4g}" if limits.side != "above" else None,
        f"{back(found.centre + allowed):.4g}" if limits.side != "below" else None,
    ]
    low, high = ends
    span = f"{low} to {high}" if low and high else f"at most {high}" if high else f"at least {low}"
    verdict = found.verdict(scale(value), limits)
    message = (
        f"{segment}: {name} is {value:.4g} on {date}; usual is {span}, by "
        f"{found.num_days} days before."
    )
    return Metric(name, value, segment, verdict, message + ("" if verdict == "ok" else f" {look}."))


def drifts(
    prefix: str,
    segment: str,
    today: Histogram,
    past: Mapping[dt.date, Histogram],
    *,
    date: dt.date,
    look: str,
) -> list[Metric]:
    """Both measures of drift of one column: the date against all days before it together.

    What is usual is told by those days themselves, each compared with all of the others.

    Args:
        prefix: Of the monitors' names: ``drift`` or ``prediction``.
        segment: ``table.column``, or a task.
        today: Of the date.
        past: Of the days before it.
        date: The business date.
        look: What to look at if it is unusual.
    """
    together = merged(past.values())
    found = []
    for what, (measure, limits) in _DRIFT.items():
        name = f"{prefix}_{what}"
        value = measure(today, together)
        if value is None:
            why = f"{date} has no value" if not sum(today.values()) else "no day before it has one"
            found.append(unknown(name, segment, why))
            continue
        history = {}
        for day, histogram in past.items():
            others = together.copy()
            others.subtract(histogram)
            of_day = measure(histogram, +others)
            if of_day is not None:
                history[day] = of_day
        found.append(compared(name, segment, value, history, date=date, limits=limits, look=look))
    return found
