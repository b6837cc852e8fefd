"""The verb ``review``: one HTML page an experiment and date, and an alarm where one is due.

The pages are written first and the alarm is raised last, so that whoever sees a red task has
the page that says why. What is an alarm was settled by `measure`: nothing is judged here.
"""

import datetime as dt
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumos.experiment.declaration import Experiment, declared, nothing_runs, running
from lumos.experiment.faults import Faults
from lumos.study import experiment_plots as plots
from lumos.study import pages
from lumos.study.reviews import RULES, Review, Row, measured_figures, reviewed
from lumos.verbs import BadInput, GateRefused, Report, Request

_Figures = list[tuple[str, str]]


def review(request: Request) -> Report:
    """Write a page for each running experiment, and the page that lists all; paths in the details.

    Raises:
        BadInput: An unknown experiment, or one that was not measured on the date. It is raised
            when the pages of all others are written.
        GateRefused: A split is broken or a guardrail crossed. The pages are written.
    """
    written: dict[str, str] = {}
    alarms: list[str] = []
    notes: list[str] = []
    faults = Faults()
    for experiment in running(request, faults):
        found = reviewed(request, experiment)
        if found is None:
            said = measured_figures(request, experiment.name)
            if not said:
                msg = (
                    f"experiment {experiment.name} of recipe {request.recipe.name} was not "
                    f"measured on {request.date}. Run lumos measure --date {request.date}"
                )
                faults.keep(BadInput(msg))
            # It was measured, but a variant has no users yet: there is no effect to show.
            for verdict, to in (("critical", alarms), ("warning", notes)):
                to += [
                    f"experiment {experiment.name}: {row['message']}"
                    for row in said
                    if row["verdict"] == verdict
                ]
            continue
        path = page_path(request, experiment.name)
        pages.write(path, pages.render("experiment.html.j2", _context(request, found)))
        written[experiment.name] = str(path)
        if found.alarms:
            alarms.append(f"experiment {experiment.name}: {'; '.join(found.alarms)} (see {path})")
    index = folder(request) / "index.html"
    pages.write(index, pages.render("experiments.html.j2", _listed(request)))
    if alarms:
        raise GateRefused("; ".join(alarms))
    faults.refuse(list(written))
    details: dict[str, Any] = {"pages": written, "index": str(index), "notes": notes}
    if not written and not notes:
        details["note"] = nothing_runs(request)
    return request.report(details=details)


def folder(request: Request) -> Path:
    """Where the recipe's pages about experiments lie."""
    return request.settings.home / "reports" / request.recipe.name / "experiments"


def page_path(request: Request, name: str) -> Path:
    """The page of an experiment for the request's date."""
    return folder(request) / name / request.date.isoformat() / "index.html"


def _listed(request: Request) -> dict[str, Any]:
    """Each declared experiment, the newest first, with what its newest page says."""
    known = declared(request.settings, request.recipe, Faults())
    listed = [_newest(request, experiment) for experiment in known]
    listed.sort(key=lambda item: (item["experiment"].start, item["experiment"].name), reverse=True)
    return {"recipe": request.recipe, "experiments": listed}


def _newest(request: Request, experiment: Experiment) -> dict[str, Any]:
    found = sorted((folder(request) / experiment.name).glob("*-*-*/index.html"))
    if not found:
        return {"experiment": experiment, "date": None, "page": "", "verdict": None}
    date = dt.date.fromisoformat(found[-1].parent.name)
    told = reviewed(request.model_copy(update={"date": date}), experiment)
    return {
        "experiment": experiment,
        "date": date,
        "page": found[-1].relative_to(folder(request)).as_posix(),
        "verdict": told and told.verdict,
    }


def _context(request: Request, found: Review) -> dict[str, Any]:
    experiment = found.experiment
    context: dict[str, Any] = {
        "recipe": request.recipe,
        "date": request.date,
        "experiment": experiment,
        "review": found,
        "verdict": found.verdict,
        "tiles": _tiles(found),
        "rules": RULES,
        "planned_end": experiment.start + dt.timedelta(days=experiment.planned_days - 1),
        "level": f"{100 * (1 - experiment.alpha):g}%",
        "exposed": _exposure_figures(found),
    }
    if found.is_split_broken:
        # A broken split must not be read by anybody: there is nothing for the template to show.
        return context
    return context | {
        "course": _course_figures(found),
        "daily": _daily_figures(found),
        "metrics": _forest(found, "metrics", [(row["metric"], row) for row in found.main]),
        "precision": _precision_figures(found),
        "segments": _forest(found, "segments", [(row["segment"], row) for row in found.segments]),
    }


def _tiles(found: Review) -> list[tuple[str, str, str]]:
    """Number, what it counts, and a remark."""
    experiment = found.experiment
    users = sum(share.users for share in found.split)
    split = " / ".join(f"{share.users:,}" for share in found.split)
    tiles = [
        (f"{users:,}", "users who count", split),
        (f"{found.srm_p_value:.2g}", "p of the split", f"alarm below {experiment.srm_alpha:g}"),
    ]
    if found.is_split_broken:
        return tiles
    shown = []
    for row in found.primary:
        ends = f"{pages.percent(row['relative_low'])} to {pages.percent(row['relative_high'])}"
        has_ends = row["relative_low"] is not None
        remark = f"interval {ends}" if has_ends else "no interval yet"
        shown.append((pages.percent(row["relative"]), f"{row['metric']}, {row['variant']}", remark))
    num_guardrails = len([row for row in found.main if row["role"] == "guardrail"])
    if num_guardrails:
        text = f"{len(found.crossed)} of {num_guardrails}"
        tiles.append((text, "guardrails crossed", "a whole interval on the bad side"))
    return shown + tiles


def _by_treatment(found: Review, rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {
        name: [row for row in rows if row["variant"] == name]
        for name in found.experiment.treatments
    }


def _course_figures(found: Review) -> _Figures:
    """The primary metric, look by look."""
    if not any(look["effect"] is not None for look in found.looks):
        return []
    experiment, metric = found.experiment, found.experiment.primary.metric
    looks = _by_treatment(found, found.looks)
    control = found.primary[0]["control"]
    sign = 1 if experiment.primary.direction == "up" else -1
    worth = None if control is None else sign * experiment.minimum_effect * abs(control)
    effect = plots.cumulative(
        f"cumulative-{experiment.name}",
        looks,
        metric=metric,
        planned_days=experiment.planned_days,
        worth=worth,
    )
    told = [_last_look(row) for name in looks if (row := found.newest_look(name))]
    text = (
        f"Effect on {metric} at each look; early intervals reach beyond the frame. {' '.join(told)}"
    )
    bounds = plots.bounds(f"bounds-{experiment.name}", looks, planned_days=experiment.planned_days)
    crossed = sorted({row["day"] for row in found.looks if row["is_crossed"]})
    fate = f"The bound was crossed on day {crossed[0]}." if crossed else "It was not crossed."
    return [
        (effect, text),
        (
            bounds,
            f"The effect over its standard error, against the bound of each look; "
            f"early bounds lie above the frame. {fate}",
        ),
    ]


def _last_look(row: Row) -> str:
    ends = f"{pages.signed(row['low'])} to {pages.signed(row['high'])}"
    return f"{row['variant']} on day {row['day']}: {pages.signed(row['effect'])} ({ends})."


def _exposure_figures(found: Review) -> _Figures:
    """Who came in; and, while the split holds, who was active."""
    name, days = found.experiment.name, found.days
    variants = [variant.name for variant in found.experiment.variants]
    if not any(value is not None for day in days for value in day.users.values()):
        return []

    def count(what: str) -> dict[str, list[float]]:
        return {
            variant: [
                math.nan if (value := getattr(day, what)[variant]) is None else float(value)
                for day in days
            ]
            for variant in variants
        }

    last = days[-1]
    now = ", ".join(f"{variant} {last.users[variant] or 0:,}" for variant in variants)
    figures = [
        (
            plots.by_day(f"users-{name}", "exposed so far", days, count("users")),
            f"Users exposed by each day; on the last: {now}.",
        ),
        (
            plots.by_day(f"new-{name}", "newly exposed", days, count("new")),
            "Users who were exposed on the day itself.",
        ),
    ]
    if not found.is_split_broken:
        text = "Exposed users who were active on the day."
        missing = [str(day.number) for day in days if day.is_missing]
        if missing:
            text += f" Missing data is shaded: day {', '.join(missing)}."
        figures.append((plots.by_day(f"active-{name}", "active", days, count("active")), text))
    return figures


def _daily_figures(found: Review) -> _Figures:
    """Does the effect wear off?"""
    name, days, control = found.experiment.name, found.days, found.experiment.control
    variants = [variant.name for variant in found.experiment.variants]
    shares = {variant: [day.share(variant) for day in days] for variant in variants}
    apart = {
        treatment: np.array(shares[treatment]) - np.array(shares[control])
        for treatment in found.experiment.treatments
    }
    if not any(np.isfinite(values).any() for values in apart.values()):
        return []
    told = []
    half = len(days) // 2
    for treatment, values in apart.items():
        early, late = (part[np.isfinite(part)] for part in (values[:half], values[half:]))
        if early.size and late.size:
            ends = [pages.signed(round(100 * float(part.mean()), 2)) for part in (early, late)]
            told.append(
                f"{treatment}: {ends[0]} points in the first half, {ends[1]} in the second."
            )
    return [
        (
            plots.by_day(f"share-{name}", "share active", days, shares, form="{x:.0%}", width=5.2),
            "Share of the users exposed by then who were active on each day.",
        ),
        (
            plots.difference(f"difference-{name}", f"share active, less {control}", days, apart),
            f"Each day alone, and the mean of either half. {' '.join(told)}",
        ),
    ]


def _forest(found: Review, what: str, rows: Sequence[tuple[str, Row]]) -> _Figures:
    several = len(found.experiment.treatments) > 1
    drawn = [
        (f"{label}, {row['variant']}" if several else label, row)
        for label, row in rows
        if row["relative"] is not None and row["relative_low"] is not None
    ]
    if not drawn:
        return []
    title = f"relative effect against {found.experiment.control}"
    if what == "segments":
        title = f"{found.experiment.primary.metric}: {title}"
    text = "Relative effects with their intervals; grey ones contain no effect."
    return [(plots.forest(f"{what}-{found.experiment.name}", title, drawn), text)]


def _precision_figures(found: Review) -> _Figures:
    several = len(found.experiment.treatments) > 1
    rows = [
        (
            f"{row['adjust']}, {row['variant']}" if several else str(row["adjust"]),
            float(row["variance_reduction"] or 0.0),
            bool(row["is_declared"]),
        )
        for row in found.precision
        if row["effect"] is not None
    ]
    if not rows:
        return []
    told = "; ".join(f"{label} {share:.0%}" for label, share, _ in rows)
    text = f"Variance of the effect that each adjustment takes away: {told}."
    return [(plots.precision(f"precision-{found.experiment.name}", rows), text)]
