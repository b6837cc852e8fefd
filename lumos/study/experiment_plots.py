"""Figures of an experiment's page; see :mod:`lumos.study.plots` for how they get their colours."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from lumos.study.curves import Floats
from lumos.study.plots import COLOURS, drawing
from lumos.study.reviews import Day, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DAY = "day of the experiment"
_CONTROL, _TREATMENTS = "muted", ("first", "second", "third")


def _by_day(looks: Sequence[Row], what: str, planned_days: int) -> Floats:
    """(planned_days,), NaN on every day without a look."""
    found = np.full(planned_days, np.nan)
    for look in looks:
        if look[what] is not None:
            found[look["day"] - 1] = look[what]
    return found


def _of_days(axes: "Axes", planned_days: int) -> Floats:
    """Limits and ticks of an axis of days; returns their numbers."""
    axes.set(xlim=(0.5, planned_days + 0.5), xlabel=_DAY)
    step = 7 if planned_days > 10 else 1
    while planned_days / step > 8:
        step *= 2
    ticks = [1, *range(step, planned_days + 1, step)] if step > 1 else range(1, planned_days + 1)
    axes.set_xticks(list(ticks))
    axes.grid(visible=True, axis="y")
    return np.arange(1, planned_days + 1, dtype=np.float64)


def _legend(axes: "Axes") -> None:
    """Beside the title, where no line can be below it."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2,
                handlelength=1.4, columnspacing=1.2)  # fmt: skip


def cumulative(
    name: str,
    looks: Mapping[str, Sequence[Row]],
    *,
    metric: str,
    planned_days: int,
    worth: float | None,
) -> str:
    """The primary effect at each look by treatment, within what the look's bound leaves possible.

    A morning without a look is a gap. ``worth`` is the effect that is worth finding.
    """
    with drawing(name, 5.2, 3.1) as drawn:
        axes = drawn.axes
        days = _of_days(axes, planned_days)
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.9)
        if worth is not None:
            axes.axhline(worth, color=COLOURS["third"], linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "worth finding",
                (planned_days + 0.4, worth),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=COLOURS["third"],
            )
        for (variant, rows), colour in zip(looks.items(), cycle(_TREATMENTS), strict=False):
            low, middle, high = (
                _by_day(rows, what, planned_days) for what in ("low", "effect", "high")
            )
            paint = COLOURS[colour]
            axes.fill_between(days, low, high, color=paint, alpha=0.16, linewidth=0)
            axes.vlines(days, low, high, color=paint, alpha=0.35, linewidth=0.9)
            axes.plot(days, middle, color=paint, linewidth=1.6, marker="o", markersize=3.5,
                      label=variant)  # fmt: skip
        axes.set(title=f"effect on {metric} since the start", ylim=_later_reach(looks, worth))
        if len(looks) > 1:
            _legend(axes)
    return drawn.svg


def _later_reach(looks: Mapping[str, Sequence[Row]], worth: float | None) -> tuple[float, float]:
    """Limits for the later half of the looks: the first intervals would flatten all the rest."""
    ends = [0.0, worth or 0.0]
    for rows in looks.values():
        ends += [row["effect"] for row in rows if row["effect"] is not None]
        for row in rows[len(rows) // 2 :]:
            ends += [row[what] for what in ("low", "high") if row[what] is not None]
    margin = 0.15 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def bounds(name: str, looks: Mapping[str, Sequence[Row]], *, planned_days: int) -> str:
    """How many standard errors the effect was from nothing, against what it had to reach."""
    with drawing(name, 5.2, 3.1) as drawn:
        axes = drawn.axes
        days = _of_days(axes, planned_days)
        top = 0.0
        for (variant, rows), colour in zip(looks.items(), cycle(_TREATMENTS), strict=False):
            bound = _by_day(rows, "bound", planned_days)
            z = np.abs(_by_day(rows, "effect", planned_days))
            z = z / _by_day(rows, "error", planned_days)
            axes.plot(days, bound, color=COLOURS["ink"], linewidth=1.4, marker="_",
                      markersize=7, linestyle=(0, (4, 2)))  # fmt: skip
            axes.plot(days, z, color=COLOURS[colour], linewidth=1.6, marker="o", markersize=3.5,
                      label=variant)  # fmt: skip
            (known,) = np.nonzero(np.isfinite(z) & np.isfinite(bound))
            if known.size:
                last = known[-1]
                top = max(top, float(z[known].max()), float(bound[known].min()))
                axes.annotate("bound", (days[last], bound[last]), xytext=(6, 0),
                              textcoords="offset points", va="center",
                              color=COLOURS["ink"], annotation_clip=True)  # fmt: skip
        # The first bounds of many are so high that they would flatten all the rest.
        axes.set_ylim(0, max(4.5, 1.25 * top))
        axes.set(title="distance from no effect, in standard errors")
        if len(looks) > 1:
            _legend(axes)
    return drawn.svg


def by_day(
    name: str,
    title: str,
    days: Sequence[Day],
    series: Mapping[str, Sequence[float]],
    *,
    form: str = "{x:,.0f}",
    width: float = 3.7,
) -> str:
    """A line per variant, the control first; days that are taken for missing data are shaded."""
    with drawing(name, width, 2.5) as drawn:
        axes = drawn.axes
        numbers = _of_days(axes, len(days))
        colours = chain([_CONTROL], cycle(_TREATMENTS))
        for (label, values), colour in zip(series.items(), colours, strict=False):
            axes.plot(numbers, values, label=label, color=COLOURS[colour], linewidth=1.5,
                      marker="o", markersize=2.5)  # fmt: skip
        _shade_missing(axes, days)
        axes.set(title=title)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(form)
        _legend(axes)
    return drawn.svg


def _shade_missing(axes: "Axes", days: Sequence[Day]) -> None:
    for day in days:
        if day.is_missing:
            axes.axvspan(day.number - 0.5, day.number + 0.5, color=COLOURS["bad"], alpha=0.18,
                         linewidth=0)  # fmt: skip


def difference(
    name: str, title: str, days: Sequence[Day], differences: Mapping[str, Floats]
) -> str:
    """Treatment less control on each day alone, and the means of the first and second half."""
    with drawing(name, 5.2, 2.5) as drawn:
        axes = drawn.axes
        numbers = _of_days(axes, len(days))
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.9)
        half = len(days) // 2
        for (label, values), colour in zip(differences.items(), cycle(_TREATMENTS), strict=False):
            axes.plot(numbers, values * 100, "o", markersize=3, color=COLOURS[colour], label=label)
            for part in (slice(0, half), slice(half, None)):
                if np.isfinite(values[part]).any():
                    mean = float(np.nanmean(values[part])) * 100
                    axes.plot(
                        [numbers[part][0] - 0.4, numbers[part][-1] + 0.4],
                        [mean, mean],
                        color=COLOURS[colour],
                        linewidth=2,
                        alpha=0.55,
                    )
        _shade_missing(axes, days)
        axes.set(title=title, ylabel="percentage points")
        if len(differences) > 1:
            _legend(axes)
    return drawn.svg


def forest(name: str, title: str, rows: Sequence[tuple[str, Row]]) -> str:
    """Relative effects with their intervals, in percent; the line at 0 is no effect."""
    with drawing(name, 5.2, 0.8 + 0.36 * len(rows)) as drawn:
        axes = drawn.axes
        axes.axvline(0, color=COLOURS["muted"], linewidth=0.9)
        places = np.arange(len(rows))[::-1]
        for place, (_, row) in zip(places, rows, strict=True):
            middle, low, high = (
                100 * row[what] for what in ("relative", "relative_low", "relative_high")
            )
            paint = COLOURS["first" if low > 0 or high < 0 else "muted"]
            axes.hlines(place, low, high, color=paint, linewidth=2)
            axes.plot([middle], [place], "o", markersize=5.5, color=paint)
        axes.set(title=title, ylim=(-0.6, len(rows) - 0.4))
        axes.set_yticks(places, [label for label, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(_percent_tick())
        axes.grid(visible=True, axis="x")
        axes.spines["left"].set_visible(False)
    return drawn.svg


def _percent_tick() -> Callable[[float, Any], str]:
    return lambda value, _: f"{value:+g}%".replace("-", "\N{MINUS SIGN}").replace("+0%", "0%")


def precision(name: str, rows: Sequence[tuple[str, float, bool]]) -> str:
    """Share of the variance that each adjustment takes away; the declared one is in colour."""
    with drawing(name, 5.2, 0.7 + 0.36 * len(rows)) as drawn:
        axes = drawn.axes
        places = np.arange(len(rows))[::-1]
        for place, (_, share, is_declared) in zip(places, rows, strict=True):
            paint = COLOURS["first" if is_declared else "muted"]
            axes.barh([place], [100 * share], 0.55, color=paint, alpha=1 if is_declared else 0.5)
            axes.annotate(f"{share:.0%}", (max(100 * share, 0), place), xytext=(5, 0),
                          textcoords="offset points", va="center")  # fmt: skip
        axes.set_yticks(places, [label for label, _, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.set(title="variance taken away, %", xlim=(min(0, *(100 * r[1] for r in rows)), 100))
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
    return drawn.svg
