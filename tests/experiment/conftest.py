"""A lake with users and activity written straight into the contract tables: no raw data needed."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pytest

from lumos import ledger
from lumos.cli import VERBS
from lumos.config import Recipe
from lumos.delta import read, replace
from lumos.experiment.declaration import Experiment, Variant
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten
from tests.tracing import run_declared

START = dt.date(2024, 4, 20)


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "towels",
        "hypothesis": "a towel brings people back",
        "variants": (Variant(name="control", weight=0.5), Variant(name="target", weight=0.5)),
        "start": START,
        "planned_days": 28,
        "primary": {"metric": "dau", "direction": "up"},
        "guardrails": ({"metric": "offer_cost", "direction": "down"},),
        "columns": {"cost": "spend"},
        "minimum_effect": 0.1,
        "adjust": "none",
    }
    return Experiment.model_validate(fields | changes)


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def declare(folder: Path, *experiments: Experiment) -> None:
    """These files in the recipe's folder of experiments, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.toml"):
        path.unlink()
    for each in experiments:
        fields = each.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        lines = (f"{key} = {as_toml(value)}\n" for key, value in fields.items())
        (folder / f"{each.name}.toml").write_text("".join(lines), encoding="utf-8")


def gym_in(sql: Path) -> Recipe:
    """The gym with a folder of SQL of its own: its experiments, and perhaps metrics."""
    recipe = load("gym_world.recipe:recipe").model_dump()
    return Recipe.model_validate({**recipe, "sql": str(sql)})


@dataclass
class Lake:
    settings: Settings
    recipe: Recipe

    @classmethod
    def at(cls, home: Path, *experiments: Experiment) -> Self:
        lake = cls(Settings.from_environment({"LUMOS_HOME": str(home)}), gym_in(home / "sql"))
        lake.declare(*experiments)
        return lake

    @property
    def folder(self) -> Path:
        """Where experiments are declared."""
        return Path(self.recipe.sql) / "experiments"

    def declare(self, *experiments: Experiment) -> None:
        declare(self.folder, *experiments)

    def request(self, verb: str, date: dt.date, *, force: bool = False, **options: Any) -> Request:
        defaults = {flag.name: flag.default for flag in VERBS[verb].flags}
        return Request(
            verb=verb,
            recipe=self.recipe,
            date=date,
            settings=self.settings,
            options={**defaults, **options},
            force=force,
        )

    def run(self, verb: str, date: dt.date, **options: Any) -> Report:
        return run_declared(self.request(verb, date, **options))

    def run_with_users(self, verb: str, registered: Mapping[str, dt.date], date: dt.date) -> Report:
        self.users(registered, date)
        return self.run(verb, date)

    def write(self, name: str, rows: Sequence[Mapping[str, Any]], date: dt.date) -> int:
        """All rows of a table, ready for the date; returns the Delta version."""
        declared = tables(self.recipe)[name]
        table = pa.Table.from_pylist(list(rows), schema=declared.arrow_schema(self.recipe))
        uri = table_uri(self.settings, self.recipe, name)
        version = replace(uri, table, where=None, partition=declared.partition)
        self.ready(name, date, version)
        return version

    def ready(self, name: str, date: dt.date, version: int) -> None:
        request = self.request("aggregate", date)
        written = TableWritten(table=name, version=version, rows=1)
        ledger.record(request, request.report(tables=(written,)), inputs={"raw": version})

    def rows(self, name: str) -> list[dict[str, Any]]:
        found = read(table_uri(self.settings, self.recipe, name))
        listed = [] if found is None else found.to_pylist()
        return sorted(listed, key=lambda row: [str(value) for value in row.values()])

    def users(self, registered: Mapping[str, dt.date], date: dt.date, *earlier: dt.date) -> None:
        """Registrations, ready for the date and at the same version for earlier ones."""
        rows = [
            {"user_id": user, "valid_from": day, "registered_on": day, "plan": None, "age": None}
            for user, day in registered.items()
        ]
        version = self.write("users", rows, date)
        for day in earlier:
            self.ready("users", day, version)

    def activity(
        self, visits: Mapping[tuple[str, dt.date], float], date: dt.date, *, inactive: bool = False
    ) -> int:
        """Visits with what they cost; ``inactive`` rows have a cost but no visit."""
        rows = [
            {
                "user_id": user,
                "day": day,
                "visited": 0.0 if inactive else 1.0,
                "took_class": 0.0,
                "minutes": 30.0,
                "spend": spend,
                "num_raw_rows": 1,
            }
            for (user, day), spend in visits.items()
        ]
        return self.write("activity", rows, date)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "home", experiment())
