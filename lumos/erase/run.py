"""The verb ``erase``: take users out of everything that LUMOS wrote, and prove it by a scan.

What a platform itself landed is its own: while it still holds the users, nothing is done, for they
would be back with the next aggregation. What only counts or was learned from many (metrics,
effects, a model's weights) stays.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lumos import audit, lock
from lumos.delta import NotPlain, data_files, open_table
from lumos.erase.asked import asked_requests, asked_users
from lumos.erase.beyond import not_reached
from lumos.erase.pages import exports, naming
from lumos.erase.pins import Move, move_audits, move_ledger, move_manifests, refuse_unfinished
from lumos.erase.places import Place, Users, places
from lumos.erase.raw import raw_rows
from lumos.erase.remove import forget, remove
from lumos.erase.scan import Held, scan
from lumos.progress import progress
from lumos.serve.export import open_store
from lumos.verbs import BadInput, Report, Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A table that holds something of the users."""

    place: Place
    uri: str
    held: Held

    @property
    def num_rows(self) -> int:
        """Rows of theirs in the newest version."""
        table = open_table(self.uri)
        live = data_files(table) if table is not None else []
        return sum(self.held.files.get(file.path, 0) for file in live)


def erase(request: Request) -> Report:
    """Erase users, of one recipe or of all; with ``--dry-run`` say what there is of them.

    Killed anywhere, it is simply run again. It waits for verbs that run, and those that begin
    meanwhile wait for it (:mod:`lumos.lock`). What writes to the tables without that lock may bring
    the users back, which the last scan finds out.

    Raises:
        BadInput: No user is named, a raw table still holds one, or a table has deletion vectors,
            or an aggregation was interrupted. With ``--all-recipes`` those before it are done.
        Locked: Another erasure runs, or a verb does not end.
        RuntimeError: Something wrote to the tables meanwhile; a rerun goes on.
    """
    users = asked_users(request)
    if any(user in (request.options["reason"] or "") for user in users.ids):
        msg = "--reason is kept, and names a user who is to be forgotten: word it without the id"
        raise BadInput(msg)
    is_dry_run = request.options["dry_run"]
    reports = {}
    for each in asked_requests(request):
        with lock.shared(each) if is_dry_run else lock.exclusive(each):
            reports[each.recipe.name] = _erase(each, users)
    own = reports[request.recipe.name]
    others = {name: report.details for name, report in reports.items() if report is not own}
    return request.report(
        metrics=own.metrics,
        details={**own.details, "other_recipes": others, "not_reached": not_reached()},
        already_done=all(report.already_done for report in reports.values()),
    )


def _erase(request: Request, users: Users) -> Report:
    settings, recipe = request.settings, request.recipe
    raw, found = raw_rows(settings, recipe, users), _scan(request, users)
    pages = [*naming(settings, recipe, users), *exports(settings, recipe, users)]
    rows = {each.place.table: each.num_rows for each in found}
    details: dict[str, object] = {
        "num_users": len(users),
        "raw": raw,
        "rows": rows,
        "files": {each.place.table: len(each.held.files) for each in found},
        "pages": [str(path) for path in pages],
    }
    if request.options["dry_run"]:
        return request.report(details={**details, "is_dry_run": True})
    if raw:
        raise BadInput(_still_landed(raw))
    refuse_unfinished(request)
    audit.enter(request, f"users erased: {len(users)}", "no reason given")
    stores = _erase_from_stores(request, users)
    _unlink(pages)
    _erase_from_tables(request, found, users)
    if left := _scan(request, users):
        names = ", ".join(each.place.table for each in left)
        msg = f"{names} hold the users again: something wrote meanwhile. Let nothing run, repeat"
        raise RuntimeError(msg)
    log.info("no file of any table names the users any more")
    return request.report(
        metrics={f"{name}.num_rows": float(number) for name, number in rows.items()},
        details={**details, "stores": stores, "is_dry_run": False},
        already_done=not found and not pages and not any(stores.values()),
    )


def _scan(request: Request, users: Users) -> list[Found]:
    all_places, found = places(request.recipe), []
    with progress("looking for the users", len(all_places)) as advance:
        for place in all_places:
            uri = place.uri(request.settings, request.recipe)
            try:
                held = scan(uri, place, users)
            except NotPlain as error:
                msg = f"{error}: have Spark write its files anew (REORG TABLE ... APPLY (PURGE))"
                raise BadInput(msg) from error
            if held:
                found.append(Found(place, uri, held))
            advance(note=place.table)
    return found


def _still_landed(raw: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} ({number} rows)" for name, number in raw.items())
    return (
        f"raw tables still hold the users: {told}. They are the platform's, and would bring them "
        "back with the next aggregation: erase them there first, and repeat this"
    )


def _erase_from_stores(request: Request, users: Users) -> dict[str, int]:
    found = {}
    for config in request.recipe.publishing.stores:
        found[config.name] = open_store(config, request.recipe.name).erase(users.ids)
        log.info("store %s: %d rows removed", config.name, found[config.name])
    return found


def _unlink(pages: list[Path]) -> None:
    for path in pages:
        path.unlink(missing_ok=True)
        log.info("removed %s", path)


def _erase_from_tables(request: Request, found: list[Found], users: Users) -> None:
    """New versions first, then what names the old ones, then the old ones."""
    for each in found:
        num_rows = remove(each.uri, each.place, each.held, users)
        log.info("%s: %d rows removed", each.place.table, num_rows)
    moves = {
        each.place.table: Move.of(each.place.table, each.uri)
        for each in found
        if each.place.scrubbed is None
    }
    if "activity" in moves:
        move_audits(request, moves["activity"])
    if "scores" in moves:
        move_manifests(request, moves["scores"])
    if moves:
        move_ledger(request, moves)
    for each in found:
        forget(each.uri, each.held)
