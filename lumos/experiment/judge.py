"""From sums to what may be said today: effects, looks and advice. Pure: no table, no Spark.

The declaration decides which analysis counts. Until the planned end nothing here is a plain
p-value: the primary metric is held to the bound of its look (:mod:`lumos.experiment.sequential`),
everything else to a confidence sequence, which is true at all looks together. At the end the
secondary metrics get their fixed-horizon intervals, and p-values corrected among themselves;
guardrails are held to the sequence throughout, because somebody acts on them every morning.

Looks are compared on the scale of *relative* effects, so that a metric that grows with the days
(cost since exposure) is one and the same question each morning.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumos.experiment.assignment import bucket_shares
from lumos.experiment.declaration import ADJUSTMENTS, ALL, Experiment
from lumos.experiment.effects import (
    Effect,
    Moments,
    adjusted_p_values,
    compare,
    sample_ratio_p_value,
)
from lumos.experiment.sequential import (
    always_valid_p,
    always_valid_reach,
    bounds,
    crossing,
    spent,
)
from lumos.experiment.sums import FORECAST, Reduced

GROUP_SEQUENTIAL, ALWAYS_VALID, FIXED, NONE = "group_sequential", "always_valid", "fixed", "none"

Row = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """What one experiment's sums say on one business date: rows of ``effects`` and ``looks``.

    ``looks`` is empty on a day that is no look, and for a date that comes after a later look:
    nobody looked then. ``crossed`` names guardrails and treatments.
    """

    srm_p_value: float
    is_split_broken: bool
    effects: Sequence[Row]
    looks: Sequence[Row]
    crossed: Sequence[tuple[str, str]]


def judged(found: Reduced, date: dt.date, earlier: Sequence[Mapping[str, Any]]) -> Judged:
    """Hold the sums to the declaration.

    Args:
        found: The experiment's sums up to the date.
        date: The business date.
        earlier: Rows of ``looks`` of this experiment, of any date.
    """
    experiment = found.experiment
    srm = _split(found)
    is_broken = srm < experiment.srm_alpha
    if found.empty:
        # Lost exposures of a whole variant are a broken split like any other.
        return Judged(srm, is_broken, [], [], [])
    effects: list[Row] = []
    looks: list[Row] = []
    for treatment in experiment.treatments:
        look = _Look.of(found, date, treatment, earlier, is_broken=is_broken)
        effects += _rows(found, date, treatment, srm, look)
        if look is not None and look.is_new:
            looks.append({**look.row(date, srm), "variant": treatment})
    _correct(effects)
    crossed = [
        (row["metric"], row["variant"])
        for row in effects
        if row["role"] == "guardrail" and row["segment"] == ALL and row["is_declared"]
        if _is_harm(row)
    ]
    for look_row in looks:
        look_row["advice"] = _advice(experiment, look_row, crossed, is_broken=is_broken)
    return Judged(srm, is_broken, effects, looks, crossed)


def _split(found: Reduced) -> float:
    """The p of the sample ratio; nobody at all says nothing against it."""
    if not any(found.counts.values()):
        return 1.0
    return sample_ratio_p_value(
        [found.counts[variant.name] for variant in found.experiment.variants],
        [float(share) for share in bucket_shares(found.experiment)],
    )


@dataclass(frozen=True)
class _Look:
    """One look at the primary metric of one treatment."""

    experiment: Experiment
    day: int
    effect: Effect | None
    information: float | None
    alpha_spent: float | None
    bound: float | None
    p_value: float | None
    is_new: bool
    was_crossed: bool

    @classmethod
    def of(
        cls,
        found: Reduced,
        date: dt.date,
        treatment: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        is_broken: bool,
    ) -> "_Look | None":
        """Today's look, with the bound that it had if it was taken before; none on other days."""
        experiment = found.experiment
        day = experiment.day(date)
        ours = sorted(
            (row for row in rows if row["variant"] == treatment), key=lambda row: int(row["day"])
        )
        taken = next((row for row in ours if row["as_of"] == date), None)
        is_late = taken is None and any(row["as_of"] > date for row in ours)
        if day not in experiment.look_days or is_late:
            return None
        effect = None if is_broken else _primary(found, treatment)
        before = [row for row in ours if row["as_of"] < date and row["information"] is not None]
        information = None if effect is None else _information(effect)
        crossed = next((row for row in before if row["is_crossed"]), None)
        if taken is not None:
            return cls(
                experiment, day, effect, taken["information"], taken["alpha_spent"],
                taken["bound"], taken["p_value"], is_new=False, was_crossed=crossed is not None,
            )  # fmt: skip
        if effect is None or information is None:
            return cls(
                experiment, day, effect, None, None, None, None,
                is_new=True, was_crossed=crossed is not None,
            )  # fmt: skip
        known = [*(float(row["information"]) for row in before), information]
        by_now = spent(day / experiment.planned_days, experiment.alpha_each)
        shares = [*(float(row["alpha_spent"]) for row in before), by_now]
        bound = bounds(known, shares)[-1]
        assert effect.error is not None, "information comes from an error"
        reached = [*(float(row["bound"]) for row in before), abs(effect.effect) / effect.error]
        # Whoever has crossed has answered: later looks count what crosses by chance before them.
        p_value = min(1.0, sum(crossing(known, reached))) if crossed is None else crossed["p_value"]
        return cls(
            experiment, day, effect, information, by_now, bound, p_value,
            is_new=True, was_crossed=crossed is not None,
        )  # fmt: skip

    def interval(self, effect: Effect) -> tuple[float | None, float | None]:
        """What the look's bound leaves possible."""
        if self.bound is None or effect.error is None:
            return None, None
        return effect.effect - self.bound * effect.error, effect.effect + self.bound * effect.error

    def row(self, date: dt.date, srm: float) -> Row:
        """Of the table ``looks``, but for variant, advice and inputs."""
        effect = self.effect
        shown = effect is not None and effect.error is not None
        low, high = self.interval(effect) if effect is not None else (None, None)
        crossed = self.was_crossed or (
            effect is not None
            and effect.error is not None
            and self.bound is not None
            and abs(effect.effect) >= self.bound * effect.error
        )
        return {
            "experiment": self.experiment.name,
            "as_of": date,
            "day": self.day,
            "srm_p_value": srm,
            "effect": effect.effect if effect else None,
            "error": effect.error if effect and shown else None,
            "relative": effect.relative if effect else None,
            "information": self.information,
            "low": low,
            "high": high,
            "alpha_spent": self.alpha_spent,
            "bound": self.bound,
            "p_value": self.p_value,
            "is_crossed": crossed,
        }


def _primary(found: Reduced, treatment: str) -> Effect | None:
    """The effect that the looks are about; none while there is nothing to divide by."""
    experiment = found.experiment
    moments = found.moments[experiment.primary.metric][ALL]
    control, treated = moments[experiment.control], moments[treatment]
    if not (control.has_ratio and treated.has_ratio):
        return None
    return compare(
        control,
        treated,
        alpha=experiment.alpha,
        adjust=_covariates(treated, experiment.adjust),
    )


def _information(effect: Effect) -> float | None:
    """1 / relative error²: comparable between days also for a metric that grows with them."""
    if effect.error is None or not effect.control:
        return None
    return (effect.control / effect.error) ** 2


def _covariates(moments: Moments, adjust: str) -> tuple[str, ...]:
    """Those of the adjustment that the metric has: a plain mean has no denominator."""
    return tuple(name for name in ADJUSTMENTS[adjust] if name in moments.names)


def _rows(
    found: Reduced, date: dt.date, treatment: str, srm: float, look: _Look | None
) -> list[Row]:
    experiment = found.experiment
    is_broken = srm < experiment.srm_alpha
    rows = []
    for metric, (role, direction) in experiment.metrics.items():
        for segment, variants in found.moments[metric].items():
            if experiment.control not in variants or treatment not in variants:
                continue
            control, treated = variants[experiment.control], variants[treatment]
            for adjust in _adjustments(experiment, role, segment, treated):
                is_declared = adjust == experiment.adjust
                row = {
                    "experiment": experiment.name,
                    "as_of": date,
                    "metric": metric,
                    "role": role,
                    "direction": direction,
                    "segment": segment,
                    "variant": treatment,
                    "adjust": adjust,
                    "is_declared": is_declared,
                    "num_control": control.num_users,
                    "num_treatment": treated.num_users,
                    "srm_p_value": srm,
                }
                if is_broken or not (control.has_ratio and treated.has_ratio):
                    rows.append({**row, **_HIDDEN})
                    continue
                effect = compare(
                    control,
                    treated,
                    alpha=experiment.alpha,
                    adjust=_covariates(treated, adjust),
                )
                decides = role == "primary" and segment == ALL and is_declared
                shown = _shown(experiment, date, effect, role, look if decides else None)
                rows.append({**row, **shown})
    return rows


def _adjustments(
    experiment: Experiment, role: str, segment: str, moments: Moments
) -> tuple[str, ...]:
    """The declared one; for the primary metric all others beside it, for comparison."""
    if role != "primary" or segment != ALL:
        return (experiment.adjust,)
    has_forecast = FORECAST in moments.names
    return tuple(
        name
        for name, covariates in ADJUSTMENTS.items()
        if has_forecast or FORECAST not in covariates or name == experiment.adjust
    )


_HIDDEN: Row = dict.fromkeys(
    ("control", "treatment", "effect", "error", "relative", "variance_reduction", "low", "high",
     "relative_low", "relative_high", "p_value", "p_adjusted")
) | {"rule": NONE}  # fmt: skip


def _shown(
    experiment: Experiment, date: dt.date, effect: Effect, role: str, look: _Look | None
) -> Row:
    """An effect with the interval and p-value that hold on the date, and the rule they hold by."""
    is_end = experiment.day(date) == experiment.planned_days
    row: Row = {
        **_HIDDEN,
        "control": effect.control,
        "treatment": effect.treatment,
        "effect": effect.effect,
        "error": effect.error,
        "relative": effect.relative,
        "variance_reduction": effect.variance_reduction,
    }
    if look is not None and look.bound is not None:
        low, high = look.interval(effect)
        row |= {"rule": GROUP_SEQUENTIAL, "low": low, "high": high, "p_value": look.p_value}
    elif is_end and role != "guardrail":
        row |= {"rule": FIXED if effect.error else NONE, "low": effect.low, "high": effect.high}
        row["p_value"] = effect.p_value
    elif effect.error and effect.control:
        scale = abs(effect.control)
        tau, error = experiment.minimum_effect, effect.error / scale
        reach = always_valid_reach(error, experiment.alpha, tau) * scale
        row |= {"rule": ALWAYS_VALID, "low": effect.effect - reach, "high": effect.effect + reach}
        row["p_value"] = always_valid_p(effect.effect / scale, error, tau)
    if row["low"] is not None and effect.error and effect.relative_error:
        # As many standard errors as the rule's interval of the difference has.
        reach = (row["high"] - row["low"]) / 2 / effect.error * effect.relative_error
        row["relative_low"], row["relative_high"] = row["relative"] - reach, row["relative"] + reach
    return row


def _correct(rows: Sequence[Row]) -> None:
    """Benjamini and Hochberg among the secondary metrics at the end; the primary stands apart."""
    secondary = [
        row
        for row in rows
        if row["role"] == "secondary" and row["segment"] == ALL and row["rule"] == FIXED
    ]
    found = adjusted_p_values([row["p_value"] for row in secondary])
    for row, p_value in zip(secondary, found, strict=True):
        row["p_adjusted"] = p_value


def _is_harm(row: Row) -> bool:
    """The whole interval lies on the bad side of nothing."""
    if row["low"] is None:
        return False
    return bool(row["low"] > 0 if row["direction"] == "down" else row["high"] < 0)


def _advice(
    experiment: Experiment, look: Row, crossed: Sequence[tuple[str, str]], *, is_broken: bool
) -> str:
    variant, control = look["variant"], experiment.control
    metric, direction = experiment.primary.metric, experiment.primary.direction
    if is_broken:
        return "Stop and mend the split: users are not divided as declared, so no effect is shown."
    harmed = [name for name, treatment in crossed if treatment == variant]
    if harmed:
        return f"Stop {variant} or find out why: {', '.join(harmed)} got worse beyond chance."
    if look["bound"] is None:
        return "Go on: there is no variance between users yet, so nothing can be judged."
    if look["is_crossed"]:
        is_good = (look["effect"] > 0) == (direction == "up")
        word = "better" if is_good else "worse"
        return f"Stop: {variant} is {word} than {control} in {metric}; the bound is crossed."
    if look["day"] == experiment.planned_days:
        return (
            f"Planned end: no difference between {variant} and {control} in {metric} is shown; "
            "the interval says how large one may still be."
        )
    left = experiment.planned_days - look["day"]
    return f"Go on: nothing is decided yet; {left} of {experiment.planned_days} days are left."
