"""Which versions of tables must stay readable: those that the ledger and manifests name."""

import datetime as dt
from collections.abc import Iterable, Mapping

from lumos.config import Recipe
from lumos.ledger import Entry
from lumos.serve.manifest import LIVE, SUPERSEDED, Manifest
from lumos.tables import tables


def pinned(
    recipe: Recipe, entries: Iterable[Entry], manifests: Iterable[Manifest], first: dt.date
) -> Mapping[str, set[int]]:
    """Versions by table.

    Args:
        recipe: Whose.
        entries: Of the ledger, all that stay in it.
        manifests: All that stay.
        first: Entries of tables of all days pin a version if they are of this day or a later one.
    """
    found: dict[str, set[int]] = {name: set() for name in tables(recipe)}
    for entry in entries:
        if entry.business_date < first and entry.table not in _OF_ONE_DATE:
            continue
        named: dict[str, object] = {entry.table: entry.version}
        if entry.business_date >= first:
            named |= entry.inputs
            named["quarantine"] = entry.report.details.get("quarantine_version")
        for table, version in named.items():
            if table in found and isinstance(version, int):
                found[table].add(version)
    for manifest in manifests:
        if manifest.state in (LIVE, SUPERSEDED) and manifest.as_of >= first:
            found["scores"].add(manifest.scores_version)
    return found


# Their rows of a date are read at the version of its entry, for as long as there is one.
_OF_ONE_DATE = ("forecasts", "what_ifs", "embeddings", "profiles", "shadows", "scores")
