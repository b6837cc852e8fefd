"""A gym's lake after a whole day of work, written straight into the contract tables."""

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lumos import ledger
from lumos.config import Recipe
from lumos.delta import replace
from lumos.tables import table_uri, tables
from lumos.verbs import TableWritten
from tests.experiment.conftest import Lake, experiment, gym_with

DATE = dt.date(2024, 5, 10)
DAY = dt.timedelta(days=1)
EVIL = "<script>alert('m')</script>"
USERS = (EVIL, *(f"m-{n:02d}é" for n in range(30)))


class Told(Lake):
    """A lake whose tables are put there one by one."""

    def put(self, name: str, rows: list[dict[str, Any]], **inputs: int | str) -> None:
        declared = tables(self.recipe)[name]
        table = pa.Table.from_pylist(rows, schema=declared.arrow_schema(self.recipe))
        uri = table_uri(self.settings, self.recipe, name)
        version = replace(uri, table, where=None, partition=declared.partition)
        self.enter(name, version, len(rows), **inputs)

    def enter(
        self, name: str, version: int, rows: int, verdict: str = "ready", **inputs: int | str
    ) -> None:
        request = self.request("report", DATE)
        written = TableWritten(table=name, version=version, rows=rows)
        report = request.report(tables=(written,))
        ledger.record(request, report, inputs=inputs or {"raw": 1}, verdict=verdict)

    def page(self, date: dt.date = DATE) -> str:
        report = self.run("report", date)
        return Path(report.details["path"]).read_text(encoding="utf-8")


def activity_rows(recipe: Recipe) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    names = [column.name for column in recipe.activity]
    return [
        {"user_id": user, "day": DATE - n * DAY, "num_raw_rows": 1, **dict.fromkeys(names, 1.0)}
        for place, user in enumerate(USERS)
        for n in range(60)
        if random.random() < (place + 1) / (len(USERS) + 1)
    ]


def evaluation_rows(recipe: Recipe) -> list[dict[str, Any]]:
    random = np.random.default_rng(2)
    rows = []
    for origin in (DATE - 17 * DAY, DATE - 10 * DAY):
        for user in USERS:
            row = {"as_of": DATE, "origin": origin, "user_id": user, "is_held_out": False}
            for task in recipe.tasks:
                chance = float(random.random())
                row[f"{task.name}_forecast"] = chance
                row[f"{task.name}_outcome"] = float(random.random() < chance)
            rows.append({**row, "model_version": "3"})
    return rows


def metric(job: str, name: str, segment: str, value: float | None, **more: str) -> dict[str, Any]:
    row = {"day": DATE, "job": job, "name": name, "segment": segment, "value": value}
    return {**row, "verdict": "info", "message": "", **more}


def forecast_rows(recipe: Recipe) -> list[dict[str, Any]]:
    blank = dict.fromkeys(tables(recipe)["forecasts"].column_names[4:-1], 0.25)
    return [
        {
            "as_of": DATE,
            "shard": 0,
            "user_id": user,
            "horizon_day": DATE + ahead * DAY,
            "model_version": "3",
            **blank,
        }
        for user in USERS
        for ahead in range(1, recipe.horizon_days + 1)
    ]


def effect_row(metric_name: str, **changes: Any) -> dict[str, Any]:
    row = {
        "experiment": "towels",
        "as_of": DATE,
        "metric": metric_name,
        "variant": "target",
        "control": 0.4,
        "treatment": 0.42,
        "effect": 0.02,
        "effect_low": -0.01,
        "effect_high": 0.05,
        "relative": 0.05,
        "relative_low": -0.025,
        "relative_high": 0.125,
        "p_value": 0.1912,
        "num_control": 15,
        "num_treatment": 16,
        "srm_p_value": 0.86,
    }
    return row | changes


def outcome_rows(recipe: Recipe) -> list[dict[str, Any]]:
    start = recipe.experiments[0].start
    return [
        {
            "experiment": "towels",
            "day": start + n * DAY,
            "variant": name,
            "num_users": 15,
            "num_active": 4 + n % 3,
            "cost": 2.0,
        }
        for n in range((DATE - start).days + 1)
        for name in ("control", "target")
    ]


def known(day: dt.date, known_on: dt.date, num_classes: float) -> dict[str, Any]:
    return {"day": day, "known_on": known_on, "num_classes": num_classes, "open_day": 0.0}


@pytest.fixture
def empty(tmp_path: Path) -> Told:
    return Told.at(tmp_path / "home", gym_with(experiment(is_simulated_split=True)))


def whole_lake(home: Path) -> Told:
    """Every table that the report reads."""
    lake = Told.at(home, gym_with(experiment(is_simulated_split=True)))
    recipe = lake.recipe
    lake.put("activity", activity_rows(recipe))
    since = DATE - 100 * DAY
    registered = [{"user_id": u, "valid_from": since, "registered_on": since} for u in USERS]
    lake.put("users", registered)
    lake.put(
        "event_context",
        [known(DATE + n * DAY, DATE - 9 * DAY, 10.0 + n) for n in range(-8, 5)]
        + [known(DATE + 2 * DAY, DATE, 77.0), known(DATE + 3 * DAY, DATE + DAY, 88.0)],
    )
    lake.put("evaluations", evaluation_rows(recipe), challenger="3")
    lake.put("forecasts", forecast_rows(recipe))
    manifest = {
        "as_of": DATE,
        "scores_version": 7,
        "state": "live",
        "num_rows": 31,
        "columns": "as_of,user_id",
        "checksum": "-1234567890",
        "model_version": "3",
        "calibrator_version": "c0ffee00",
        "inputs": "{}",
        "spread": "{}",
        "created": dt.datetime.combine(DATE + DAY, dt.time(6), dt.UTC),
        "valid_until": DATE + 2 * DAY,
    }
    lake.put("manifests", [manifest])
    lake.put("effects", [effect_row("dau"), effect_row("offer_cost", p_value=None)])
    lake.put("outcomes", outcome_rows(recipe))
    rows = [
        metric("evaluate", f"{task}.{name}", f"{segment}{group}", value + (0.001 if group else 0))
        for task, name in (("visit_10d", "auc"), ("visit_10d", "log_loss"), ("minutes_10d", "bias"))
        for segment, value in (("challenger", 0.81), ("lightgbm", 0.8), ("recency", 0.79))
        for group in ("", "|held_out")
    ]
    rows.append(metric("evaluate", "primary_loss", "challenger", 0.7))
    rows.append(metric("validate", "not_null", "activity.minutes", 0.0, verdict="ok"))
    told = {"verdict": "warning", "message": "fewer rows than on other Fridays & <b>bold</b>"}
    rows.append(metric("validate", "volume", "activity", 0.4, **told))
    lake.put("metrics", rows)
    rejected = {
        "job": "aggregate",
        "day": DATE,
        "reason": "negative minutes",
        "raw_table": "checkins",
        "row": "{}",
        "num_rows": 12,
    }
    lake.put("quarantine", [rejected])
    lake.enter("quality", 1, len(rows))
    return lake


@pytest.fixture(scope="session")
def _told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, str]:
    lake = whole_lake(tmp_path_factory.mktemp("told") / "home")
    return lake, lake.page()


@pytest.fixture
def page(_told: tuple[Told, str]) -> str:
    """The report of the whole lake, made once."""
    return _told[1]


@pytest.fixture
def told(_told: tuple[Told, str], tmp_path: Path) -> Told:
    """A copy of the whole lake, free to be changed."""
    original = _told[0]
    shutil.copytree(original.settings.home, tmp_path / "copy")
    return Told.at(tmp_path / "copy", original.recipe)
