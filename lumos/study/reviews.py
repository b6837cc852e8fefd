"""What the tables say of one experiment on one date, and the words for it. No figure, no HTML."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumos import ledger
from lumos.delta import predicate, read
from lumos.experiment.declaration import ADJUSTMENTS, ALL, Experiment
from lumos.experiment.effects import SIMULATED_SPLIT
from lumos.experiment.metrics import load_metric
from lumos.study.pages import day as short_day
from lumos.study.pages import percent, signed
from lumos.study.pinned import metric_rows
from lumos.tables import table_uri
from lumos.verbs import Request

Row = Mapping[str, Any]
RULES: Mapping[str, str] = {
    "group_sequential": "the bound of the look (O'Brien-Fleming), true over all planned looks",
    "always_valid": "true on all mornings together, however often one looks",
    "fixed": "a plain interval, true once, at the planned end",
    "none": "no interval can be given",
}
_TABLES = ("effects", "looks", "outcomes")


@dataclass(frozen=True)
class Verdict:
    """What a manager reads: one sentence, what it is worth, and what is wrong.

    Attributes:
        tone: good | bad | open, which gives the colour.
        headline: The advice and the primary effect.
        standing: Before the planned end: that it is preliminary, and what decides.
        alarms: What turns the task red.
        day: Of the experiment, from 1.
        planned_days: As declared.
    """

    tone: str
    headline: str
    standing: str
    alarms: Sequence[str]
    day: int
    planned_days: int


@dataclass(frozen=True)
class Share:
    """A variant's users, against what the weights ask for."""

    variant: str
    users: int
    expected: float


@dataclass(frozen=True)
class Day:
    """One day of the experiment; ``None`` where `measure` has written no row.

    All maps are by variant. A day on which nobody at all was active is taken for missing data.
    """

    number: int
    date: dt.date
    users: Mapping[str, int | None]
    new: Mapping[str, int | None]
    active: Mapping[str, int | None]

    @property
    def is_missing(self) -> bool:
        """It has no rows, or nobody in any variant was active though somebody could have been."""
        if None in self.users.values():
            return True
        return any(self.users.values()) and not any(self.active.values())

    def share(self, variant: str) -> float:
        """Of the exposed users who were active; NaN where that is not known."""
        users, active = self.users[variant], self.active[variant]
        return math.nan if self.is_missing or not users or active is None else active / users


@dataclass(frozen=True)
class Review:
    """One experiment's rows for a business date, at the versions that the ledger names.

    Attributes:
        experiment: As declared.
        date: The business date.
        effects: Of the date.
        looks: Up to the date, in their order.
        days: From the start to the date, also those without a row.
        checks: What `measure` wrote of the experiment into `metrics`.
        again: The primary effect by date and treatment, as the table has it now.
        versions: Of the tables read; ``None``: the newest, the ledger names none.
        meanings: What each metric counts, by its SELECT's first line.
    """

    experiment: Experiment
    date: dt.date
    effects: Sequence[Row]
    looks: Sequence[Row]
    days: Sequence[Day]
    checks: Sequence[Row]
    again: Mapping[tuple[dt.date, str], float | None]
    versions: Mapping[str, int | None]
    meanings: Mapping[str, str]

    @property
    def day(self) -> int:
        """Of the experiment, from 1."""
        return self.experiment.day(self.date)

    @property
    def srm_p_value(self) -> float:
        """Of a split at least as uneven as this one, had the weights been kept."""
        return min(float(row["srm_p_value"]) for row in self.effects)

    @property
    def is_split_broken(self) -> bool:
        """The sample-ratio check failed: no effect may be shown."""
        return self.srm_p_value < self.experiment.srm_alpha

    @property
    def split(self) -> list[Share]:
        """Users of each variant who count."""
        users: dict[str, int] = {}
        for row in self.primary:
            users |= {
                self.experiment.control: row["num_control"],
                row["variant"]: row["num_treatment"],
            }
        total = sum(users.values())
        return [
            Share(variant.name, users.get(variant.name, 0), variant.weight * total)
            for variant in self.experiment.variants
        ]

    @property
    def main(self) -> list[Row]:
        """The analysis that was declared: every metric over all users."""
        rows = [row for row in self.effects if row["segment"] == ALL and row["is_declared"]]
        order = [*self.experiment.metrics]
        return sorted(rows, key=lambda row: (order.index(row["metric"]), row["variant"]))

    @property
    def primary(self) -> list[Row]:
        """Of these the primary metric, a row for each treatment."""
        return [row for row in self.main if row["role"] == "primary"]

    @property
    def segments(self) -> list[Row]:
        """The primary metric within parts of the users: to explore, not to decide."""
        rows = [
            row
            for row in self.effects
            if row["segment"] != ALL and row["role"] == "primary" and row["is_declared"]
        ]
        return sorted(rows, key=lambda row: (row["variant"], row["segment"]))

    @property
    def precision(self) -> list[Row]:
        """The primary metric by each adjustment, for comparison."""
        rows = [row for row in self.effects if row["segment"] == ALL and row["role"] == "primary"]
        order = [*ADJUSTMENTS]
        return sorted(rows, key=lambda row: (row["variant"], order.index(row["adjust"])))

    @property
    def crossed(self) -> set[tuple[str, str]]:
        """Metric and treatment of every guardrail that `measure` called critical."""
        bad = {row["name"] for row in self.checks if row["verdict"] == "critical"}
        return {
            (row["metric"], row["variant"])
            for row in self.main
            if f"{row['metric']}.{row['variant']}.effect" in bad
        }

    @property
    def alarms(self) -> list[str]:
        """Every critical check of the experiment, in its own words."""
        found = [row["message"] for row in self.checks if row["verdict"] == "critical"]
        if self.is_split_broken and not found:
            found = [f"the split is broken: p {self.srm_p_value:.2g}"]
        return found

    @property
    def warnings(self) -> list[str]:
        """What does not turn the task red, but must be known."""
        found = [row["message"] for row in self.checks if row["verdict"] == "warning"]
        return [SIMULATED_SPLIT, *found] if self.experiment.is_simulated_split else found

    @property
    def late(self) -> list[tuple[Row, float]]:
        """Looks whose effect is another one today, because data came late, and what it is now."""
        found = []
        for look in self.looks:
            now = self.again.get((look["as_of"], look["variant"]))
            shown = look["effect"]
            if now is None or shown is None or math.isclose(now, shown, rel_tol=1e-9):
                continue
            found.append((look, now))
        return found

    @property
    def looks_missed(self) -> list[int]:
        """Numbers of the days up to now whose planned look was not taken."""
        taken = {look["day"] for look in self.looks}
        return [day for day in self.experiment.look_days if day <= self.day and day not in taken]

    @property
    def verdict(self) -> Verdict:
        """In plain words."""
        if self.is_split_broken:
            headline = (
                "The split is broken, so no effect of this experiment can be believed and none "
                "is shown."
            )
            return self._verdict("bad", headline, "Find the lost or doubled users first.")
        told = [f"{self._advice(row['variant'])} {self._effect(row)}" for row in self.primary]
        tone = "bad" if self.alarms else self._tone()
        return self._verdict(tone, " ".join(told), self._standing())

    def _verdict(self, tone: str, headline: str, standing: str) -> Verdict:
        planned = self.experiment.planned_days
        return Verdict(tone, headline, standing, self.alarms, self.day, planned)

    def newest_look(self, variant: str) -> Row | None:
        """The last look at a treatment, today's or an earlier one."""
        return next((row for row in reversed(self.looks) if row["variant"] == variant), None)

    def _advice(self, variant: str) -> str:
        look = self.newest_look(variant)
        if look is None:
            return "No look has been taken yet."
        if look["as_of"] == self.date:
            return str(look["advice"])
        return f"On day {look['day']}, the last look: {look['advice']}"

    def _effect(self, row: Row) -> str:
        metric, variant, control = row["metric"], row["variant"], self.experiment.control
        if row["effect"] is None:
            return f"the effect of {variant} on {metric} is not known."
        if row["relative"] is None:
            shown, ends = signed(row["effect"]), [signed(row[end]) for end in ("low", "high")]
        else:
            shown = percent(row["relative"])
            ends = [percent(row[end]) for end in ("relative_low", "relative_high")]
        text = f"{metric} of {variant} is {shown} against {control}"
        if "-" in ends:
            return f"{text}, with no interval yet."
        level = f"{100 * (1 - self.experiment.alpha):g}%"
        return f"{text} ({level} interval {ends[0]} to {ends[1]})."

    def _tone(self) -> str:
        tones = set()
        for variant in self.experiment.treatments:
            look = self.newest_look(variant)
            if look is not None and look["is_crossed"] and look["effect"] is not None:
                is_up = self.experiment.primary.direction == "up"
                tones.add("good" if (look["effect"] > 0) == is_up else "bad")
        return "bad" if "bad" in tones else "good" if "good" in tones else "open"

    def _standing(self) -> str:
        experiment = self.experiment
        if self.day >= experiment.planned_days:
            return ""
        end = experiment.start + dt.timedelta(days=experiment.planned_days - 1)
        left = [day for day in experiment.look_days if day > self.day]
        looks = f"on day {left[0]}" if len(left) == 1 else f"on days {left[0]} to {left[-1]}"
        if experiment.looks and len(left) > 1:
            looks = f"on days {', '.join(map(str, left[:-1]))} and {left[-1]}"
        text = (
            f"This is preliminary. What decides is {experiment.primary.metric}: its bound at a "
            f"planned look ({looks}), at the latest at the planned end, {short_day(end)}."
        )
        if experiment.stopped_on is not None and self.date >= experiment.stopped_on:
            return (
                f"This is preliminary and stays so: somebody stopped the experiment on day "
                f"{self.day} of {experiment.planned_days}. What would have decided is "
                f"{experiment.primary.metric} at a planned look."
            )
        crossed = [look["day"] for look in self.looks if look["is_crossed"]]
        if crossed:
            text += f" The bound was crossed on day {crossed[0]}, which is enough to stop."
        return text


def reviewed(request: Request, experiment: Experiment) -> Review | None:
    """All that is known of an experiment on the request's date; ``None`` if it was not measured."""
    name, span = experiment.name, (experiment.start, request.date)
    versions = {table: _version(request, table) for table in _TABLES}
    effects = _rows(request, "effects", versions, experiment=name, as_of=span)
    today = [row for row in effects if row["as_of"] == request.date]
    if not today:
        return None
    looks = _rows(request, "looks", versions, experiment=name, as_of=span)
    outcomes = _rows(request, "outcomes", versions, experiment=name, day=span)
    return Review(
        experiment=experiment,
        date=request.date,
        effects=today,
        looks=sorted(looks, key=lambda row: (row["day"], row["variant"])),
        days=_days(experiment, request.date, outcomes),
        checks=measured_figures(request, name),
        again={
            (row["as_of"], row["variant"]): row["effect"]
            for row in effects
            if row["role"] == "primary" and row["segment"] == ALL and row["is_declared"]
        },
        versions=versions,
        meanings={
            metric: load_metric(request.settings, request.recipe, metric).title
            for metric in experiment.metrics
        },
    )


def measured_figures(request: Request, experiment: str) -> list[Row]:
    """What `measure` wrote of the experiment into `metrics` for the request's date."""
    rows = metric_rows(request, "measure", request.date)
    return [row for row in rows if row["segment"] == experiment]


def _version(request: Request, table: str) -> int | None:
    entry = ledger.find(request.settings, request.recipe, table, request.date)
    return entry.version if entry else None


def _rows(
    request: Request,
    table: str,
    versions: Mapping[str, int | None],
    **where: str | tuple[dt.date, dt.date],
) -> list[dict[str, Any]]:
    uri = table_uri(request.settings, request.recipe, table)
    rows = read(uri, version=versions[table], where=predicate(**where))
    return [] if rows is None else list(rows.to_pylist())


def _days(experiment: Experiment, date: dt.date, outcomes: Sequence[Row]) -> list[Day]:
    found = {(row["day"], row["variant"]): row for row in outcomes}
    variants = [variant.name for variant in experiment.variants]
    days = []
    for number in range(1, experiment.day(date) + 1):
        day = experiment.start + dt.timedelta(days=number - 1)
        rows = {name: found.get((day, name), {}) for name in variants}
        users, new, active = (
            {name: row.get(what) for name, row in rows.items()}
            for what in ("num_users", "num_new", "num_active")
        )
        days.append(Day(number, day, users, new, active))
    return days
