"""A gym's lake after a whole day of work, written straight into the contract tables."""

import datetime as dt
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from lumos.config import Recipe
from lumos.study import experiment_plots
from lumos.study.plots import Drawing
from lumos.tables import tables
from tests.study.trial import DATE, DAY, Told, check_rows, tell

EVIL = "<script>alert('m')</script>"
USERS = (EVIL, *(f"m-{n:02d}é" for n in range(30)))


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


def known(day: dt.date, known_on: dt.date, num_classes: float) -> dict[str, Any]:
    return {"day": day, "known_on": known_on, "num_classes": num_classes, "open_day": 0.0}


@pytest.fixture
def empty(tmp_path: Path) -> Told:
    return Told(tmp_path / "home")


def whole_lake(home: Path) -> Told:
    """Every table that the report reads."""
    lake = Told(home)
    tell(lake)
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
    lake.put("metrics", rows + check_rows())
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
    return Told(tmp_path / "copy", original.recipe)


@pytest.fixture(scope="session")
def _trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, str]:
    lake = Told(tmp_path_factory.mktemp("trial") / "home")
    tell(lake)
    lake.run("review")
    return lake, lake.experiment_page()


@pytest.fixture
def trial_page(_trial: tuple[Told, str]) -> str:
    """The page of the made-up experiment, made once."""
    return _trial[1]


@pytest.fixture
def drawn(_trial: tuple[Told, str], tmp_path: Path) -> Told:
    """A copy of its lake, free to be changed."""
    original = _trial[0]
    shutil.copytree(original.settings.home, tmp_path / "copy")
    return Told(tmp_path / "copy", original.recipe)


@pytest.fixture
def trial(drawn: Told, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The same without its figures, which take most of the time."""

    @contextmanager
    def undrawn(*_: object) -> Iterator[Drawing]:
        yield Drawing(MagicMock(), "<svg></svg>")

    monkeypatch.setattr(experiment_plots, "drawing", undrawn)
    return drawn
