"""What ``advance`` starts from and what it reads, found out from the ledger and the Delta logs."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lumos import ledger
from lumos.aggregate.travel import any_missing
from lumos.delta import DataFile, NotPlain, data_files, predicate, read
from lumos.tables import table_uri
from lumos.verbs import Request

JOB = "sequences"  # in `quarantine`
# Rows of changed days that a process holds for its bucket, each of some 100 bytes.
_MOST_ROWS_A_BUCKET = 5_000_000
_CANDIDATES = 3  # runs that are looked at: to open one takes a while


class CannotAdvance(Exception):
    """The sequences must be rebuilt; the message says why."""


@dataclass(frozen=True)
class Base:
    """Sequences of an earlier run, whole and readable.

    Attributes:
        entry: What the ledger says of that run.
        files: The file of each bucket that has users.
        columns: Activity columns that its days have.
        activity: The files by day of the ``activity`` it was made from.
    """

    entry: ledger.Entry
    files: Mapping[int, DataFile]
    columns: frozenset[str]
    activity: Mapping[dt.date, tuple[DataFile, ...]]


@dataclass(frozen=True)
class Plan:
    """What to build from.

    Attributes:
        base: Where the days come from that did not change.
        changed: The days that may have.
        new: Files of ``activity`` with all rows of the changed days.
        waiting: Users whose days the base run had to leave out.
        past: Files of ``activity`` in which those users' unchanged days are.
        users: Files of ``users``.
    """

    base: Base
    changed: frozenset[dt.date]
    new: tuple[DataFile, ...]
    waiting: tuple[str, ...]
    past: tuple[DataFile, ...]
    users: tuple[DataFile, ...]


def changed_days(
    before: Mapping[dt.date, Iterable[DataFile]],
    now: Mapping[dt.date, Iterable[DataFile]],
    *,
    base: dt.date,
    last: dt.date,
) -> frozenset[dt.date]:
    """Days up to ``last`` whose rows may not be those that a base has.

    Args:
        before: Files by day of the version that the base was made from.
        now: Files by day of the version that is pinned now; a file never changes.
        base: The last day that the base has.
        last: The last day wanted, not before ``base``.
    """

    def names(files: Iterable[DataFile]) -> set[str]:
        return {file.path for file in files}

    return frozenset(
        day
        for day in {*before, *now}
        if base < day <= last
        or (day <= base and names(before.get(day, ())) != names(now.get(day, ())))
    )


def make_plan(request: Request, activity: ledger.Entry, users: ledger.Entry) -> Plan:
    """Find a base and what changed since.

    Args:
        request: Of ``sequences``.
        activity: The ledger's entry whose version is pinned.
        users: Likewise.

    Raises:
        CannotAdvance: There is no base that would give what a rebuild gives.
    """
    if request.force:
        raise CannotAdvance("--force asks for it")
    base = _base(request)
    try:
        now = by_day(data_files(_table(request, "activity", activity.version)))
        user_files = data_files(_table(request, "users", users.version))
    except NotPlain as error:
        raise CannotAdvance(str(error)) from error
    first_active, num_days = _waiting(request, base.entry)
    last = base.entry.business_date
    changed = changed_days(base.activity, now, base=last, last=request.date)
    new = [file for day in changed for file in now.get(day, ())]
    # A user that waits has no day before its first one.
    since = min(first_active.values(), default=dt.date.max)
    past = [file for day in now if since <= day <= last and day not in changed for file in now[day]]
    num_rows = num_days + sum(file.num_rows for file in new)
    if num_rows > _MOST_ROWS_A_BUCKET * request.recipe.num_buckets:
        raise CannotAdvance(f"{len(changed)} days with {num_rows} rows changed")
    return Plan(base, changed, tuple(new), tuple(first_active), tuple(past), tuple(user_files))


def by_day(files: Iterable[DataFile]) -> dict[dt.date, tuple[DataFile, ...]]:
    """The files of ``activity`` by the day they hold."""
    found: dict[dt.date, tuple[DataFile, ...]] = {}
    for file in files:
        day = file.partition["day"]
        found[day] = (*found.get(day, ()), file)
    return found


def _table(request: Request, name: str, version: int) -> DeltaTable:
    return DeltaTable(table_uri(request.settings, request.recipe, name), version=version)


def _base(request: Request) -> Base:
    """The latest run up to the date whose sequences can still be read."""
    entries = ledger.entries(request.settings, request.recipe, "sequences")
    earlier = [e for e in entries if e.verdict == ledger.READY and e.business_date <= request.date]
    reasons = []
    for entry in earlier[: -_CANDIDATES - 1 : -1]:
        try:
            return _opened(request, entry)
        except (CannotAdvance, NotPlain, DeltaError) as error:
            reasons.append(f"that of {entry.business_date} is no base: {error}")
    raise CannotAdvance("; ".join(reasons) or "no earlier run")


def _opened(request: Request, entry: ledger.Entry) -> Base:
    recipe = request.recipe
    num_buckets = entry.report.details.get("num_buckets")
    if "activity" not in entry.inputs or num_buckets is None:
        raise CannotAdvance("it does not say what it was made from")
    if num_buckets != recipe.num_buckets:
        raise CannotAdvance(f"it has {num_buckets} buckets, not {recipe.num_buckets}")
    table = _table(request, "sequences", entry.version)
    found = data_files(table)
    files = {int(file.partition["bucket"]): file for file in found}
    if len(files) < len(found):
        raise CannotAdvance("it has several files a bucket")
    if any_missing(table_uri(request.settings, recipe, "sequences"), found):
        raise CannotAdvance("its files were vacuumed")
    columns = _day_columns(table)
    source = _table(request, "activity", int(entry.inputs["activity"]))
    there = {field.name for field in source.schema().fields}
    missing = sorted({c.name for c in recipe.activity} & there - columns)
    if missing:
        raise CannotAdvance(f"its days lack {', '.join(missing)}, which activity had")
    return Base(entry, files, columns, by_day(data_files(source)))


def _day_columns(table: DeltaTable) -> frozenset[str]:
    (days,) = (field for field in table.schema().fields if field.name == "days")
    fields = json.loads(days.to_json())["type"]["elementType"]["fields"]
    return frozenset(field["name"] for field in fields)


def _waiting(request: Request, base: ledger.Entry) -> tuple[dict[str, dt.date], int]:
    """First active day of each user that the base run put aside, and their days in all."""
    if not base.report.rows_rejected:
        return {}, 0
    where = predicate(job=JOB, day=base.business_date)
    version = int(base.report.details["quarantine_version"])
    try:
        rows = read(
            table_uri(request.settings, request.recipe, "quarantine"), version=version, where=where
        )
    except (DeltaError, OSError) as error:
        raise CannotAdvance(f"its quarantine cannot be read: {error}") from error
    if rows is None or pc.sum(rows["num_rows"]).as_py() != base.report.rows_rejected:
        raise CannotAdvance("its quarantine is gone")
    users = [json.loads(text) for text in rows["row"].to_pylist()]
    first = {user["user_id"]: dt.date.fromisoformat(user["first_active_on"]) for user in users}
    return first, sum(user["num_days"] for user in users)
