"""A platform of a few users that is run for one date after another, without Spark and torch.

Rows are made up; the ledger, the tables, claims, commits and pins are the product's own.
"""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from lumos import audit, ledger
from lumos.aggregate import write
from lumos.aggregate.facts import Days
from lumos.aggregate.sequences import sequences
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.delta import predicate, replace, rewrite
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.manifest import LIVE, Checksum, Manifest
from lumos.serve.metrics import Metric, write_metrics
from lumos.serve.pieces import Pieces
from lumos.serve.publish import _with, table_of
from lumos.serve.score import Job
from lumos.serve.staging import claimed
from lumos.tables import table_uri, tables
from lumos.verbs import Request, TableWritten
from tests.conftest import RECIPE, World

FIRST_DAY = dt.date(2024, 1, 1)
NUM_USERS = 40
NUM_SHARDS = 1
_DAY = dt.timedelta(days=1)
# So short that the fiftieth day is one like all after it.
RETENTION = {
    "retention.versions_days": 8,
    "retention.forecasts_days": 20,
    "retention.scores_days": 20,
    "retention.metrics_days": 60,
    "retention.models_days": 30,
    "retention.reports_days": 30,
}


class Platform:
    """The tables of one recipe.

    Args:
        home: Where it lies.
    """

    def __init__(self, home: Path) -> None:
        self.world = World(home)
        self.recipe: Recipe = override(load(RECIPE), RETENTION)
        self.settings = self.world.settings
        self.schemas = {
            name: table.arrow_schema(self.recipe) for name, table in tables(self.recipe).items()
        }
        for name in ("activity", "event_context", "users", "quarantine"):
            write.ensure_table(self.settings, self.recipe, name)

    def uri(self, name: str) -> str:
        """Where a table lies."""
        return table_uri(self.settings, self.recipe, name)

    def request(self, verb: str, date: dt.date) -> Request:
        """Of a verb for a date."""
        return self.world.request(verb, date=date, recipe=self.recipe)

    def run(self, date: dt.date) -> None:
        """All that is written for a date."""
        self._aggregate(date)
        if date == FIRST_DAY:
            self._first_sequences(date)
        else:
            sequences(self.request("sequences", date))
        self._measure("validate", "quality", date)
        self._score(date)
        self._publish(date)
        self._embed(date)
        self._page(date)
        if date.weekday() == 0:
            audit.enter(self.request("promote", date), "version 1 becomes champion", "simulated")

    def activity(self, date: dt.date, first: dt.date) -> pa.Table:
        """Rows of the days up to a date, as they are known on it: some of a day come a day late."""
        found = []
        for number in range((date - first).days + 1):
            day = first + number * _DAY
            random = np.random.default_rng(day_number(day))
            users = random.permutation(NUM_USERS)[: NUM_USERS // 8]
            minutes = random.gamma(6, 10, len(users)).tolist()
            late = 1 if day == date else 0
            found += [
                {
                    "user_id": f"u{user:03d}",
                    "day": day,
                    **{c.name: minutes[k] for c in self.recipe.activity if c.kind != "binary"},
                    **{c.name: 1.0 for c in self.recipe.activity if c.kind == "binary"},
                    "num_raw_rows": 1,
                }
                for k, user in enumerate(users[: len(users) - late])
            ]
        return pa.Table.from_pylist(found, schema=self.schemas["activity"])

    def window(self, date: dt.date) -> Days:
        """The days that a date aggregates."""
        return Days(max(FIRST_DAY, date - (self.recipe.late_days - 1) * _DAY), date)

    def redo(self, date: dt.date) -> None:
        """Aggregate an old date again, and give its days back to the dates that know more."""
        days = self.window(date)
        runs = ledger.entries(self.settings, self.recipe, "activity")
        later = [run for run in runs if run.business_date > date]
        self._commit_activity(date)
        write.put_back(None, self.request("aggregate", date), "activity", days, later)  # type: ignore[arg-type]

    def _commit_activity(self, date: dt.date) -> int:
        days = self.window(date)
        rows = self.activity(date, days.first)
        return replace(self.uri("activity"), rows, where=predicate(day=(days.first, days.last)))

    def _aggregate(self, date: dt.date) -> None:
        versions = {"activity": self._commit_activity(date)}
        events = [{"day": date + 9 * _DAY, "known_on": date}]
        events[0] |= {c.name: float(date.day % 3) for c in self.recipe.events}  # type: ignore[arg-type]
        versions["event_context"] = replace(
            self.uri("event_context"),
            pa.Table.from_pylist(events, schema=self.schemas["event_context"]),
            where=predicate(known_on=(date, date)),
        )
        joined = range(NUM_USERS) if date == FIRST_DAY else range(0)
        users = [
            {"user_id": f"u{n:03d}", "valid_from": date, "registered_on": date} for n in joined
        ]
        versions["users"] = DeltaTable(self.uri("users")).version()
        if users:
            versions["users"] = replace(
                self.uri("users"),
                pa.Table.from_pylist(users, schema=self.schemas["users"]),
                where=predicate(valid_from=(date, date)),
            )
        if date.weekday() == 0:
            self._reject(date)
        asked = self.request("aggregate", date)
        written = tuple(TableWritten(table=n, version=v, rows=1) for n, v in versions.items())
        first = self.window(date).first
        ledger.record(asked, asked.report(tables=written), inputs={}, first_day=first)

    def _reject(self, date: dt.date) -> None:
        rejected = {"job": "aggregate", "day": date, "reason": "no user", "raw_table": "checkins"}
        replace(
            self.uri("quarantine"),
            pa.Table.from_pylist(
                [{**rejected, "row": "{}", "num_rows": 1}], schema=self.schemas["quarantine"]
            ),
            where=predicate(job="aggregate", day=(date, date)),
        )

    def _first_sequences(self, date: dt.date) -> None:
        """What Spark would build; every later date advances it."""
        rows = [
            {"user_id": f"u{n:03d}", "registered_on": date, "days": [], "bucket": 0}
            for n in range(NUM_USERS)
        ]
        version = replace(
            self.uri("sequences"),
            pa.Table.from_pylist(rows, schema=self.schemas["sequences"]),
            where=None,
            partition=("bucket",),
        )
        # As if of the day before: the first day is a change.
        asked = self.request("sequences", date)
        entry = ledger.find(self.settings, self.recipe, "activity", date)
        assert entry is not None
        report = asked.report(
            tables=(TableWritten(table="sequences", version=version, rows=len(rows)),),
            details={"num_buckets": self.recipe.num_buckets},
        )
        ledger.record(asked, report, inputs={"activity": entry.version, "users": 0})

    def job(self, date: dt.date) -> Job:
        """Of scoring a date."""
        return Job(self.request("score", date), [[] for _ in range(NUM_SHARDS)], day_number(date))

    def store_shard(self, job: Job, shard: int) -> int:
        """Commit one shard of made-up forecasts."""
        date = job.request.date
        rows = [
            {
                **{f.name: 0.5 for f in self.schemas["forecasts"] if pa.types.is_floating(f.type)},
                **{"as_of": date, "shard": shard, "user_id": f"u{user:03d}"},
                **{"horizon_day": date + (h + 1) * _DAY, "model_version": "1"},
            }
            for user in range(shard, NUM_USERS, NUM_SHARDS)
            for h in range(self.recipe.horizon_days)
        ]
        return job.store(shard, pa.Table.from_pylist(rows, schema=self.schemas["forecasts"]))

    def _score(self, date: dt.date) -> None:
        job = self.job(date)
        version = [self.store_shard(job, shard) for shard in range(NUM_SHARDS)][-1]
        asked = job.request
        pin = ledger.require(self.settings, self.recipe, "sequences", date, remedy="").version
        written = (TableWritten(table="forecasts", version=version, rows=NUM_USERS),)
        ledger.record(asked, asked.report(tables=written), inputs={"sequences": pin, "model": "1"})

    def _publish(self, date: dt.date) -> None:
        asked = self.request("publish", date)
        cells = {f.name: 0.5 for f in self.schemas["scores"] if pa.types.is_floating(f.type)}
        told = {"as_of": date, "model_version": "1", "calibrator_version": "c"}
        rows = pa.Table.from_pylist(
            [{**cells, **told, "user_id": f"u{n:03d}"} for n in range(NUM_USERS)],
            schema=self.schemas["scores"],
        )
        checksum = Checksum(self.recipe).add(rows)
        with claimed(asked) as staging:
            staging.write(0, [rows])
            version = staging.commit()
        manifest = Manifest(
            **told,
            scores_version=version,
            state=LIVE,
            num_rows=checksum.num_rows,
            columns=checksum.columns,
            checksum=checksum.value,
            inputs="{}",
            spread="{}",
            created=dt.datetime.combine(date, dt.time(), dt.UTC),
            valid_until=date + self.recipe.publishing.valid_days * _DAY,
        )
        rewrite(*table_of(asked), lambda found: _with(found, manifest))
        written = (TableWritten(table="scores", version=version, rows=NUM_USERS),)
        ledger.record(asked, asked.report(tables=written), inputs={"model": "1"})

    def _embed(self, date: dt.date) -> None:
        asked = self.request("embed", date)
        pieces = Pieces.of(asked, "embeddings", {})
        rows = [
            {
                **{"as_of": date, "kind": "user", "bucket": 0, "id": f"u{n:03d}"},
                **{"model_version": "1", "form": "mean", "embedding": [0.5] * 8},
            }
            for n in range(NUM_USERS)
        ]
        made = pa.Table.from_pylist(rows, schema=pieces.schema)
        version = pieces.store(0, made, bucket=0)
        written = (TableWritten(table="embeddings", version=version, rows=NUM_USERS),)
        ledger.record(asked, asked.report(tables=written), inputs={"model": "1"})

    def _measure(self, verb: str, entered: str, date: dt.date) -> None:
        asked = self.request(verb, date)
        done = write_metrics(asked, [Metric(f"metric {n}", float(n)) for n in range(10)])
        written = (TableWritten(table=entered, version=done.version, rows=10),)
        ledger.record(asked, asked.report(), inputs={}, tables_written=written)

    def _page(self, date: dt.date) -> None:
        page = self.settings.home / "reports" / self.recipe.name / f"{date}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<p>" * 1000)
