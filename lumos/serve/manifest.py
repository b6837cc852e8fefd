"""The contract with consumers: a manifest row says which scores are valid, and proves them.

Scores are read through a manifest only: at the Delta version it names, checked against its
row count and checksum, until it expires. A commit that no manifest names was never published.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.config import Config, Recipe
from lumos.delta import predicate, read
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput


class TamperedScores(Exception):
    """Published rows are not those that the manifest vouches for: nobody may use them."""


class Manifest(Config):
    """One row of `manifests`."""

    as_of: dt.date
    scores_version: int
    num_rows: int
    checksum: str
    model_version: str
    calibrator_version: str
    inputs: str
    valid_until: dt.date


def checksum(rows: pa.Table, recipe: Recipe) -> str:
    """The sha256 of score rows in canonical form: declared columns, sorted by user.

    Every column adds its name and its cells: strings as their lengths and UTF-8 bytes, numbers
    and dates as little-endian bytes. The order of rows, the files they lie in and the library
    that wrote them do not matter.
    """
    canonical = rows.sort_by("user_id")
    digest = hashlib.sha256()
    for field in tables(recipe)["scores"].arrow_schema(recipe):
        column = pc.cast(canonical[field.name], field.type)
        digest.update(f"{field.name} {field.type} {len(column)} {column.null_count}\n".encode())
        if pa.types.is_string(field.type):
            texts = [text.encode() for text in column.to_pylist()]
            digest.update(np.array([len(text) for text in texts], "<i8").tobytes())
            digest.update(b"".join(texts))
        elif pa.types.is_date32(field.type):
            digest.update(pc.cast(column, pa.int32()).to_numpy().astype("<i4").tobytes())
        else:
            digest.update(column.to_numpy().astype("<f8").tobytes())
    return digest.hexdigest()


def read_manifests(settings: Settings, recipe: Recipe) -> list[Manifest]:
    """All manifests, oldest first."""
    rows = read(table_uri(settings, recipe, "manifests"))
    found = [] if rows is None else [Manifest.model_validate(row) for row in rows.to_pylist()]
    return sorted(found, key=lambda manifest: manifest.as_of)


def read_scores(
    settings: Settings,
    recipe: Recipe,
    as_of: dt.date | None = None,
    today: dt.date | None = None,
) -> pa.Table:
    """Published scores that are still valid, sorted by user; what Pacman calls.

    Args:
        settings: Where the lake is.
        recipe: Whose scores.
        as_of: The business date wanted; the newest that is valid when ``None``.
        today: The day they are to be used on; now, in the recipe's time zone, when ``None``.

    Raises:
        BadInput: No manifest for the date, or it has expired.
        TamperedScores: The rows are not those that were published.
    """
    day = today or dt.datetime.now(ZoneInfo(recipe.timezone)).date()
    manifests = read_manifests(settings, recipe)
    named = [m for m in manifests if as_of is None or m.as_of == as_of]
    valid = [m for m in named if m.as_of <= day <= m.valid_until]
    if not valid:
        msg = _nothing_valid(recipe, manifests, as_of, day)
        raise BadInput(msg)
    return rows_of(settings, recipe, valid[-1])


def rows_of(settings: Settings, recipe: Recipe, manifest: Manifest) -> pa.Table:
    """The rows a manifest vouches for, checked, valid or expired.

    Raises:
        TamperedScores: They are not those that were published.
    """
    rows = committed(settings, recipe, manifest.as_of, manifest.scores_version)
    found = checksum(rows, recipe)
    if found != manifest.checksum or rows.num_rows != manifest.num_rows:
        msg = (
            f"scores of {manifest.as_of} at version {manifest.scores_version} have "
            f"{rows.num_rows} rows and checksum {found}, but their manifest says "
            f"{manifest.num_rows} and {manifest.checksum}; do not use them, and run "
            f"`lumos publish --date {manifest.as_of} --force`"
        )
        raise TamperedScores(msg)
    return rows


def committed(settings: Settings, recipe: Recipe, as_of: dt.date, version: int) -> pa.Table:
    """Score rows of a date at a Delta version, sorted by user, published or not."""
    table = tables(recipe)["scores"]
    rows = read(
        table_uri(settings, recipe, "scores"),
        version=version,
        columns=table.column_names,
        where=predicate(as_of=as_of),
    )
    if rows is None:
        return table.arrow_schema(recipe).empty_table()
    return rows.sort_by("user_id")


def row(manifest: Manifest, recipe: Recipe) -> pa.Table:
    """The manifest as a row of its table."""
    cells: Mapping[str, Any] = manifest.model_dump()
    return pa.Table.from_pylist([cells], schema=tables(recipe)["manifests"].arrow_schema(recipe))


def _nothing_valid(
    recipe: Recipe, manifests: list[Manifest], as_of: dt.date | None, day: dt.date
) -> str:
    wanted = f"of {as_of} " if as_of else ""
    known = [f"{m.as_of} (valid until {m.valid_until})" for m in manifests[-3:]]
    return (
        f"no published scores {wanted}of recipe {recipe.name} are valid on {day}; "
        f"published are {', '.join(known) or 'none at all'}. "
        "Run `lumos score` and `lumos publish` for the latest business date"
    )
