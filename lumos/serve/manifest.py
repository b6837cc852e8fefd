"""The contract with consumers: a manifest row says which scores are valid, and proves them.

Scores are read through a manifest only: at the Delta version it names, checked against its
row count and checksum, while it is live and until it expires. A commit that no manifest names was
never published. `docs/pacman.md` is written for whoever reads them.
"""

import datetime as dt
import logging
from collections.abc import Iterator
from typing import Final, Literal, Self

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from lumos import schedule
from lumos.accio.storage import filesystem_of, patiently
from lumos.config import Config, Recipe
from lumos.delta import DataFile, data_files, open_table, read
from lumos.hashing import hash_rows
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput

log = logging.getLogger(__name__)

LIVE: Final = "live"
SUPERSEDED: Final = "superseded"
RETRACTED: Final = "retracted"
# Clocks of two machines may differ so much before a manifest counts as one of the future.
_CLOCKS_APART = dt.timedelta(minutes=5)


class TamperedScores(Exception):
    """Published rows are not those that the manifest vouches for: nobody may use them."""


class Manifest(Config):
    """One publication, a row of `manifests`."""

    as_of: dt.date
    scores_version: int
    state: Literal["live", "superseded", "retracted"]
    num_rows: int
    columns: str
    checksum: str
    model_version: str
    calibrator_version: str
    inputs: str
    spread: str
    created: dt.datetime
    valid_until: dt.date
    retracted: dt.datetime | None = None
    reason: str | None = None

    def is_of_the_future(self, today: dt.date) -> bool:
        """Whether no clock that is right could have made it by now."""
        ahead = self.created > dt.datetime.now(dt.UTC) + _CLOCKS_APART
        return ahead or self.as_of > today


class Checksum:
    """The sum of Spark's ``xxhash64(columns)`` over rows, in whatever order they come.

    It tells rows that are lost, repeated, changed or of another publication, by 64 bits a row;
    it does not tell rows that somebody has forged with that in mind.
    """

    def __init__(self, recipe: Recipe, columns: str = "") -> None:
        declared = tables(recipe)["scores"].arrow_schema(recipe)
        self.columns = columns or ",".join(declared.names)
        self.num_rows, self._total = 0, 0

    def add(self, rows: pa.Table) -> Self:
        """Count these rows too."""
        hashed = hash_rows(rows.select(self.columns.split(","))).view(np.int64)
        # In two halves, because 64 bits hold no sum of many 64-bit numbers.
        self._total += (int((hashed >> 32).sum()) << 32) + int((hashed & 0xFFFFFFFF).sum())
        self.num_rows += rows.num_rows
        return self

    @property
    def value(self) -> str:
        """An exact whole number, as Spark's ``sum`` of ``decimal(38, 0)`` gives it."""
        return str(self._total)


def read_manifests(settings: Settings, recipe: Recipe) -> list[Manifest]:
    """All manifests, by date, and those of one date by version."""
    rows = read(table_uri(settings, recipe, "manifests"))
    return manifests_of(rows) if rows is not None else []


def manifests_of(rows: pa.Table) -> list[Manifest]:
    """Rows of `manifests` as objects, by date and version.

    Rows without a state are from before publications could be taken back, and long expired.
    """
    known = [row for row in rows.to_pylist() if row.get("state")]
    found = [Manifest.model_validate(row) for row in known]
    return sorted(found, key=lambda manifest: (manifest.as_of, manifest.scores_version))


def today_in(recipe: Recipe) -> dt.date:
    """Today, in the recipe's time zone."""
    return schedule.today_in(recipe.timezone, dt.datetime.now(dt.UTC))


def valid_manifest(
    settings: Settings,
    recipe: Recipe,
    as_of: dt.date | None = None,
    today: dt.date | None = None,
) -> Manifest:
    """The publication to use: live, not expired, and not of the future.

    Args:
        settings: Where the lake is.
        recipe: Whose scores.
        as_of: The business date wanted; the newest that is valid when ``None``.
        today: The day they are to be used on; now, in the recipe's time zone, when ``None``.

    Raises:
        BadInput: There is none; says what is there.
    """
    day = today or today_in(recipe)
    manifests = read_manifests(settings, recipe)
    if future := [m for m in manifests if m.state == LIVE and m.is_of_the_future(day)]:
        log.warning("not read on %s: %s", day, "; ".join(map(_of_the_future, future)))
    valid = [
        m
        for m in manifests
        if m.state == LIVE
        and as_of in (None, m.as_of)
        and day <= m.valid_until
        and not m.is_of_the_future(day)
    ]
    if not valid:
        raise BadInput(_nothing_valid(recipe, manifests, as_of, day))
    return valid[-1]


def read_scores(
    settings: Settings,
    recipe: Recipe,
    as_of: dt.date | None = None,
    today: dt.date | None = None,
) -> pa.Table:
    """Published scores that are still valid, sorted by user; what Pacman calls.

    All of them, in memory; :func:`published` of a :func:`valid_manifest` gives them in parts.

    Args:
        settings: Where the lake is.
        recipe: Whose scores.
        as_of: The business date wanted; the newest that is valid when ``None``.
        today: The day they are to be used on; now, in the recipe's time zone, when ``None``.

    Raises:
        BadInput: No live manifest for the date, or it has expired.
        TamperedScores: The rows are not those that were published.
    """
    return rows_of(settings, recipe, valid_manifest(settings, recipe, as_of, today))


def rows_of(settings: Settings, recipe: Recipe, manifest: Manifest) -> pa.Table:
    """The rows a manifest vouches for, checked, valid or expired; sorted by user.

    Raises:
        TamperedScores: They are not those that were published.
    """
    parts = list(published(settings, recipe, manifest))
    empty = tables(recipe)["scores"].arrow_schema(recipe).empty_table()
    return (pa.concat_tables(parts) if parts else empty).sort_by("user_id")


def published(settings: Settings, recipe: Recipe, manifest: Manifest) -> Iterator[pa.Table]:
    """The rows a manifest vouches for, some ten thousand users at a time.

    They are checked while they are read: what was given is proven only when the iterator ends
    without an error. Memory does not grow with the number of users.

    Raises:
        TamperedScores: At the end, or as soon as a file is gone: they are not what was published.
    """
    found = Checksum(recipe, manifest.columns)
    for rows in rows_at(table_uri(settings, recipe, "scores"), manifest):
        found.add(rows)
        yield rows
    if (found.value, found.num_rows) != (manifest.checksum, manifest.num_rows):
        msg = (
            f"scores of {manifest.as_of} at version {manifest.scores_version} have "
            f"{found.num_rows} rows and checksum {found.value}, but their manifest says "
            f"{manifest.num_rows} and {manifest.checksum}; {_remedy(manifest)}"
        )
        raise TamperedScores(msg)


def rows_at(uri: str, manifest: Manifest) -> Iterator[pa.Table]:
    """The rows at the version that a manifest names, which nobody has checked.

    Raises:
        TamperedScores: A file or the version is gone.
    """
    names = manifest.columns.split(",")
    for file in files_of(uri, manifest):
        yield from _row_groups(uri, file, manifest, names)


def files_of(uri: str, manifest: Manifest) -> list[DataFile]:
    """The files of a publication, in the order of their names.

    Raises:
        TamperedScores: The version that the manifest names is gone.
    """
    try:
        table = open_table(uri, manifest.scores_version)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        msg = (
            f"version {manifest.scores_version} of {uri} cannot be read ({error}); "
            f"{_remedy(manifest)}"
        )
        raise TamperedScores(msg) from error
    mine = [f for f in data_files(table) if f.partition["as_of"] == manifest.as_of] if table else []
    return sorted(mine, key=lambda file: file.path)


def _row_groups(
    uri: str, file: DataFile, manifest: Manifest, names: list[str]
) -> Iterator[pa.Table]:
    system, prefix = filesystem_of(uri)
    path = f"{uri.removeprefix(prefix)}/{file.path}"
    try:
        with patiently(lambda: ParquetFile(path, filesystem=system), path) as parquet:
            for number in range(parquet.num_row_groups):
                rows = parquet.read_row_group(number, use_threads=False)
                days = pa.array([manifest.as_of], pa.date32()).take(np.zeros(len(rows), np.int64))
                yield rows.append_column("as_of", days).select(names)
    except (BadInput, KeyError) as error:
        raise TamperedScores(f"{error}; {_remedy(manifest)}") from error


def _remedy(manifest: Manifest) -> str:
    return f"do not use them, and run `lumos publish --date {manifest.as_of} --force`"


def _of_the_future(manifest: Manifest) -> str:
    return f"the manifest of {manifest.as_of}, created {manifest.created:%F %T}, is of the future"


def refuse_future(recipe: Recipe, manifests: list[Manifest], date: dt.date) -> None:
    """Refuse to publish for a day that is not over, or beside a live manifest of the future.

    Raises:
        BadInput: Says which, and the remedy.
    """
    if trouble := schedule.unfinished(date, recipe.timezone, dt.datetime.now(dt.UTC)):
        raise BadInput(trouble)
    today = today_in(recipe)
    for manifest in manifests:
        if manifest.state == LIVE and manifest.is_of_the_future(today):
            msg = (
                f"{_of_the_future(manifest)}: in {recipe.timezone} today is {today}. Set the "
                f"clock right, or take it back: `lumos retract --date {manifest.as_of}`"
            )
            raise BadInput(msg)


def _nothing_valid(
    recipe: Recipe, manifests: list[Manifest], as_of: dt.date | None, day: dt.date
) -> str:
    wanted = f"of {as_of} " if as_of else ""
    known = [f"{m.as_of} ({_fate(m, day)})" for m in manifests if as_of in (None, m.as_of)]
    return (
        f"no published scores {wanted}of recipe {recipe.name} are valid on {day}; "
        f"published are {', '.join(known[-3:]) or 'none at all'}. "
        "Run `lumos score` and `lumos publish` for the latest business date"
    )


def _fate(manifest: Manifest, day: dt.date) -> str:
    if manifest.state == LIVE and manifest.is_of_the_future(day):
        return "of the future"
    if manifest.state == LIVE:
        return f"valid until {manifest.valid_until}"
    return manifest.state + (f": {manifest.reason}" if manifest.reason else "")
