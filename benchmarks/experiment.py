"""Do tests of experiments keep their promises on real shoppers, whose truth is known?

Complete Journey, 18 days from 2017-11-20 on, all households; the covariates are the 28 days before
and what the forecaster said on the day before (it learned from labels up to October 7).

*A/A*: households are split by chance 2,000 times and nobody is treated. Each analysis may find an
effect in 5% of the splits, to within the binomial 99% range, and its p-values have to be uniform.
Beside it stands what looking at a plain p-value on each of the 18 mornings finds. *A/B*: the
households are the population, from which 1,000 experiments draw with replacement, with a known
true effect (:func:`lumos.experiment.simulate.treated`); its 95% intervals have to hold the truth as
often, and the planned power has to be found. Seeds are those of the first run.

    python -m benchmarks.experiment [--replays 2000] [--experiments 1000]
"""

import argparse
import dataclasses
import datetime as dt
import json
import sys
import time
from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import accuracy
from benchmarks._trained import trained_forecaster
from lumos import ledger
from lumos.dates import day_number
from lumos.experiment.declaration import ADJUSTMENTS, Experiment, declared
from lumos.experiment.history import past
from lumos.experiment.plan import Plan
from lumos.experiment.sequential import bounds, spent
from lumos.experiment.simulate import (
    Found,
    History,
    Rate,
    always_valid,
    at_the_end,
    draw,
    group_sequential,
    peeking,
    rate,
    replays,
    split,
    treated,
    true_effect,
    uniform_p,
)
from lumos.experiment.sums import FORECAST
from lumos.experiment.views import pinned_views
from lumos.tasks import task_scores
from lumos.train.predict import forecast
from lumos.verbs import Request

START, DAYS = dt.date(2017, 11, 20), 18
TASK = "shop_28d"
MEAN, AMOUNT, RATIO = "dau", "offer_cost", "offer_cost_per_active_user"
HALVES = (0.5, 0.5)
ALPHA, EFFECT, SEED = 0.05, 0.05, 0
LOOKS = range(1, DAYS + 1)
OWN_BOUNDS = 50  # replays of which each is held to its own bounds too
_SHOWN = Console(width=120)


def main() -> int:
    """Print the tables and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.experiment", description=__doc__.split("\n")[0])
    made.add_argument("--replays", type=int, default=2000)
    made.add_argument("--experiments", type=int, default=1000)
    arguments = made.parse_args()
    experiment, metrics = histories()
    started = time.monotonic()
    figures = among_equals(metrics, arguments.replays, experiment.minimum_effect)
    figures |= with_effect(metrics, arguments.experiments)
    figures |= planned(metrics[MEAN], arguments.experiments)
    figures |= {"users": metrics[MEAN].num_users, "seconds": round(time.monotonic() - started)}
    print(json.dumps(figures))
    return 0


def histories() -> tuple[Experiment, Mapping[str, History]]:
    """The metrics of the declared experiment, with both covariates."""
    given = accuracy.data()
    end = START + dt.timedelta(days=DAYS - 1)
    request = Request(verb="replay", recipe=given.recipe, date=end, settings=given.settings)
    (shipped,) = declared(given.settings, given.recipe)
    experiment = shipped.model_copy(update={"planned_days": DAYS})
    versions = {
        name: ledger.require(given.settings, given.recipe, name, accuracy.AS_OF, remedy="").version
        for name in ("activity", "users")
    }
    with pinned_views(request, versions) as spark:
        found = past(spark, request, experiment, names=(MEAN, AMOUNT, RATIO), num_days=DAYS)
    said = forecasts(given)
    foretold = np.array([said[user] for user in found.users])
    return experiment, {
        name: dataclasses.replace(history, covariates={**history.covariates, FORECAST: foretold})
        for name, history in found.metrics.items()
    }


def forecasts(given: accuracy.Data) -> dict[str, float]:
    """What the forecaster said of each household on the day before."""
    checkpoint = trained_forecaster(given)
    origin = np.full(len(given.users), day_number(START) - 1, np.int32)
    made = forecast(checkpoint, given.users, origin, given.events, batch_size=256)
    scores = task_scores(checkpoint.recipe, made)[TASK]
    return dict(zip(given.users.user_id, np.asarray(scores, float).tolist(), strict=True))


def _adjust(history: History) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(each for each in names if each in history.covariates)
        for name, names in ADJUSTMENTS.items()
    }


def among_equals(metrics: Mapping[str, History], num_replays: int, tau: float) -> dict[str, object]:
    """False positives of every analysis, and whether p-values are uniform."""
    found: dict[str, Found] = {}
    for name, history in metrics.items():
        looks = LOOKS if name == MEAN else (DAYS,)
        weights = split(history.num_users, HALVES, num_replays=num_replays, seed=SEED)
        by_adjustment = replays(
            history, history, weights, looks=looks, analyses=_adjust(history), alpha=ALPHA
        )
        found |= {f"{name}.{adjust}": said for adjust, said in by_adjustment.items()}
    rates: dict[str, Rate] = {}
    ks: dict[str, float] = {}
    for name, said in found.items():
        rates[name] = rate(at_the_end(said, ALPHA), ALPHA)
        ks[name] = uniform_p(said.p_value[:, -1])
        if name.startswith(f"{MEAN}."):
            rates[f"{name}.group_sequential"] = rate(group_sequential(said, LOOKS, ALPHA), ALPHA)
            rates[f"{name}.always_valid"] = rate(always_valid(said, tau, ALPHA), ALPHA)
    naive = rate(peeking(found[f"{MEAN}.none"], ALPHA), ALPHA)
    table = Table(title=f"{num_replays:,} A/A splits, false positives at {ALPHA:.0%}")
    for heading in ("", "found", "allowed", "", "KS p"):
        table.add_column(heading, justify="right")
    for name, each in {**rates, "plain p on each of 18 days": naive}.items():
        # A confidence sequence promises no more than alpha, and keeps much less when it is short.
        fair = each.value <= each.high if "always_valid" in name else each.is_fair
        uniform = f"{ks[name]:.3f}" if name in ks else ""
        allowed = f"{each.low:.4f} .. {each.high:.4f}"
        table.add_row(name, f"{each.value:.4f}", allowed, "" if fair else "OUTSIDE", uniform)
    _SHOWN.print(table)
    reduction = {
        adjust: round(float(found[f"{MEAN}.{adjust}"].reduction[:, -1].mean()), 4)
        for adjust in ADJUSTMENTS
        if adjust != "none"
    }
    return {
        "aa_false_positives": {name: round(each.value, 4) for name, each in rates.items()},
        "aa_range": [round(naive.low, 4), round(naive.high, 4)],
        "naive_peeking": round(naive.value, 4),
        "ks_p": {name: round(p, 4) for name, p in ks.items()},
        "variance_reduction": reduction,
        "decided_otherwise_by_own_bounds": own_bounds(found[f"{MEAN}.none"]),
    }


def own_bounds(found: Found) -> int:
    """Of some replays, how many its own bounds decide otherwise than those of the mean."""
    few = Found(*(getattr(found, f.name)[:OWN_BOUNDS] for f in dataclasses.fields(found)))
    shared = group_sequential(few, LOOKS, ALPHA)
    shares = [spent(day / DAYS, ALPHA) for day in LOOKS]
    own = [
        bool((abs(z) >= bounds(information.tolist(), shares)).any())
        for z, information in zip(few.z, (few.control / few.error) ** 2, strict=True)
    ]
    return int((shared != np.array(own)).sum())


def with_effect(metrics: Mapping[str, History], num_experiments: int) -> dict[str, object]:
    """How often 95% intervals hold a true effect of 5%."""
    table = Table(title=f"{num_experiments:,} A/B experiments with a true effect of {EFFECT:.0%}")
    for heading in ("", "truth", "mean effect", "coverage", "allowed", ""):
        table.add_column(heading, justify="right")
    coverage: dict[str, float] = {}
    for metric, history in metrics.items():
        changed = treated(history, EFFECT, seed=SEED)
        truth = true_effect(history, changed, DAYS)
        found = _experiments(history, changed, num_experiments, (DAYS,), _adjust(history))
        for adjust, said in found.items():
            holds = (said.low[:, -1] <= truth) & (truth <= said.high[:, -1])
            each, name = rate(holds, 1 - ALPHA), f"{metric}.{adjust}"
            coverage[name] = round(each.value, 4)
            table.add_row(
                name,
                f"{truth:.5f}",
                f"{said.effect[:, -1].mean():.5f}",
                f"{each.value:.4f}",
                f"{each.low:.4f} .. {each.high:.4f}",
                "" if each.is_fair else "OUTSIDE",
            )
    _SHOWN.print(table)
    return {"ab_coverage": coverage, "ab_range": [round(each.low, 4), round(each.high, 4)]}


def planned(history: History, num_experiments: int) -> dict[str, object]:
    """Power of 18 daily looks: as planned from the errors alone, and as found."""
    table = Table(title="Power of 18 daily looks (group-sequential)")
    for heading in ("adjusted by", "relative effect", "planned", "found", "allowed", ""):
        table.add_column(heading, justify="right")
    figures: dict[str, object] = {}
    size = history.num_users / 2
    for adjust, names in _adjust(history).items():
        plan = Plan.of(history, looks=LOOKS, sizes=(size, size), adjust=names, alpha=ALPHA)
        effect = plan.smallest(0.8)
        changed = treated(history, effect, seed=SEED)
        found = _experiments(history, changed, num_experiments, LOOKS, {"": names})[""]
        # The chance by which days were added has made of the effect what it is by now.
        became = true_effect(history, changed, DAYS) / true_effect_of(history)
        power = plan.power(became)
        each = rate(group_sequential(found, LOOKS, ALPHA), power)
        table.add_row(
            adjust,
            f"{became:.4f}",
            f"{power:.4f}",
            f"{each.value:.4f}",
            f"{each.low:.4f} .. {each.high:.4f}",
            "" if each.is_fair else "OUTSIDE",
        )
        figures[adjust] = {
            "effect": round(became, 4), "planned": round(power, 4), "found": round(each.value, 4)
        }  # fmt: skip
    _SHOWN.print(table)
    return {"power": figures}


def true_effect_of(history: History) -> float:
    """The metric's value under control at the end."""
    nothing = dataclasses.replace(history, numerator=np.zeros_like(history.numerator))
    return true_effect(nothing, history, DAYS)


def _experiments(
    history: History,
    changed: History,
    num_experiments: int,
    looks: range | tuple[int, ...],
    analyses: Mapping[str, tuple[str, ...]],
) -> dict[str, Found]:
    weights = draw(
        history.num_users, HALVES, of=history.num_users, num_replays=num_experiments, seed=SEED
    )
    return replays(history, changed, weights, looks=looks, analyses=analyses, alpha=ALPHA)


if __name__ == "__main__":
    sys.exit(main())
