"""A platform whose aggregated tables a test writes itself: a day costs a commit, not a job."""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from lumos import ledger
from lumos.aggregate import write
from lumos.aggregate.changes import JOB
from lumos.config import ActivityColumn, Recipe
from lumos.delta import open_table, predicate, read, replace
from lumos.tables import table_uri, tables
from lumos.verbs import Report, TableWritten
from tests.aggregate.shop import D, recipe
from tests.conftest import World

FIRST = D - dt.timedelta(days=30)
TIPS = ActivityColumn(name="tips", kind="continuous", unit="INR")


def with_tips(given: Recipe) -> Recipe:
    """The recipe after it has gained an activity column."""
    fields = given.model_dump()
    return Recipe.model_validate({**fields, "activity": [*fields["activity"], TIPS.model_dump()]})


class Ready(World):
    """A lake of ``activity`` and ``users`` that are ready; both start empty."""

    def put_days(
        self, rows: Mapping[dt.date, Mapping[str, float]], given: Recipe | None = None
    ) -> None:
        """Replace days of activity: the amount of each active user, by day."""
        shape = given or recipe()
        write.ensure_table(self.settings, shape, "activity")
        extra = {c.name: 0.5 for c in shape.activity if c.name not in ("bought", "amount")}
        for day, amounts in rows.items():
            found = [
                {"user_id": user, "day": day, "bought": 1.0, "amount": amount, "num_raw_rows": 1}
                | extra
                for user, amount in amounts.items()
            ]
            schema = tables(shape)["activity"].arrow_schema(shape)
            table = pa.Table.from_pylist(found, schema=schema)
            replace(self.uri("activity"), table, where=predicate(day=day))

    def put_users(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace all of ``users``."""
        write.ensure_table(self.settings, recipe(), "users")
        schema = tables(recipe())["users"].arrow_schema(recipe())
        replace(self.uri("users"), pa.Table.from_pylist(list(rows), schema=schema), where=None)

    def enter(self, date: dt.date, given: Recipe | None = None) -> None:
        """Say that activity and users are ready for a date, as they are now."""
        shape = given or recipe()
        for name in ("activity", "users", "quarantine"):
            write.ensure_table(self.settings, shape, name)
        request = self.request("aggregate", date=date, recipe=shape)
        versions = {name: self.version(name) for name in ("activity", "users")}
        written = tuple(TableWritten(table=n, version=v, rows=0) for n, v in versions.items())
        ledger.record(request, request.report(tables=written), inputs=versions, first_day=FIRST)

    def sequences(self, date: dt.date, given: Recipe | None = None, **options: Any) -> Report:
        """Run the verb."""
        return self.run("sequences", date=date, recipe=given or recipe(), **options)

    def uri(self, name: str) -> str:
        """Where a contract table lies."""
        return table_uri(self.settings, recipe(), name)

    def version(self, name: str) -> int:
        """The newest version of a contract table."""
        table = open_table(self.uri(name))
        assert table is not None
        return table.version()

    def users(self, version: int) -> pa.Table:
        """Rows of ``sequences``, sorted by user; the columns in one order."""
        found = read(self.uri("sequences"), version=version)
        assert found is not None
        return found.select(sorted(found.column_names)).sort_by("user_id").combine_chunks()

    def waiting(self, date: dt.date) -> list[str]:
        """What the verb put aside for a date."""
        found = read(self.uri("quarantine"), where=predicate(job=JOB, day=date))
        return sorted(found["row"].to_pylist()) if found is not None else []
