"""The whole loop in simulation: forecasts choose who is offered, an experiment finds the effect.

    python -m benchmarks.loop [--users 20000] [--redraws 200] [--home FOLDER] [--seed 0]

A made-up fantasy-sports platform of four years stands as it did on the evening before its offer
begins. The usual verbs train a forecaster on that past and publish the evening's scores. Then a
stand-in for Pacman, the offers engine, decides once, for all 28 days, by two rules; both may offer
to the same share of all users:

*lumos* takes the users with the most to gain. A push in log-odds moves a chance p by p(1 - p) times
the push; p is the chance of one day that the published chance of a week implies.

*legacy* is what a marketing department does about lapsing users: it offers to those who were not
active for a week, the latest gone first.

The hash of `lumos assign` says which rule a user is treated by. The world goes on with these
offers: its law says how each moves the user who gets it, so the true effect of one rule against
the other is known exactly. Day after day lands, and `lumos assign` and `lumos measure` run on each.
What they find after 28 days is compared with the truth. So is what would have been found had users
been split anew and the days been drawn anew, some hundred times over: how often the interval holds
the truth, and how far off the estimate is on average.

Some minutes of processor time for the forecasts, two for the experiment's days. Where other
programs are busy, run it under ``taskset -c 0``: threads that wait for each other make a training
ten times as slow.

Where the lake stays (`--home`), so does the experiment's page, whose address is logged.

The last line of stdout is JSON. `dau` is the share of users active on a day; `offer_cost` the bonus
paid for a user in 28 days, in rupees; `_error` the standard error of what stands before it;
`effect_in_spreads` the true effect in standard deviations of its estimate.
"""

import argparse
import datetime as dt
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from lumos import ledger
from lumos.aggregate.spark import spark_session
from lumos.cli import VERBS, run
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World, recipe
from lumos.datasets.fantasy_sports.activity import ACTIVITY_COLUMNS, another_draw, probability
from lumos.datasets.fantasy_sports.effects import OFFER_DAYS, OFFER_START, offer_days
from lumos.datasets.fantasy_sports.shards import activity_rows, num_shards, shard_of, users_rows
from lumos.datasets.fantasy_sports.truth import expected, policy_effect
from lumos.datasets.fantasy_sports.users import Users, users_of
from lumos.datasets.fantasy_sports.world import user_ids
from lumos.datasets.fantasy_sports.write import write_tables
from lumos.dates import day_number
from lumos.delta import predicate, read, replace
from lumos.experiment.assignment import variant_of
from lumos.experiment.declaration import ALL, Experiment, declared
from lumos.experiment.effects import DENOMINATOR, NUMERATOR, Effect, Moments, compare
from lumos.overrides import override
from lumos.progress import progress
from lumos.serve.accuracy import auc
from lumos.serve.manifest import read_scores
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import GateRefused, Report, Request, TableWritten

NAME, LEGACY, LUMOS = "pacman_loop", "legacy", "lumos"
DAYS = [OFFER_START + dt.timedelta(days=number) for number in range(OFFER_DAYS)]
EVE, END = DAYS[0] - dt.timedelta(days=1), DAYS[-1]
BUDGET = 0.3  # of all users
_WEEK = 7
_BONUS = ACTIVITY_COLUMNS.index("bonus")
METRICS = DAU, OFFER_COST = "dau", "offer_cost"
Figures = dict[str, object]
Effects = dict[str, Effect]

log = logging.getLogger(__name__)


def main() -> int:
    """Print the tables and, last, one JSON line."""
    made = argparse.ArgumentParser(prog="benchmarks.loop", description=__doc__.split("\n")[0])
    made.add_argument("--users", type=int, default=20_000)
    made.add_argument("--seed", type=int, default=0, help="of the world")
    made.add_argument("--epochs", type=int, default=2, help="of the training")
    made.add_argument("--redraws", type=int, default=200)
    made.add_argument("--home", type=Path, help="where the lake stays (default: nowhere)")
    arguments = made.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as scratch:
        home = arguments.home or Path(scratch)
        settings = Settings.from_environment({"LUMOS_HOME": str(home)})
        # The platform's own experiments would be measured beside it.
        declarations = home.absolute() / "sql" / "experiments"
        declarations.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name(f"{NAME}.toml"), declarations)
        loop = Loop(
            settings,
            World(arguments.users, arguments.seed),
            override(
                recipe(),
                {
                    "sql": str(declarations.parent),
                    "training.epochs": arguments.epochs,
                    "training.max_validation_users": 4_000,
                },
            ),
        )
        figures = loop.run(arguments.redraws)
    table = Table(title="The loop")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.5g}" if isinstance(value, float) else str(value))
    Console().print(table)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


@dataclass(frozen=True)
class Loop:
    """One world, from the evening before its offer to the end of the offer."""

    settings: Settings
    world: World
    recipe: Recipe

    @property
    def experiment(self) -> Experiment:
        """What compares the two rules, as it is declared."""
        known = declared(self.settings, self.recipe)
        return next(experiment for experiment in known if experiment.name == NAME)

    def run(self, num_redraws: int) -> Figures:
        """All of it; see the top of the file."""
        found: Figures = {"users": self.world.num_users}
        with timed(found, "forecast"):
            found |= self.forecast()
        past = Past.of(self)
        rules = {LEGACY: past.lapsing(), LUMOS: past.most_to_gain()}
        found |= judged(self.world, past)
        found |= rules_compared(self.world, rules, past)
        truth = policy_effect(self.world, rules[LEGACY], rules[LUMOS])
        true = {DAU: truth.dau, OFFER_COST: truth.bonus}
        with timed(found, "measured"):
            effects = self.measured(self.played(rules))
        for metric in METRICS:
            effect = effects[metric]
            found |= {
                f"true_{metric}_effect": true[metric],
                f"{metric}_effect": effect.effect,
                f"{metric}_effect_low": effect.low,
                f"{metric}_effect_high": effect.high,
                f"{metric}_effect_p": effect.p_value,
                f"{metric}_variance_reduction": effect.variance_reduction,
                f"{metric}_interval_holds_truth": holds(effect, true[metric]),
            }
        with timed(found, "redraws"):
            found |= recovered(Draws.of(self, rules), true, num_redraws)
        return found

    def verb(self, name: str, date: dt.date) -> Report:
        """A verb with its usual options, in this process."""
        options = {flag.name.replace("-", "_"): flag.default for flag in VERBS[name].flags}
        return run(
            Request(
                verb=name,
                recipe=self.recipe,
                date=date,
                settings=self.settings,
                options=options,
            )
        )

    def forecast(self) -> Figures:
        """Publish the scores of the evening before, from what had come by then and nothing else."""
        scratch = self.settings.home / "scratch"
        write_tables(self.settings, self.recipe, self.world, scratch=scratch, last_day=EVE)
        reports = {}
        for name in ("validate", "train", "evaluate", "promote", "score", "publish"):
            reports[name] = self.verb(name, EVE)
            log.info("lumos %s took %.0f s", name, reports[name].seconds)
        came = reports["evaluate"].metrics
        return {
            "train_s": reports["train"].seconds,
            **{
                f"evaluated_auc_{name}": came[f"{segment}.active_7d.auc"]
                for name, segment in (("lumos", "challenger"), ("recency", "recency"))
            },
        }

    def played(self, rules: dict[str, np.ndarray]) -> "Played":
        """The world goes on: each user is offered by the rule of the user's arm."""
        arm = variant_of(_names(self.world), self.experiment)
        offered = np.where(arm == LUMOS, rules[LUMOS], rules[LEGACY])
        users, activity, days = [], [], []
        for number in range(num_shards(self.world)):
            shard = shard_of(self.world, number, offered=offered, last_day=END)
            rows, day = activity_rows(self.recipe, shard)
            is_new = day > day_number(EVE)
            activity.append(rows.filter(pa.array(is_new)))
            days.append(day[is_new])
            rows = users_rows(self.recipe, shard)
            users.append(rows.filter(pc.greater(rows["registered_on"], EVE)))
        return Played(
            users=pa.concat_tables(users),
            activity=pa.concat_tables(activity),
            activity_day=np.concatenate(days),
        )

    def land(self, played: "Played", date: dt.date) -> None:
        """One more day stands in the contract tables, as `lumos aggregate` would leave them."""
        request = Request(verb="aggregate", recipe=self.recipe, date=date, settings=self.settings)
        days = {
            "activity": (played.activity_of(date), {"day": date}),
            "users": (played.users_of(date), {"valid_from": date}),
        }
        written = []
        for name, (rows, where) in days.items():
            declared = tables(self.recipe)[name]
            version = replace(
                table_uri(self.settings, self.recipe, name),
                rows,
                where=predicate(**where),
                partition=declared.partition,
            )
            written.append(TableWritten(table=name, version=version, rows=rows.num_rows))
        report = request.report(tables=tuple(written))
        ledger.record(request, report, inputs={"world": repr(self.world)})

    def measured(self, played: "Played") -> Effects:
        """Land, assign and measure day by day; the effects by metric, as of the last day."""
        with (
            spark_session("loop", num_rows=played.activity.num_rows),
            progress("measuring", len(DAYS)) as advance,
        ):
            for day in DAYS:
                self.land(played, day)
                for name in ("assign", "measure"):
                    self.verb(name, day)
                advance(note=str(day))
        try:
            log.info("the page: %s", self.verb("review", END).details["pages"][NAME])
        except GateRefused as alarm:  # offers that cost more cross the guardrail, and should
            log.info("%s", alarm)
        rows = read(
            table_uri(self.settings, self.recipe, "effects"),
            where=predicate(experiment=NAME, as_of=END, segment=ALL),
        )
        assert rows is not None, "it was measured"
        shown = ("control", "treatment", "effect", "low", "high", "p_value", "variance_reduction")
        return {
            row["metric"]: Effect(**{name: row[name] for name in shown})
            for row in rows.to_pylist()
            if row["is_declared"]
        }


@contextmanager
def timed(found: Figures, name: str) -> Iterator[None]:
    """Add how many seconds something took."""
    started = time.monotonic()
    yield
    found[f"{name}_s"] = round(time.monotonic() - started)


def _names(world: World) -> list[str]:
    return list(user_ids(np.arange(world.num_users)).astype(str))


@dataclass(frozen=True)
class Played:
    """What lands while the offer runs: rows of ``users`` and of ``activity`` without their day."""

    users: pa.Table
    activity: pa.Table
    activity_day: np.ndarray

    def activity_of(self, date: dt.date) -> pa.Table:
        """Rows of ``activity`` of a day."""
        rows = self.activity.filter(pa.array(self.activity_day == day_number(date)))
        return rows.append_column("day", pa.repeat(pa.scalar(date), rows.num_rows))

    def users_of(self, date: dt.date) -> pa.Table:
        """Rows of ``users`` who registered on a day."""
        return self.users.filter(pc.equal(self.users["valid_from"], date))


@dataclass(frozen=True)
class Past:
    """What Pacman knows on the evening before, by number of the user.

    Attributes:
        is_there: Who has registered.
        chance: Published chance to be active in the next week, NaN where none was published.
        quiet_days: Days since the last active one, infinite where there was none.
    """

    is_there: np.ndarray
    chance: np.ndarray
    quiet_days: np.ndarray

    @classmethod
    def of(cls, loop: Loop) -> "Past":
        """Read the published scores, and the tables as they stand."""
        shape = loop.world.num_users
        is_there, chance, last = (
            np.zeros(shape, bool),
            np.full(shape, np.nan),
            np.full(shape, -np.inf),
        )
        scores = read_scores(loop.settings, loop.recipe, as_of=EVE, today=OFFER_START)
        chance[_numbers(scores["user_id"])] = scores["active_7d"].to_numpy()
        users = loop_table(loop, "users", ("user_id", "registered_on"))
        known = users.filter(pc.less_equal(users["registered_on"], EVE))
        is_there[_numbers(known["user_id"])] = True
        activity = loop_table(loop, "activity", ("user_id", "day"))
        activity = activity.filter(pc.less_equal(activity["day"], EVE))
        days = activity["day"].cast(pa.int32()).to_numpy()
        np.maximum.at(last, _numbers(activity["user_id"]), days)
        return cls(is_there, chance, day_number(EVE) - last)

    @property
    def num_offers(self) -> int:
        """How many users either rule may offer to."""
        return round(BUDGET * int(self.is_there.sum()))

    def most_to_gain(self) -> np.ndarray:
        """Whom LUMOS scores choose, as a mask of all users."""
        day = 1 - (1 - self.chance) ** (1 / _WEEK)
        return self._first(np.nan_to_num(-day * (1 - day), nan=np.inf))

    def lapsing(self) -> np.ndarray:
        """Whom marketing would choose, as a mask of all users."""
        return self._first(self.quiet_days, self.quiet_days < _WEEK)

    def _first(self, *by: np.ndarray) -> np.ndarray:
        """As many users as may be offered, the lowest by the last of these, then by the others."""
        order = np.lexsort((*by, ~self.is_there))
        mask = np.zeros(len(order), bool)
        mask[order[: self.num_offers]] = True
        return mask


def loop_table(loop: Loop, name: str, columns: Sequence[str]) -> pa.Table:
    """Rows of a contract table."""
    rows = read(table_uri(loop.settings, loop.recipe, name), columns=columns)
    assert rows is not None, "it was written"
    return rows


def _numbers(user_id: pa.ChunkedArray) -> np.ndarray:
    """Numbers of users, from their names."""
    return np.asarray(pc.utf8_slice_codeunits(user_id, 3).cast(pa.int64()))


def blocks_of(world: World) -> list[Users]:
    """All users, block by block."""
    return [users_of(world, block) for block in range(world.num_blocks)]


def during(world: World, users: Users, offered: np.ndarray) -> np.ndarray:
    """P(active) of each user on each of the offer's days, shape (N, D)."""
    p: np.ndarray = probability(world, users, offered=offered)[:, offer_days(world)]
    return p


def judged(world: World, past: Past) -> Figures:
    """How well the published scores rank who is active in the next week, were nobody offered."""
    came = []
    for block, users in enumerate(blocks_of(world)):
        nobody = np.zeros(len(users), bool)
        p = during(world, users, nobody)[:, :_WEEK]
        chance = np.random.default_rng([world.seed, block])
        drawn = another_draw(world, users, p, offered=nobody, chance=chance)
        came.append(np.diff(drawn.splits) > 0)
    is_scored = np.isfinite(past.chance)
    outcome = np.concatenate(came)[is_scored].astype(float)
    return {
        "scored_users": int(is_scored.sum()),
        "auc_lumos": auc(outcome, past.chance[is_scored]),
        "auc_recency": auc(outcome, -past.quiet_days[is_scored]),
    }


def rules_compared(world: World, rules: dict[str, np.ndarray], past: Past) -> Figures:
    """What each rule's offers bring and cost, against none, by the world's law."""
    blocks = blocks_of(world)

    def totals(mask: np.ndarray) -> np.ndarray:
        parts = [expected(world, users, mask[users.number]) for users in blocks]
        return np.array([[part.active_days.sum(), part.bonus.sum()] for part in parts]).sum(axis=0)

    nothing, is_quiet = totals(np.zeros(world.num_users, bool)), past.quiet_days >= _WEEK
    found: Figures = {}
    for name, mask in rules.items():
        gained, paid = (totals(mask) - nothing) / mask.sum()
        found |= {
            f"{name}_offers": int(mask.sum()),
            f"{name}_share_quiet_for_a_week": round(float(is_quiet[mask].mean()), 3),
            f"{name}_active_days_gained_an_offer": round(float(gained), 3),
            f"{name}_bonus_paid_an_offer": round(float(paid), 2),
            f"{name}_bonus_paid_an_active_day": round(float(paid / gained), 2),
        }
    both = rules[LEGACY] & rules[LUMOS]
    return found | {"offered_by_both": round(float(both.sum() / rules[LUMOS].sum()), 3)}


@dataclass(frozen=True)
class Draws:
    """What might as well have come: users split anew, and the days of the offer drawn anew.

    Attributes:
        loop: The world, and what compares the two rules.
        rules: Whom each rule offers, by number of the user.
        blocks: All users.
        laws: For each block P(active) on the offer's days, without and with the offer, (N, D).
        days: Days of the experiment on which each user is there, by number of the user.
    """

    loop: Loop
    rules: dict[str, np.ndarray]
    blocks: list[Users]
    laws: list[tuple[np.ndarray, np.ndarray]]
    days: np.ndarray

    @classmethod
    def of(cls, loop: Loop, rules: dict[str, np.ndarray]) -> "Draws":
        """Compute once what all draws share."""
        world, blocks = loop.world, blocks_of(loop.world)
        laws = [
            (
                during(world, users, np.zeros(len(users), bool)),
                during(world, users, np.ones(len(users), bool)),
            )
            for users in blocks
        ]
        since = np.concatenate([users.registered for users in blocks]) - world.first
        span = offer_days(world)
        return cls(loop, rules, blocks, laws, (span.stop - since.clip(min=span.start)).clip(min=0))

    def effects(self, number: int) -> Effects:
        """What one draw would have found."""
        loop = self.loop
        again = loop.experiment.model_copy(update={"name": f"{NAME}_{number}"})
        is_lumos = variant_of(_names(loop.world), again) == LUMOS
        offered = np.where(is_lumos, self.rules[LUMOS], self.rules[LEGACY])
        active, bonus = [], []
        for users, (without, with_offer) in zip(self.blocks, self.laws, strict=True):
            mine = offered[users.number]
            drawn = another_draw(
                loop.world,
                users,
                np.where(mine[:, None], with_offer, without),
                offered=mine,
                chance=np.random.default_rng([loop.world.seed, number, int(users.number[0])]),
            )
            active.append(np.diff(drawn.splits))
            bonus.append(np.bincount(drawn.owner, drawn.values[:, _BONUS], len(users)))
        there = self.days > 0
        return compared(
            is_lumos[there],
            np.concatenate(active)[there],
            np.concatenate(bonus)[there],
            self.days[there],
            loop.experiment.alpha,
        )


def recovered(draws: Draws, true: dict[str, float], num_draws: int) -> Figures:
    """How often the interval holds the truth, and how far off the estimate is on average."""
    found: Figures = {"redraws": num_draws}
    effects = []
    with progress("drawing anew", num_draws) as advance:
        for number in range(num_draws):
            effects.append(draws.effects(number))
            advance()
    for metric in METRICS:
        beyond = np.array([each[metric].effect - true[metric] for each in effects])
        spread = float(beyond.std(ddof=1))
        found |= {
            f"{metric}_coverage": sum(holds(each[metric], true[metric]) for each in effects)
            / len(effects),
            f"{metric}_bias": float(beyond.mean()),
            f"{metric}_bias_error": spread / len(beyond) ** 0.5,
            f"{metric}_effect_in_spreads": true[metric] / spread,
        }
    return found


def holds(effect: Effect, true: float) -> bool:
    """Whether the interval holds the truth."""
    assert effect.low is not None, "users differ"
    assert effect.high is not None, "users differ"
    return effect.low <= true <= effect.high


def compared(
    is_lumos: np.ndarray, active: np.ndarray, bonus: np.ndarray, days: np.ndarray, alpha: float
) -> Effects:
    """The platform's own statistics, on what each user did; arrays of shape (N,)."""

    def moments(arm: np.ndarray) -> dict[str, Moments]:
        both = {NUMERATOR: active[arm].astype(float), DENOMINATOR: days[arm].astype(float)}
        return {DAU: Moments.of(both), OFFER_COST: Moments.of({NUMERATOR: bonus[arm]})}

    control, treatment = moments(~is_lumos), moments(is_lumos)
    return {metric: compare(control[metric], treatment[metric], alpha=alpha) for metric in METRICS}


if __name__ == "__main__":
    sys.exit(main())
