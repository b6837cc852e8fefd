"""A lake with users and activity written straight into the contract tables: no raw data needed."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lumos import ledger
from lumos.cli import VERBS, run
from lumos.config import Experiment, Recipe, Variant
from lumos.delta import read, replace
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten

START = dt.date(2024, 4, 20)


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "towels",
        "hypothesis": "a towel brings people back",
        "variants": (Variant(name="control", weight=0.5), Variant(name="target", weight=0.5)),
        "start": START,
        "planned_days": 28,
        "cost": "spend",
    }
    return Experiment.model_validate(fields | changes)


def gym_with(*experiments: Experiment) -> Recipe:
    recipe = load("gym_world.recipe:recipe").model_dump()
    return Recipe.model_validate({**recipe, "experiments": experiments})


@dataclass
class Lake:
    settings: Settings
    recipe: Recipe

    @classmethod
    def at(cls, home: Path, recipe: Recipe) -> "Lake":
        return cls(Settings.from_environment({"LUMOS_HOME": str(home)}), recipe)

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
        return run(self.request(verb, date, **options))

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
    return Lake.at(tmp_path / "home", gym_with(experiment()))
