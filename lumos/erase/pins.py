"""Let everything that names a version of a table name the one without the users.

The versions before it are about to go. What of them is in the newest one too, but for the users,
is pinned there; what is not (an older `sequences`, a publication that was superseded) loses its
entry, and its verb makes it again when somebody asks. All of it is found out from the tables'
logs, so that a run that was killed here is simply repeated.
"""

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lumos import ledger
from lumos.dates import first_of_window
from lumos.delta import (
    MAINTAIN,
    DataFile,
    data_files,
    is_marked,
    open_table,
    predicate,
    read,
    rewrite,
)
from lumos.erase.remove import MARK
from lumos.ledger import Entry
from lumos.serve.manifest import (
    LIVE,
    RETRACTED,
    SUPERSEDED,
    Checksum,
    Manifest,
    manifests_of,
    rows_at,
)
from lumos.serve.publish import table_of
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Request

log = logging.getLogger(__name__)

REASON = "a user was erased, and the rows of this publication went with its version"
# Of all days: whoever reads for a date leaves out what is of later ones. Late rows, though, that
# came after the date are in the newest version, and so are they for older dates from now on.
_ACCUMULATE = frozenset({"activity", "users", "exposures", "quarantine"})
_VACUUMS = ("VACUUM START", "VACUUM END")


@dataclass
class Move:
    """From the versions of a table to its newest one.

    Attributes:
        table: Its name.
        uri: Where it lies.
        newest: The version that stays.
        settled: The last version with rows that its verb wrote, and not we.
    """

    table: str
    uri: str
    newest: int
    settled: int
    _files: dict[int, list[DataFile] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, table: str, uri: str) -> Self:
        """As the table's log tells."""
        opened = DeltaTable(uri)
        ours = {
            commit["version"]
            for commit in opened.history()
            if commit.get("operation") in _VACUUMS
            or is_marked(commit, MARK)
            or is_marked(commit, MAINTAIN)
        }
        settled = opened.version()
        while settled in ours:
            settled -= 1
        return cls(table, uri, opened.version(), settled)

    def keeps(self, version: int, date: dt.date) -> bool:
        """Whether the newest version has what a version had for a date, but for the users."""
        if version >= self.settled or self.table in _ACCUMULATE:
            return True
        then, now = self.of_date(version, date), self.of_date(self.settled, date)
        return then is not None and then == now

    def of_date(self, version: int, date: dt.date) -> frozenset[str] | None:
        """Names of a date's files; ``None`` if they cannot be told from those of other dates."""
        files = self.files(version)
        if files is None or any("as_of" not in file.partition for file in files):
            return None
        return frozenset(file.path for file in files if file.partition["as_of"] == date)

    def is_the_same(self, version: int) -> bool:
        """Whether all that came after a version is that users were taken out."""
        return version >= self.settled

    def num_gone(self, version: int, first: dt.date, last: dt.date) -> int:
        """How many rows of some days a version has that the newest one has not."""
        then, now = self.files(version), self.files(self.newest)
        if then is None or now is None:
            return 0
        return _num_rows(then, first, last) - _num_rows(now, first, last)

    def num_raw_rows(self, version: int, first: dt.date, last: dt.date) -> float | None:
        """Raw rows that are counted in `activity` of some days; ``None``: the version is gone."""
        try:
            where = predicate(day=(first, last))
            rows = read(self.uri, version=version, columns=["num_raw_rows"], where=where)
        except (DeltaError, OSError):
            return None
        return None if rows is None else float(pc.sum(rows["num_raw_rows"]).as_py() or 0)

    def files(self, version: int) -> list[DataFile] | None:
        """Of a version; ``None`` if the log does not reach back to it."""
        if version not in self._files:
            try:
                self._files[version] = data_files(DeltaTable(self.uri, version=version))
            except DeltaError:
                self._files[version] = None
        return self._files[version]


def refuse_unfinished(request: Request) -> None:
    """Refuse while an aggregation is half done: the versions that it would go back to would go.

    Raises:
        BadInput: A day of the newest version is not what the ledger says of it.
    """
    uri = table_uri(request.settings, request.recipe, "activity")
    if open_table(uri) is None:
        return
    move, owner = Move.of("activity", uri), dict[dt.date, Entry]()
    for entry in ledger.entries(request.settings, request.recipe, "activity"):
        if entry.verdict == ledger.READY:  # oldest first: the latest that covers a day has it
            days = range((entry.business_date - entry.first_day).days + 1)
            owner |= {entry.first_day + dt.timedelta(days=n): entry for n in days}
    for day, entry in sorted(owner.items()):
        then, now = move.files(entry.version), move.files(move.settled)
        if then and now and _num_rows(then, day, day) != _num_rows(now, day, day):
            msg = (
                f"activity of {day} is not what the ledger pins for {entry.business_date}: an "
                "aggregation was interrupted. Run it again first (daily_aggregation of the date "
                f"that is red, or `lumos aggregate --date {entry.business_date} --force`)"
            )
            raise BadInput(msg)


def move_audits(request: Request, move: Move) -> None:
    """Let the raw rows that were counted of a date be those of the version that stays.

    `validate` holds them against each other, and would call what was erased lost.
    """
    uri = table_uri(request.settings, request.recipe, "metrics")
    schema = tables(request.recipe)["metrics"].arrow_schema(request.recipe)
    pinned = {
        entry.business_date: entry.version
        for entry in ledger.entries(request.settings, request.recipe, "activity")
        if entry.verdict == ledger.READY and entry.version != move.newest
    }

    def moved(rows: pa.Table) -> pa.Table | None:
        found = rows.to_pylist()
        audits = {
            (row["day"], row["name"]): row
            for row in found
            if (row["job"], row["segment"]) == ("aggregate", "raw")
        }
        for (day, name), row in audits.items():
            if name == "rows_counted" and day in pinned and (day, "window_days") in audits:
                first = first_of_window(day, int(audits[day, "window_days"]["value"]))
                # What is of the newest version already was moved by a run that was killed.
                if row["value"] == move.num_raw_rows(pinned[day], first, day):
                    row["value"] = move.num_raw_rows(move.newest, first, day)
        now = pa.Table.from_pylist(found, schema=rows.schema)
        return None if now.equals(rows) else now

    if pinned and open_table(uri) is not None:
        rewrite(uri, schema, moved)


def move_ledger(request: Request, moves: Mapping[str, Move]) -> None:
    """Let the ledger name the versions that stay."""
    lost: list[str] = []

    def moved(entry: Entry) -> Entry | None:
        inputs = {
            name: moves[name].newest
            if name in moves and isinstance(version, int) and moves[name].is_the_same(version)
            else version
            for name, version in entry.inputs.items()
        }
        entry = entry.model_copy(update={"inputs": inputs})
        move = moves.get(entry.table)
        if move is None or entry.version == move.newest:
            return entry
        if not move.keeps(entry.version, entry.business_date):
            lost.append(f"{entry.table} of {entry.business_date}")
            return None
        return _at_newest(entry, move)

    ledger.revise(request.settings, request.recipe, moved)
    if lost:
        log.info(
            "not ready any more, their verbs make them again: %s", ", ".join(sorted(set(lost)))
        )


def _at_newest(entry: Entry, move: Move) -> Entry:
    gone = move.num_gone(entry.version, entry.first_day, entry.business_date)
    now = {"version": move.newest, "rows": entry.rows - gone}
    written = tuple(
        each.model_copy(update=now) if each.table == entry.table else each
        for each in entry.report.tables
    )
    report = entry.report.model_copy(update={"tables": written})
    return entry.model_copy(update={**now, "report": report})


def move_manifests(request: Request, move: Move) -> None:
    """Let the manifests that are live vouch for the rows that stay; take the others back."""
    now = dt.datetime.now(dt.UTC)

    def moved(rows: pa.Table) -> pa.Table:
        found = [_manifest(request, move, each, now) for each in manifests_of(rows)]
        return pa.Table.from_pylist([each.model_dump() for each in found], schema=rows.schema)

    rewrite(*table_of(request), moved)


def _manifest(request: Request, move: Move, old: Manifest, now: dt.datetime) -> Manifest:
    if old.state == RETRACTED or old.scores_version == move.newest:
        return old
    if old.state == SUPERSEDED or not move.keeps(old.scores_version, old.as_of):
        if old.state == LIVE:
            log.warning(
                "the scores of %s are public no more: lumos sequences, lumos score --force, lumos "
                "publish --force",
                old.as_of,
            )
        return old.model_copy(update={"state": RETRACTED, "retracted": now, "reason": REASON})
    new = old.model_copy(update={"scores_version": move.newest})
    if move.of_date(old.scores_version, old.as_of) == move.of_date(move.newest, old.as_of):
        return new
    checksum = Checksum(request.recipe, old.columns)
    for rows in rows_at(move.uri, new):
        checksum.add(rows)
    return new.model_copy(update={"checksum": checksum.value, "num_rows": checksum.num_rows})


def _num_rows(files: list[DataFile], first: dt.date, last: dt.date) -> int:
    """Rows of some days; of all of them where the files do not say of which they are."""
    days = [file.partition.get("day", file.partition.get("as_of")) for file in files]
    return sum(
        file.num_rows
        for file, day in zip(files, days, strict=True)
        if day is None or first <= day <= last
    )
