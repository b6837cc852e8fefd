"""One table: old rows out, small files together, and what no version needs any more removed.

Each step is one commit of its own or none, and any of them may be the last: a run that is killed is
simply repeated. Where another writer was faster, the step is left for the next run.
"""

import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from lumos.accio.storage import filesystem_of
from lumos.delta import MAINTAIN, data_files, marked, open_table
from lumos.maintain import files
from lumos.maintain.rules import Rule, before

log = logging.getLogger(__name__)

_CLEANUP = "delta.enableExpiredLogCleanup"
_EPOCH = dt.date(1970, 1, 1)  # rows of an unknown day stand there, and stay


# Versions that must stay readable; `None`: all of them.
Kept = list[int] | None


@dataclass(frozen=True)
class Clock:
    """From which days retention counts back.

    Attributes:
        today: For files.
        newest: The newest business date, for rows.
    """

    today: dt.date
    newest: dt.date

    def moment(self, days: int) -> dt.datetime:
        """Files written before it are older than so many days."""
        return dt.datetime.combine(before(self.today, days), dt.time(), dt.UTC)


def tend(
    rule: Rule, pins: Iterable[int], clock: Clock, *, is_held: bool, is_dry_run: bool
) -> dict[str, int]:
    """Maintain a table, or only count what there is to do.

    Args:
        rule: How.
        pins: Versions that must stay readable.
        clock: What day it is.
        is_held: Whether a running job reads versions that nobody else names: none is removed.
        is_dry_run: Change nothing.

    Returns:
        What was or would be removed; without what is zero.
    """
    if open_table(rule.uri) is None:
        return {}
    done: dict[str, int] = {}
    kept = None if is_held else _readable(rule.uri, pins)
    for step in (_rows, _properties, _compact, _vacuum, _checkpoint, _log, _left_over):
        try:
            done |= step(rule, kept, clock, is_dry_run)
        except CommitFailedError as error:
            log.info("%s: left for the next run, others write to it: %s", rule.table, error)
    return {name: number for name, number in done.items() if number}


def _rows(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    if not rule.day_column:
        return {}
    first, column = before(clock.newest, rule.row_days), rule.day_column
    table = DeltaTable(rule.uri)
    old = [file for file in data_files(table) if _EPOCH < file.partition[column] < first]
    if old and not is_dry_run:
        where = f"\"{column}\" > DATE '{_EPOCH}' AND \"{column}\" < DATE '{first}'"
        table.delete(where, commit_properties=marked(MAINTAIN))
    return {"rows": sum(file.num_rows for file in old)}


def _properties(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    """Let nothing else remove what stays here.

    By itself Delta cleans a log up with any commit, whatever is pinned.
    """
    table = DeltaTable(rule.uri)
    wanted = {
        _CLEANUP: "false",
        "delta.deletedFileRetentionDuration": f"interval {rule.file_days} days",
        "delta.logRetentionDuration": f"interval {rule.log_days} days",
    }
    found = table.metadata().configuration
    if not is_dry_run and any(found.get(name) != value for name, value in wanted.items()):
        table.alter.set_table_properties(wanted, commit_properties=marked(MAINTAIN))
    return {}


def _compact(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    if not rule.is_compacted:
        return {}
    table = DeltaTable(rule.uri)
    found = data_files(table)
    num_parts = len({tuple(file.partition.items()) for file in found})
    if len(found) <= num_parts:
        return {}
    if is_dry_run:
        return {"files_compacted": len(found) - num_parts}
    made = table.optimize.compact(commit_properties=marked(MAINTAIN))
    return {"files_compacted": int(made["numFilesRemoved"]) - int(made["numFilesAdded"])}


def _checkpoint(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    """So that a reader opens one file, and the log before it may go later."""
    table = DeltaTable(rule.uri)
    logs = files.listing(f"{rule.uri}/{files.LOG}")
    newest = max((each.version or 0 for each in logs if each.is_checkpoint), default=-1)
    if not is_dry_run and newest < table.version():
        table.create_checkpoint()
    return {}


def _readable(uri: str, versions: Iterable[int]) -> list[int]:
    """Those of the versions that can be opened now."""
    found = []
    for version in sorted(set(versions)):
        try:
            DeltaTable(uri, version=version)
        except DeltaError:
            continue
        found.append(version)
    return found


def _vacuum(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    """Files that no version needs which is pinned or young; those of writers that died as well."""
    if kept is None:
        return {}
    age = dt.datetime.now(dt.UTC) - clock.moment(rule.file_days)
    hours = int(age.total_seconds() // 3600) + 1

    def vacuum(*, dry_run: bool) -> list[str]:
        return DeltaTable(rule.uri).vacuum(
            retention_hours=hours,
            dry_run=dry_run,
            enforce_retention_duration=False,  # of the table's property, which need not be set yet
            full=True,
            keep_versions=kept or None,
            commit_properties=None if dry_run else marked(MAINTAIN),
        )

    gone = vacuum(dry_run=True)
    if not gone:
        return {}
    system, prefix = filesystem_of(rule.uri)
    root = rule.uri.removeprefix(prefix)
    infos = system.get_file_info([f"{root}/{name}" for name in gone])
    if not is_dry_run:
        vacuum(dry_run=False)
    return {"files": len(gone), "bytes": sum(info.size or 0 for info in infos)}


def _log(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    """The log before the last checkpoint that is old enough."""
    if kept is None:
        return {}
    logs = list(files.listing(f"{rule.uri}/{files.LOG}"))
    cutoff = dt.datetime.now(dt.UTC) - dt.timedelta(days=rule.log_days)
    base = [each.version or 0 for each in logs if each.is_checkpoint and each.written <= cutoff]
    first = max(base, default=0)
    # Who lost the race for the property would have Delta remove what is younger.
    wanted = f"interval {rule.log_days} days"
    found = DeltaTable(rule.uri).metadata().configuration.get("delta.logRetentionDuration")
    if found != wanted and not is_dry_run:
        return {}
    if any(version < first for version in kept):
        log.info("%s: its log stays, for version %d is pinned", rule.table, min(kept))
        return {}
    old = [each for each in logs if each.version is not None and each.version < first]
    if old and not is_dry_run:
        DeltaTable(rule.uri).cleanup_metadata()
    return {"log_files": len(old), "log_bytes": sum(each.size for each in old)}


def _left_over(rule: Rule, kept: Kept, clock: Clock, is_dry_run: bool) -> dict[str, int]:
    found = files.left_over(files.listing(rule.uri), clock.moment(rule.file_days))
    if not is_dry_run:
        files.delete(rule.uri, found)
    return {"left_over": len(found)}
