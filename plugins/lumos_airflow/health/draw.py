"""Small pictures as SVG and as places on a line. Pure; every text in them is escaped."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from lumos_airflow.health.facts import Chain, Step

_WIDTH, _HEIGHT = 240, 44


@dataclass(frozen=True)
class Bar:
    """Where a step lies on its track, in percent."""

    left: float
    width: float


@dataclass(frozen=True)
class Track:
    """The line of time of a chain: from the first start to now or the last end."""

    first: dt.datetime
    last: dt.datetime
    due: float | None

    def bar(self, step: Step) -> Bar | None:
        """Where the step was; none before it has started, or in another night."""
        if step.started is None:
            return None
        seconds = (self.last - self.first).total_seconds()
        left = 100 * (step.started - self.first).total_seconds() / seconds
        ended = step.ended or self.last
        width = 100 * (ended - step.started).total_seconds() / seconds
        if left < -0.1 or left > 100:
            return None
        # A step of a second in a night of hours must still be seen.
        return Bar(round(min(left, 99), 2), round(min(max(width, 1.0), 100 - left), 2))


def track(chain: Chain) -> Track | None:
    """A common line for the runs of the newest date; none before anything has started."""
    dates = [run.business_date for run in chain.runs if run.business_date]
    runs = [run for run in chain.runs if dates and run.business_date == max(dates)]
    steps = [step for run in runs for step in run.steps if step.started]
    if not steps or chain.read is None:
        return None
    first = min(step.started for step in steps if step.started)
    last = max(step.ended or chain.read for step in steps)
    due = min((run.due for run in runs if run.due), default=None)
    if due is not None and first <= due:
        last = max(last, due)
    last = max(last, first + dt.timedelta(seconds=1))
    share = (due - first) / (last - first) if due else None
    return Track(first, last, round(100 * share, 2) if share is not None and share >= 0 else None)


def spark(values: Sequence[float], label: str) -> Markup:
    """A line through the values, the last one marked."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (_WIDTH - 12) / max(1, len(values) - 1)
    points = [
        (6 + number * step, 6 + (_HEIGHT - 12) * (1 - (value - low) / span))
        for number, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return _svg(
        label,
        f'<polyline points="{line}" fill="none" stroke="var(--first)" stroke-width="2"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--first)"/>',
    )


def bars(values: Sequence[int], titles: Sequence[str]) -> Markup:
    """A bar a value, from zero."""
    high = max(values, default=0) or 1
    width = _WIDTH / max(1, len(values))
    drawn = "".join(
        f'<rect x="{number * width:.2f}" y="{_HEIGHT * (1 - value / high):.2f}" '
        f'width="{max(0.5, width - 0.6):.2f}" height="{_HEIGHT * value / high:.2f}" '
        f'fill="var(--first)"><title>{escape(title)}</title></rect>'
        for number, (value, title) in enumerate(zip(values, titles, strict=True))
    )
    return _svg(f"{len(values)} entries, the highest has {high:,} rows", drawn)


def _svg(label: str, drawn: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{drawn}</svg>"
    )
