"""The verb ``retract``: take back what was published for a date; who reads next gets the previous.

Nothing is deleted: the manifest says when and why, and the rows stay for whoever looks into it.
"""

import datetime as dt
import logging
from collections.abc import Sequence

import pyarrow as pa

from lumos import audit
from lumos.delta import rewrite
from lumos.serve.manifest import (
    LIVE,
    RETRACTED,
    SUPERSEDED,
    Manifest,
    manifests_of,
    read_manifests,
    today_in,
    valid_manifest,
)
from lumos.serve.publish import table_of
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)


def retract(request: Request) -> Report:
    """Take back the newest publication of ``--date``, or its ``--version``.

    The publication of the same date before it, if there is one that was not taken back, is live
    again; else readers get that of an earlier date, while it is valid. Doing it again changes
    nothing.

    Raises:
        BadInput: Nothing was published for the date, or not that version.
    """
    settings, recipe = request.settings, request.recipe
    chosen = _chosen(request, read_manifests(settings, recipe))
    details = {"scores_version": chosen.scores_version}
    if chosen.state == RETRACTED:
        now = _readers_see(request)
        return request.report(already_done=True, details={**details, "readers_see": now})
    reason = request.options.get("reason") or "no reason given"
    audit.enter(
        request, f"scores of {chosen.as_of}, version {chosen.scores_version}, retracted", reason
    )
    version = rewrite(
        *table_of(request), lambda rows: _without(rows, chosen, dt.datetime.now(dt.UTC), reason)
    )
    now = _readers_see(request)
    log.info("took back the scores of %s, version %d", chosen.as_of, chosen.scores_version)
    log.info("readers now see: %s", now)
    return request.report(
        tables=(TableWritten(table="manifests", version=version, rows=1),),
        details={**details, "reason": reason, "readers_see": now},
    )


def _chosen(request: Request, manifests: Sequence[Manifest]) -> Manifest:
    of_date = [manifest for manifest in manifests if manifest.as_of == request.date]
    wanted = request.options.get("version")
    named = [m for m in of_date if wanted in (None, m.scores_version)]
    if not named:
        dates = sorted({manifest.as_of.isoformat() for manifest in manifests})[-5:]
        there = [f"version {m.scores_version} ({m.state})" for m in of_date]
        what = "" if wanted is None else f"version {wanted} of "
        msg = (
            f"{what}{request.date} was never published for recipe {request.recipe.name}; "
            f"there are {', '.join(there or dates) or 'no publications'}"
        )
        raise BadInput(msg)
    return named[-1]


def _without(rows: pa.Table, chosen: Manifest, now: dt.datetime, reason: str) -> pa.Table | None:
    """All manifests, one of them retracted, and the previous of its date live in its place."""
    found = [m.model_dump() for m in manifests_of(rows)]
    of_date = [m for m in found if m["as_of"] == chosen.as_of]
    (taken,) = (m for m in of_date if m["scores_version"] == chosen.scores_version)
    if taken["state"] == RETRACTED:
        return None
    taken |= {"state": RETRACTED, "retracted": now, "reason": reason}
    left = [m for m in of_date if m["state"] in (LIVE, SUPERSEDED)]
    for manifest in left:
        manifest["state"] = LIVE if manifest is left[-1] else SUPERSEDED
    return pa.Table.from_pylist(found, schema=rows.schema)


def _readers_see(request: Request) -> str:
    """What `read_scores` gives from now on, in words."""
    try:
        found = valid_manifest(request.settings, request.recipe)
    except BadInput as nothing:
        return str(nothing)
    return (
        f"scores of {found.as_of} (version {found.scores_version}, {found.num_rows} rows), "
        f"valid until {found.valid_until}; today is {today_in(request.recipe)}"
    )
