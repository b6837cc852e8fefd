"""A day of a table, written piece by piece, so that whoever is killed goes on where they were.

A piece is one Delta commit, and in the same commit stands a transaction that names the piece and
a number for everything it was made from. So a piece is whole or not there, a rerun skips what was
done, and nobody takes another model's piece for their own.
"""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable, Transaction

from lumos import ledger
from lumos.delta import open_table, predicate, replace
from lumos.tables import Table, table_uri, tables
from lumos.verbs import Request, TableWritten


@dataclass(frozen=True)
class Pieces:
    """What a run writes to one table for its date.

    Attributes:
        request: Of the run.
        name: The table's.
        token: A number that changes with anything that the rows are made from.
    """

    request: Request
    name: str
    token: int

    @classmethod
    def of(cls, request: Request, name: str, inputs: dict[str, int | str]) -> "Pieces":
        """Pieces made from these inputs, the recipe and the options."""
        # 60 bits of the fingerprint: Delta keeps the number as a signed 64-bit one.
        return cls(request, name, int(ledger.fingerprint(request, inputs)[:15], 16))

    @property
    def uri(self) -> str:
        """Where the table lies."""
        return table_uri(self.request.settings, self.request.recipe, self.name)

    @property
    def declared(self) -> Table:
        """The table's declaration."""
        return tables(self.request.recipe)[self.name]

    @property
    def schema(self) -> pa.Schema:
        """Of its rows."""
        return self.declared.arrow_schema(self.request.recipe)

    def done(self, wanted: Collection[str | int]) -> set[str | int]:
        """Those whose newest commit was made from exactly the same things."""
        return set() if self.request.force else self._done(wanted, open_table(self.uri))

    def store(self, piece: str | int, rows: pa.Table, **where: str | int | list[str]) -> int:
        """Commit a piece in the place of the date's rows ``where``; returns the Delta version."""
        return replace(
            self.uri,
            rows,
            where=predicate(as_of=self.request.date, **where),
            partition=self.declared.partition,
            transaction=Transaction(self._transaction(piece), self.token),
        )

    def clear_other_buckets(self, buckets: Collection[int]) -> None:
        """Remove the date's rows of buckets that there are no more."""
        for bucket in sorted(set(self._rows_by_bucket(open_table(self.uri))) - set(buckets)):
            self.store(f"other {bucket}", self.schema.empty_table(), bucket=bucket)

    def written(self, wanted: Collection[str | int]) -> TableWritten:
        """A version of the table in which all pieces of the date are ours.

        Raises:
            RuntimeError: Another run has written the same day meanwhile; a retry settles it.
        """
        table = DeltaTable(self.uri)
        others = sorted(map(str, set(wanted) - self._done(wanted, table)))
        if others:
            msg = f"another run replaced {self.name} {', '.join(others)} of {self.request.date}"
            raise RuntimeError(msg)
        rows = sum(self._rows_by_bucket(table).values())
        return TableWritten(table=self.name, version=table.version(), rows=rows)

    def _done(self, wanted: Collection[str | int], table: DeltaTable | None) -> set[str | int]:
        return {
            piece
            for piece in wanted
            if table is not None
            and table.transaction_version(self._transaction(piece)) == self.token
        }

    def _transaction(self, piece: str | int) -> str:
        """One name a table, day and piece: days that are written at once do not meet."""
        return f"lumos.{self.name}/{self.request.date}/{piece}"

    def _rows_by_bucket(self, table: DeltaTable | None) -> dict[int, int]:
        """Rows of the date, from the table's log alone."""
        counted: dict[int, int] = {}
        actions = [] if table is None else pa.table(table.get_add_actions(flatten=True)).to_pylist()
        for action in actions:
            if str(action["partition.as_of"]) == str(self.request.date):
                bucket = int(action["partition.bucket"])
                counted[bucket] = counted.get(bucket, 0) + int(action["num_records"])
        return counted
