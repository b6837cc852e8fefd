"""Is a figure unusual? Its limits come from its own past days, weekday by weekday.

The centre is the median of the same weekday's days, where there are enough; the spread is a robust
standard deviation of all days about the centre of their own weekday. A figure is unusual if it is
several spreads from its centre, and by more than the least change that anybody would act upon.
With too few past days nothing is said at all: the verdict is ``unknown``.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, pstdev
from typing import Literal

FEWEST_DAYS = 14
_FEWEST_OF_A_WEEKDAY = 4
# Chosen on days of Complete Journey before those that `benchmarks.false_alarms` reports on.
_WARNING_SPREADS, _CRITICAL_SPREADS = 5.0, 10.0
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Limits:
    """What a figure may do without anybody caring.

    Attributes:
        warning: The least distance from the centre that is worth a warning.
        critical: The least that is worth a red task.
        side: On which side of the centre something is wrong.
    """

    warning: float
    critical: float
    side: Literal["both", "above", "below"] = "both"


@dataclass(frozen=True)
class Usual:
    """What a figure has been: its centre, its spread and of how many days."""

    centre: float
    spread: float
    num_days: int

    def allowed(self, limits: Limits) -> tuple[float, float]:
        """Distances from the centre beyond which a figure is a warning, and critical."""
        warning = max(_WARNING_SPREADS * self.spread, limits.warning)
        return warning, max(_CRITICAL_SPREADS * self.spread, limits.critical, warning)

    def verdict(self, value: float, limits: Limits) -> Literal["ok", "warning", "critical"]:
        """Never milder for a value that is further out on the same side."""
        away = {
            "above": value - self.centre,
            "below": self.centre - value,
            "both": abs(value - self.centre),
        }[limits.side]
        warning, critical = self.allowed(limits)
        return "critical" if away > critical else "warning" if away > warning else "ok"


def usual(history: Mapping[dt.date, float], date: dt.date) -> Usual | None:
    """What is usual on ``date``, by the days before it; ``None`` if they are too few.

    Days on or after the date are left out, whoever gave them.
    """
    past = {day: value for day, value in history.items() if day < date}
    if len(past) < FEWEST_DAYS:
        return None
    by_weekday: dict[int, list[float]] = {}
    for day, value in past.items():
        by_weekday.setdefault(day.weekday(), []).append(value)
    same = by_weekday.get(date.weekday(), [])
    if len(same) < _FEWEST_OF_A_WEEKDAY:
        centre = median(past.values())
        off = [value - centre for value in past.values()]
    else:
        centre = median(same)
        off = [v - median(vs) for vs in by_weekday.values() for v in vs
               if len(vs) >= _FEWEST_OF_A_WEEKDAY]  # fmt: skip
    spread = _MAD_TO_SIGMA * median(abs(each) for each in off)
    # Bursts (offers come in campaigns) hide from the median deviation.
    return Usual(centre, max(spread, pstdev(off) / 2), len(past))
