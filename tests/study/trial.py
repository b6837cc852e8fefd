"""A made-up experiment, as `measure` would write it into the tables: day 21 of 28.

What a page must cope with is in it: a morning without a look, a day whose data is missing, data
that came late, a guardrail. ``page_of(home)`` writes the sample page and returns where it is.
"""

import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lumos import ledger
from lumos.cli import VERBS, run
from lumos.config import Recipe
from lumos.delta import replace
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten

DATE = dt.date(2024, 5, 10)
DAY = dt.timedelta(days=1)
START = dt.date(2024, 4, 20)
PLANNED_DAYS = 28
NO_LOOK, NO_DATA, LATE = 9, 13, 5  # numbers of days

TOWELS = """
name = "towels"
hypothesis = "A free towel brings people back: more of them come on a day"
start = 2024-04-20
planned_days = 28
primary = { metric = "dau", direction = "up" }
secondary = [
    { metric = "active_days", direction = "up" },
    { metric = "retention", direction = "up" },
]
guardrails = [
    { metric = "offer_cost", direction = "down" },
    { metric = "offer_cost_per_active_user", direction = "down" },
]
columns = { cost = "spend" }
segments = ["plan"]
adjust = "pre_period"
minimum_effect = 0.04

[[variants]]
name = "control"
weight = 0.5

[[variants]]
name = "target"
weight = 0.5
"""


class Told:
    """A lake whose tables are put there one by one, and the verbs that read them."""

    def __init__(self, home: Path, recipe: Recipe | None = None) -> None:
        self.settings = Settings.from_environment({"LUMOS_HOME": str(home)})
        # The experiments are declared beside the recipe's SELECTs, here in a folder of the test's.
        recipe = recipe or load("gym_world.recipe:recipe")
        self.recipe = recipe.model_copy(update={"sql": str(home / "sql")})

    def declare(self, text: str, name: str = "towels") -> None:
        folder = self.settings.home / "sql" / "experiments"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def put(
        self, name: str, rows: list[dict[str, Any]], date: dt.date = DATE, **inputs: int | str
    ) -> None:
        declared = tables(self.recipe)[name]
        table = pa.Table.from_pylist(rows, schema=declared.arrow_schema(self.recipe))
        uri = table_uri(self.settings, self.recipe, name)
        version = replace(uri, table, where=None, partition=declared.partition)
        self.enter(name, version, len(rows), date=date, **inputs)

    def enter(
        self,
        name: str,
        version: int,
        rows: int,
        verdict: str = "ready",
        date: dt.date = DATE,
        **inputs: int | str,
    ) -> None:
        request = self.request("measure", date)
        written = TableWritten(table=name, version=version, rows=rows)
        report = request.report(tables=(written,))
        ledger.record(request, report, inputs=inputs or {"raw": 1}, verdict=verdict)

    def request(self, verb: str, date: dt.date = DATE, **options: Any) -> Request:
        defaults = {flag.name: flag.default for flag in VERBS[verb].flags}
        return Request(
            verb=verb,
            recipe=self.recipe,
            date=date,
            settings=self.settings,
            options={**defaults, **options},
        )

    def run(self, verb: str, date: dt.date = DATE, **options: Any) -> Report:
        return run(self.request(verb, date, **options))

    def page(self, date: dt.date = DATE) -> str:
        """The daily report."""
        report = self.run("report", date)
        return Path(report.details["path"]).read_text(encoding="utf-8")

    @property
    def experiments(self) -> Path:
        return self.settings.home / "reports" / self.recipe.name / "experiments"

    def experiment_page(self, date: dt.date = DATE, name: str = "towels") -> str:
        """As it lies there, whatever the verb has said since."""
        path = self.experiments / name / date.isoformat() / "index.html"
        return path.read_text(encoding="utf-8")


def effect_row(metric: str, role: str, relative: float, error: float, **more: Any) -> dict:
    """An effect on a control of ``control``; ``relative`` and ``error`` as shares of it."""
    control = more.pop("control", 0.3127)
    reach = more.pop("reach", 2.9)
    row = {
        "experiment": "towels",
        "as_of": DATE,
        "metric": metric,
        "role": role,
        "direction": "down" if role == "guardrail" else "up",
        "segment": "all",
        "variant": "target",
        "adjust": "pre_period",
        "is_declared": True,
        "num_control": 10_043,
        "num_treatment": 9_982,
        "srm_p_value": 0.6663,
        "control": control,
        "treatment": control * (1 + relative),
        "effect": control * relative,
        "error": control * error,
        "relative": relative,
        "variance_reduction": 0.31,
        "rule": "always_valid",
        "low": control * (relative - reach * error),
        "high": control * (relative + reach * error),
        "relative_low": relative - reach * error,
        "relative_high": relative + reach * error,
        "p_value": 0.04112,
        "p_adjusted": None,
    }
    return row | more


HIDDEN = dict.fromkeys(
    ("control", "treatment", "effect", "error", "relative", "variance_reduction", "low", "high",
     "relative_low", "relative_high", "p_value", "p_adjusted")
)  # fmt: skip


def look_rows(date: dt.date = DATE) -> list[dict[str, Any]]:
    random = np.random.default_rng(7)
    rows, wander = [], 0.05
    for number in range(1, (date - START).days + 2):
        wander += float(random.normal(0, 0.035)) / number + (0.046 - wander) * 0.12
        if number == NO_LOOK:
            continue
        error, bound = 0.075 / math.sqrt(number), 2.04 * math.sqrt(PLANNED_DAYS / number)
        left = PLANNED_DAYS - number
        is_crossed = wander >= bound * error
        advice = f"Go on: nothing is decided yet; {left} of {PLANNED_DAYS} days are left."
        if is_crossed:
            advice = "Stop: target is better than control in dau; the bound is crossed."
        rows.append(
            {
                "experiment": "towels",
                "as_of": START + (number - 1) * DAY,
                "variant": "target",
                "day": number,
                "srm_p_value": 0.6663,
                "effect": 0.3127 * wander,
                "error": 0.3127 * error,
                "relative": wander,
                "low": 0.3127 * (wander - bound * error),
                "high": 0.3127 * (wander + bound * error),
                "alpha_spent": 0.05 * (number / PLANNED_DAYS) ** 3,
                "bound": bound,
                "p_value": math.erfc(wander / error / math.sqrt(2)),
                "is_crossed": is_crossed,
                "advice": advice,
                "inputs": "{}",
            }
        )
    return rows


def effect_rows() -> list[dict[str, Any]]:
    today = look_rows()[-1]
    primary = effect_row(
        "dau", "primary", today["relative"], today["error"] / 0.3127,
        reach=today["bound"], rule="group_sequential", p_value=today["p_value"],
    )  # fmt: skip
    earlier = [
        primary | {"as_of": look["as_of"], "effect": look["effect"]} for look in look_rows()[:-1]
    ]
    earlier[LATE - 1]["effect"] = 0.01435
    compared = [
        primary | {"adjust": name, "is_declared": False, "variance_reduction": share,
                   "error": primary["error"] * math.sqrt((1 - share) / 0.69)}
        for name, share in (("none", 0.0), ("forecast", 0.38), ("both", 0.42))
    ]  # fmt: skip
    return [
        *earlier,
        primary,
        *compared,
        effect_row("active_days", "secondary", 0.0431, 0.0158, control=3.871),
        effect_row("retention", "secondary", 0.0112, 0.0102, control=0.6214, p_value=0.8211),
        effect_row("offer_cost", "guardrail", 0.0312, 0.0224, control=12.31, p_value=0.4408),
        effect_row("offer_cost_per_active_user", "guardrail", -0.0087, 0.0208, control=18.02),
        effect_row("dau", "primary", 0.0673, 0.0251, segment="plan=monthly"),
        effect_row("dau", "primary", 0.0391, 0.0262, segment="plan=yearly"),
        effect_row("dau", "primary", 0.0102, 0.0349, segment="plan=student"),
    ]


def outcome_rows(date: dt.date = DATE) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    rows = []
    users = {"control": 0, "target": 0}
    for number in range(1, (date - START).days + 2):
        day = START + (number - 1) * DAY
        for variant, all_users in (("control", 10_043), ("target", 9_982)):
            new = round(all_users * 0.16 * 0.84 ** (number - 1))
            users[variant] += new
            weekend = 0.07 if day.weekday() >= 5 else 0.0
            gain = (0.008 + 0.03 / number) if variant == "target" else 0.0
            share = 0.31 - weekend + gain + 0.2 / (number + 2) + float(random.normal(0, 0.006))
            active = 0 if number == NO_DATA else round(users[variant] * share)
            rows.append(
                {
                    "experiment": "towels",
                    "day": day,
                    "variant": variant,
                    "num_users": users[variant],
                    "num_new": new,
                    "num_active": active,
                    "cost": 2.0 * active,
                }
            )
    return rows


def check_row(name: str, message: str, verdict: str = "info", **more: Any) -> dict[str, Any]:
    row = {"day": DATE, "job": "measure", "name": name, "segment": "towels", "value": 1.0}
    return {**row, "verdict": verdict, "message": message, **more}


def check_rows() -> list[dict[str, Any]]:
    return [
        check_row("srm_p_value", "split as planned: 10,043 control, 9,982 target", "ok"),
        check_row("dau.target.effect", "target - control = 0.0143"),
        check_row("excluded.two_variants", "17 users do not count: two_variants", "warning"),
    ]


def tell(lake: Told) -> None:
    """Declare and write it all."""
    lake.declare(TOWELS)
    lake.put("effects", effect_rows())
    lake.put("looks", look_rows())
    lake.put("outcomes", outcome_rows())
    lake.put("metrics", check_rows())


def page_of(home: Path) -> Path:
    """The sample page, made in an empty folder."""
    lake = Told(home)
    tell(lake)
    return Path(lake.run("review").details["pages"]["towels"])
