"""The report's figures, as SVG that takes its colours and its type from the page.

matplotlib draws with stand-in colours, which become CSS variables, so that one figure serves
light and dark. Same data, same bytes: no dates, no random ids. matplotlib is imported when a
figure is drawn, because it costs a second.
"""

import datetime as dt
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lumos.dates import day_number, from_day_number
from lumos.study.curves import Floats, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that nothing else would draw with; the page's style sheet defines the variables.
COLOURS = {
    "ink": "#010101",
    "muted": "#010102",
    "grid": "#010103",
    "first": "#010104",
    "second": "#010105",
    "third": "#010106",
    "paper": "#010107",
    "bad": "#010108",
}
SERIES = ("first", "second", "third", "muted")
# matplotlib types its keys as 300 literals, which no constant of ours can be.
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlecolor": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
}


@dataclass
class Drawing:
    """Axes to draw on, and the SVG once the ``with`` block has ended."""

    axes: "Axes"
    svg: str = ""


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Drawing]:
    """One figure of ``width`` x ``height`` inches; ``name`` makes its inner ids unique."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        drawn = Drawing(axes)
        yield drawn
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn.svg = _for_page(text.getvalue())


def _for_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: [^;\"]*;?", _font_size, svg)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "matplotlib always writes a viewBox"
    svg = f'<svg {box.group()} xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true">{rest}'
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()


def _font_size(found: re.Match[str]) -> str:
    """Keep the size and leave the family to the page."""
    size = re.search(r"[\d.]+px", found.group())
    return f"font-size: {size.group()};" if size else ""


def calibration(name: str, title: str, curves: Mapping[str, Reliability], *, unit: str) -> str:
    """Mean forecast against mean outcome by bin; on the diagonal, forecasts mean what they say."""
    with drawing(name, 3.5, 3.2) as drawn:
        axes = drawn.axes
        top = max(
            float(np.max(np.concatenate([curve.forecast, curve.outcome + curve.half_width])))
            for curve in curves.values()
        )
        limit = min(top * 1.05, 1.02) if unit == "probability" else top * 1.05
        limit = limit or 1.0
        axes.plot([0, limit], [0, limit], color=COLOURS["muted"], linewidth=0.8, linestyle=":")
        for (label, curve), colour in zip(curves.items(), SERIES, strict=False):
            axes.errorbar(
                curve.forecast,
                curve.outcome,
                curve.half_width,
                label=label,
                color=COLOURS[colour],
                marker="o",
                markersize=3.5,
                linewidth=1.2,
                elinewidth=0.8,
                alpha=0.9,
            )
        axes.set(title=title, xlabel=f"forecast ({unit})", ylabel="happened")
        axes.set(xlim=(0, limit), ylim=(0, limit))
        axes.set_aspect("equal")
        axes.grid(visible=True)
        axes.legend(loc="upper left")
    return drawn.svg


def gains(name: str, title: str, share: Floats, found: Floats) -> str:
    """Share of the outcome held by the users with the highest forecasts."""
    with drawing(name, 3.5, 3.0) as drawn:
        axes = drawn.axes
        axes.plot([0, 100], [0, 100], color=COLOURS["muted"], linewidth=0.8, linestyle=":")
        axes.fill_between(share * 100, share * 100, found * 100, color=COLOURS["first"], alpha=0.12)
        axes.plot(share * 100, found * 100, color=COLOURS["first"], linewidth=1.6)
        tenth = float(np.interp(0.1, share, found)) * 100
        axes.plot([10], [tenth], marker="o", markersize=5, color=COLOURS["first"])
        text = f"top 10% hold {tenth:.0f}%\n(lift {tenth / 10:.1f})"
        axes.text(0.97, 0.05, text, transform=axes.transAxes, ha="right", linespacing=1.4)
        axes.set(title=title, xlabel="% of users, highest forecast first", ylabel="% of outcome")
        axes.set(xlim=(0, 100), ylim=(0, 102))
        axes.grid(visible=True)
    return drawn.svg


@dataclass(frozen=True)
class Timeline:
    """One user's past and future: what came, and what had been forecast.

    Args:
        user_id: Whose.
        active: Days with activity.
        windows: First day, last day and forecast chance of a day with activity among them.
        days: Each day's forecast chance of activity.
    """

    user_id: str
    active: Sequence[dt.date]
    windows: Sequence[tuple[dt.date, dt.date, float]]
    days: Mapping[dt.date, float]


def timeline(name: str, line: Timeline, *, first: dt.date, as_of: dt.date, last: dt.date) -> str:
    """Activity as dots above the forecast chances; the dashed line is the end of ``as_of``."""
    half = 0.5  # a day's bar is centred on its number
    with drawing(name, 9.6, 1.5) as drawn:
        axes = drawn.axes
        for start, end, chance in line.windows:
            left, right = day_number(start) - half, day_number(end) + half
            axes.bar(
                [left],
                [chance],
                right - left - 0.15,
                align="edge",
                color=COLOURS["second"],
                alpha=0.22,
                linewidth=0,
            )
            middle = (left + right) / 2
            axes.text(middle, 0.05, f"{chance:.0%}", ha="center", color=COLOURS["second"])
        days = [day_number(day) for day in line.days]
        axes.bar(days, list(line.days.values()), 0.62, color=COLOURS["first"], linewidth=0)
        came = [day_number(day) for day in line.active if first <= day <= last]
        axes.plot(came, [1.12] * len(came), "o", markersize=4.5, color=COLOURS["ink"])
        axes.axvline(day_number(as_of) + half, color=COLOURS["muted"], linestyle="--")
        axes.set(xlim=(day_number(first) - half, day_number(last) + half), ylim=(0, 1.25))
        axes.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
        _day_ticks(axes, as_of, first, last, every=7)
        axes.grid(visible=True, axis="y")
    return drawn.svg


def _day_ticks(axes: "Axes", anchor: dt.date, first: dt.date, last: dt.date, *, every: int) -> None:
    """Label ``anchor`` and each ``every``-th day before and after it."""
    numbers = [
        number
        for number in range(day_number(first), day_number(last) + 1)
        if (number - day_number(anchor)) % every == 0
    ]
    axes.set_xticks(numbers, [f"{from_day_number(number):%-d %b}" for number in numbers])
