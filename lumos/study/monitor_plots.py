"""Figures of the monitors' page; see :mod:`lumos.study.plots` for how they get their colours."""

import datetime as dt
from collections.abc import Mapping
from itertools import cycle

import numpy as np

from lumos.monitor.histograms import Histogram
from lumos.study.plots import COLOURS, SERIES, drawing

_MOST_TICKS = 6


def histograms(name: str, today: Histogram, before: Histogram, labels: Mapping[int, str]) -> str:
    """A column's values on the date (bars) and on the days before it (line), as shares.

    Bins that nobody is in, on neither, are left out between those that somebody is in.
    """
    order = sorted({*today, *before})
    x = np.arange(len(order))
    shares = [
        np.array([each.get(number, 0) for number in order]) / max(1, sum(each.values()))
        for each in (today, before)
    ]
    with drawing(name, 4.2, 2.4) as drawn:
        axes = drawn.axes
        axes.bar(x, shares[0], width=0.9, color=COLOURS["first"], alpha=0.55, label="the day")
        axes.step(x, shares[1], where="mid", color=COLOURS["second"], label="days before")
        every = max(1, -(-len(order) // _MOST_TICKS))
        ticks = list(range(0, len(order), every))
        axes.set_xticks(ticks, [labels[order[tick]] for tick in ticks])
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel(name.removeprefix("drift-"))
        axes.legend(loc="upper right")
    return drawn.svg


def course(name: str, tasks: Mapping[str, Mapping[dt.date, float]]) -> str:
    """One figure over the weeks, a line a task; a morning without one is a gap."""
    with drawing(f"course-{name}", 5.2, 2.6) as drawn:
        axes = drawn.axes
        days = [day for values in tasks.values() for day in values]
        first, last = min(days), max(days)
        span = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
        colours, styles = cycle(SERIES), cycle("-" * len(SERIES) + ":" * len(SERIES))
        for task, values in sorted(tasks.items()):
            y = [values.get(day, np.nan) for day in span]
            axes.plot(
                range(len(span)), y, next(styles), marker=".", color=COLOURS[next(colours)],
                label=task,
            )  # fmt: skip
        every = max(1, -(-len(span) // _MOST_TICKS))
        ticks = list(range(0, len(span), every))
        axes.set_xticks(ticks, [f"{span[tick].day} {span[tick]:%b}" for tick in ticks])
        axes.grid(visible=True, axis="y")
        axes.set_ylabel(name)
        axes.legend(loc="best", fontsize=8)
    return drawn.svg
