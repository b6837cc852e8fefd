"""The verb ``maintain``: remove what is past its retention, and keep tables quick to open.

It may run at any moment beside any verb, and be killed at any. What names old versions goes first
(entries of the ledger, manifests), the versions themselves two weeks later: no job that has read
such a name is still at work then.
"""

import logging
from collections.abc import Sequence

import pyarrow as pa
from deltalake.exceptions import CommitFailedError

from lumos import ledger
from lumos.delta import NotPlain, open_table, rewrite
from lumos.ledger import Entry
from lumos.maintain.folders import is_training, tend_folders
from lumos.maintain.models import tend_models
from lumos.maintain.pins import pinned
from lumos.maintain.rules import before, entry_days, row_days, rules
from lumos.maintain.tending import Clock, tend
from lumos.progress import progress
from lumos.serve.manifest import LIVE, Manifest, manifests_of, read_manifests
from lumos.serve.publish import table_of
from lumos.tables import ALERTS, alerts_uri
from lumos.verbs import Report, Request

log = logging.getLogger(__name__)

# What a training reads again and again, at the versions that it pinned when it began.
_TRAINED_ON = ("sequences", "event_context", "users", "activity")


def maintain(request: Request) -> Report:
    """Remove what ``retention`` of the recipe no longer keeps; with ``--dry-run`` only count it.

    Compaction, checkpoints, vacuum and log clean-up of every table; rows, entries of the ledger and
    manifests past their days; pages, states of trainings, models. Twice is once.
    """
    settings, recipe = request.settings, request.recipe
    entries = ledger.all_entries(settings, recipe)
    newest = max((entry.business_date for entry in entries), default=request.date)
    clock = Clock(request.date, min(newest, request.date))
    old, entries = _entries(request, entries, clock)
    forgotten, manifests = _manifests(request, clock)
    removed: dict[str, object] = {
        "ledger_entries": old,
        "manifests": forgotten,
        "alerts": _alerts(request, clock),
        "models": tend_models(request, _models(entries, manifests), clock),
        "folders": tend_folders(request, (m.calibrator_version for m in manifests), clock),
        "tables": _tables(request, entries, manifests, clock),
    }
    done = {what: found for what, found in removed.items() if found}
    for what, found in done.items():
        log.info(
            "%s %s: %s", "would remove" if request.options["dry_run"] else "removed", what, found
        )
    return request.report(
        details={"is_dry_run": request.options["dry_run"], **removed}, already_done=not done
    )


def _entries(request: Request, entries: Sequence[Entry], clock: Clock) -> tuple[int, list[Entry]]:
    """Take out of the ledger what is past its days; how many, and the others."""

    def is_old(entry: Entry) -> bool:
        days = entry_days(request.recipe, entry.table)
        return days is not None and entry.business_date < before(clock.newest, days)

    kept = [entry for entry in entries if not is_old(entry)]
    if len(kept) == len(entries) or request.options["dry_run"]:
        return len(entries) - len(kept), kept
    try:
        ledger.revise(
            request.settings, request.recipe, lambda entry: None if is_old(entry) else entry
        )
    except CommitFailedError as error:
        log.info("the ledger: left for the next run, others write to it: %s", error)
        return 0, list(entries)
    return len(entries) - len(kept), kept


def _manifests(request: Request, clock: Clock) -> tuple[int, list[Manifest]]:
    """Take out manifests whose rows are past their days, unless they may still be used."""
    first = before(clock.newest, row_days(request.recipe)["scores"])

    def is_old(manifest: Manifest) -> bool:
        is_valid = manifest.state == LIVE and manifest.valid_until >= clock.today
        return manifest.as_of < first and not is_valid

    def without(rows: pa.Table) -> pa.Table | None:
        found = manifests_of(rows)
        kept = [each.model_dump() for each in found if not is_old(each)]
        return None if len(kept) == rows.num_rows else pa.Table.from_pylist(kept, rows.schema)

    found = read_manifests(request.settings, request.recipe)
    kept = [each for each in found if not is_old(each)]
    if len(kept) == len(found) or request.options["dry_run"]:
        return len(found) - len(kept), kept
    try:
        rewrite(*table_of(request), without)
    except CommitFailedError as error:
        log.info("manifests: left for the next run, others write to them: %s", error)
        return 0, found
    return len(found) - len(kept), kept


def _alerts(request: Request, clock: Clock) -> int:
    """Take out alerts that were resolved, and not seen for as long as metrics stay."""
    until = clock.moment(row_days(request.recipe)["metrics"])
    removed = 0

    def without(rows: pa.Table) -> pa.Table | None:
        nonlocal removed
        found = rows.to_pylist()
        kept = [row for row in found if row["state"] == "open" or row["last_seen"] >= until]
        removed = len(found) - len(kept)
        if not removed or request.options["dry_run"]:
            return None
        return pa.Table.from_pylist(kept, schema=rows.schema)

    if open_table(alerts_uri(request.settings)) is not None:
        try:
            rewrite(alerts_uri(request.settings), ALERTS.arrow_schema(), without)
        except CommitFailedError as error:
            log.info("alerts: left for the next run, others write to them: %s", error)
            return 0
    return removed


def _models(entries: Sequence[Entry], manifests: Sequence[Manifest]) -> set[str]:
    """Versions that somebody may ask for by what stays; of `model` itself the newest."""
    found = {manifest.model_version for manifest in manifests}
    found |= {str(e.inputs["model"]) for e in entries if "model" in e.inputs}
    return found


def _tables(
    request: Request, entries: Sequence[Entry], manifests: Sequence[Manifest], clock: Clock
) -> dict[str, dict[str, int]]:
    recipe = request.recipe
    first = before(clock.newest, recipe.retention.versions_days)
    pins = pinned(recipe, entries, manifests, first)
    held = _TRAINED_ON if is_training(request, clock) else ()
    if held:
        log.info("a training is under way: versions of %s stay", ", ".join(held))
    found: dict[str, dict[str, int]] = {}
    every = rules(request.settings, recipe)
    with progress("maintaining", len(every)) as advance:
        for rule in every:
            try:
                done = tend(
                    rule,
                    pins.get(rule.table, ()),
                    clock,
                    is_held=rule.table in held,
                    is_dry_run=request.options["dry_run"],
                )
            except NotPlain as error:
                log.warning("left alone: %s", error)
                done = {}
            found |= {rule.table: done} if done else {}
            advance(note=rule.table)
    return found
