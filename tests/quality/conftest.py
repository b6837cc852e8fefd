"""A lake of the gym with flawless contract tables, written straight: no raw data needed."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from lumos import ledger
from lumos.delta import predicate, read, replace
from lumos.quality.validate import audit
from lumos.recipes import load
from lumos.tables import table_uri, tables
from lumos.verbs import TableWritten
from tests.conftest import RECIPE, World, enter

DATE = dt.date(2024, 5, 10)
FIRST = DATE - dt.timedelta(days=39)
GYM = load(RECIPE)


def active_row(user, day, **changes):
    values = {"visited": 1.0, "took_class": 0.0, "minutes": 60.0, "spend": 0.0, "num_raw_rows": 1}
    return {"user_id": user, "day": day, **values, **changes}


def activity_rows():
    """Forty days of ten users, a little different every day."""
    return [
        active_row(
            f"m-{user}é",
            FIRST + dt.timedelta(days=day),
            took_class=float((user + day) % 3 == 0),
            minutes=50.0 + (user * 7 + day * 3) % 11,
            spend=float((user + day) % 5),
            num_raw_rows=1 + user % 2,
        )
        for day in range(40)
        for user in range(10)
    ]


def user_rows():
    return [
        {
            "user_id": f"m-{user}é",
            "valid_from": FIRST,
            "registered_on": FIRST,
            "plan": None,
            "age": None if user else 30.0,
        }
        for user in range(10)
    ]


def event_rows():
    return [
        {
            "day": FIRST + dt.timedelta(days=day + 7),
            "known_on": FIRST + dt.timedelta(days=day),
            "num_classes": 2.0,
            "open_day": 0.0,
        }
        for day in range(40)
    ]


@dataclass(frozen=True)
class Lake:
    """Writes contract tables and ledger entries as aggregate would."""

    world: World

    def write(self, name, rows):
        """Replace a table and enter it as ready; returns its version."""
        table = tables(GYM)[name]
        uri = table_uri(self.world.settings, GYM, name)
        schema = table.arrow_schema(GYM)
        loose = pa.schema([field.with_nullable(True) for field in schema])
        version = replace(
            uri, pa.Table.from_pylist(rows, schema=loose), where=None, partition=table.partition
        )
        written = TableWritten(table=name, version=version, rows=len(rows))
        self.enter(written)
        return version

    def enter(self, written, inputs=None, verdict=ledger.READY):
        request = self.world.request("aggregate")
        ledger.record(
            request,
            request.report(tables=(written,)),
            inputs=inputs or {"raw": 1},
            first_day=FIRST,
            verdict=verdict,
        )

    def versions(self):
        names = ("activity", "event_context", "users")
        return {name: ledger.find(self.world.settings, GYM, name, DATE).version for name in names}

    def audit(self, spark, *, first_day=FIRST, **changes):
        """Audit the lake with true counts, some of them changed."""
        counted = sum(row["num_raw_rows"] for row in self.rows("activity"))
        conservation = {"landed": counted, "counted": counted, "counted_earlier": 0}
        return audit(
            spark,
            self.world.request("aggregate"),
            first_day=first_day,
            versions=self.versions(),
            conservation={**conservation, "quarantined": 0, **changes},
        )

    def rows(self, name, **where):
        found = read(
            table_uri(self.world.settings, GYM, name), where=predicate(**where) if where else None
        )
        return [] if found is None else found.to_pylist()

    def metrics(self, job):
        """Rows of ``metrics`` by segment and name."""
        return {(row["segment"], row["name"]): row for row in self.rows("metrics", job=job)}

    def metrics_version(self):
        entry = ledger.find(self.world.settings, GYM, "quality", DATE)
        return entry.version, entry.verdict


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark) -> Lake:
    """Flawless tables, ready in the ledger."""
    made = Lake(enter(World(tmp_path / "home"), monkeypatch))
    made.write("activity", activity_rows())
    made.write("users", user_rows())
    made.write("event_context", event_rows())
    return made
