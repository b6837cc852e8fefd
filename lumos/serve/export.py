"""The verb ``export``: hand a day's published scores to the stores that consumers ask by user.

Rows go out beside those that are being read, in the order of the publication, so that a run that
is killed goes on where it was. Only when their number and a sample of them, read back, are right
does the store's pointer turn to them: consumers see the old edition, whole, and then the new one.
"""

import datetime as dt
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from lumos.config import Recipe, StoreConfig
from lumos.ownership import Platform
from lumos.progress import progress
from lumos.schedule import end_of
from lumos.serve.manifest import LIVE, Manifest, published, read_manifests, valid_manifest
from lumos.serve.stores.contract import Pointer, Row, Store
from lumos.verbs import BadInput, GateRefused, Report, Request

log = logging.getLogger(__name__)

_SAMPLE = 1000
# An edition outlives its last day, for whoever read the pointer a moment before it went.
_GRACE = dt.timedelta(days=1)


def export(request: Request) -> Report:
    """Export the live publication of ``--date`` to the recipe's stores, or to ``--store`` alone.

    Exporting what a store serves already does nothing; ``--force`` writes all rows again.

    Raises:
        BadInput: No valid publication of the date, no such store, or the store serves another
            platform's scores, or a later day that is still valid.
        GateRefused: The store holds other rows than it was given; its pointer stays.
        StoreFailed: It could not be reached; its pointer stays, and a retry goes on.
        TamperedScores: The rows are not those that were published; nothing points to them.
    """
    recipe = request.recipe
    manifest = valid_manifest(request.settings, recipe, request.date)
    found: dict[str, dict[str, object]] = {}
    metrics: dict[str, float | None] = {}
    for config in _wanted(request):
        store = open_store(config, recipe.name)
        pointer = store.pointer()
        owner = pointer.platform if pointer else None
        what = f"what store {config.name} serves as recipe {recipe.name}"
        Platform.of(recipe).refuse_other(owner, what)
        _refuse_to_go_back(request, config.name, pointer, manifest)
        sent = _send(request, config, store, manifest)
        metrics[f"{config.name}.num_rows_sent"] = sent
        found[config.name] = {"kind": config.kind, "edition": edition_of(manifest)}
    return request.report(
        metrics=metrics,
        details={"stores": found, "num_rows": manifest.num_rows},
        already_done=not any(metrics.values()),
    )


def open_store(config: StoreConfig, recipe: str) -> Store:
    """The store of a recipe that the configuration describes."""
    if config.kind == "redis":
        from lumos.serve.stores.redis import Redis

        return Redis(config, recipe)
    if config.kind == "dynamodb":
        from lumos.serve.stores.dynamodb import DynamoDb

        return DynamoDb(config, recipe)
    from lumos.serve.stores.parquet import Parquet

    return Parquet(config, recipe)


def edition_of(manifest: Manifest) -> str:
    """The name under which a publication's rows lie in every store."""
    proof = hashlib.sha256(f"{manifest.checksum} {manifest.columns}".encode()).hexdigest()[:8]
    return f"{manifest.as_of}-{manifest.scores_version}-{proof}"


def _wanted(request: Request) -> list[StoreConfig]:
    stores, name = request.recipe.publishing.stores, request.options["store"]
    wanted = [store for store in stores if name in (None, store.name)]
    if not wanted:
        known = ", ".join(store.name for store in stores) or "none at all"
        asked = f"store {name!r}" if name else "any store"
        msg = (
            f"recipe {request.recipe.name} does not have {asked}; it has {known}. Add one to "
            "publishing.stores (docs/pacman.md)"
        )
        raise BadInput(msg)
    return wanted


def _refuse_to_go_back(
    request: Request, name: str, pointer: Pointer | None, manifest: Manifest
) -> None:
    """A store that serves a later day goes back only from one that was taken back."""
    if pointer is None or pointer.as_of <= manifest.as_of or request.force:
        return
    live = [m for m in read_manifests(request.settings, request.recipe) if m.state == LIVE]
    if pointer.edition in map(edition_of, live):
        msg = (
            f"store {name} serves {pointer.as_of}, which is later than {manifest.as_of} and still "
            f"published: take it back first (`lumos retract --date {pointer.as_of}`), or use "
            "--force"
        )
        raise BadInput(msg)


def _send(request: Request, config: StoreConfig, store: Store, manifest: Manifest) -> int:
    """Write, check, point; returns how many rows had to be written."""
    pointer, recipe = pointer_to(request.recipe, manifest), request.recipe
    if store.pointer() == pointer and not request.force:
        log.info("store %s serves %s already", config.name, pointer.edition)
        return 0
    if request.force:
        store.restart(pointer.edition)
    done = store.position(pointer.edition)
    if done:
        log.info("store %s has %d of %d rows already", config.name, done, manifest.num_rows)
    last = _last_moment(recipe, manifest)
    pace, sample = Pace(config.users_per_second), _Sample(manifest.num_rows)
    with progress(f"exporting to {config.name}", max(manifest.num_rows, 1)) as advance:
        for start, rows in _batches(request, manifest, store.rows_a_put):
            sample.look_at(start, rows)
            if start + len(rows) > done:
                pace.wait_for(len(rows))
                store.put(pointer.edition, start, rows, last + _GRACE)
            advance(len(rows))
    _verify(config.name, store, pointer, sample)
    store.point(pointer, last)
    log.info("store %s serves %s: %d users", config.name, pointer.edition, manifest.num_rows)
    return manifest.num_rows - done


def pointer_to(recipe: Recipe, manifest: Manifest) -> Pointer:
    """What a store says of a publication."""
    return Pointer(
        edition=edition_of(manifest),
        as_of=manifest.as_of,
        num_rows=manifest.num_rows,
        columns=_scores(manifest),
        valid_until=manifest.valid_until,
        model_version=manifest.model_version,
        calibrator_version=manifest.calibrator_version,
        checksum=manifest.checksum,
        platform=Platform.of(recipe),
    )


def _scores(manifest: Manifest) -> tuple[str, ...]:
    """Columns that are scores: the others are the same for all users, or name them."""
    about = {"as_of", "user_id", "model_version", "calibrator_version"}
    return tuple(name for name in manifest.columns.split(",") if name not in about)


def _last_moment(recipe: Recipe, manifest: Manifest) -> dt.datetime:
    """When ``valid_until`` is over, where the platform lives."""
    return end_of(manifest.valid_until, recipe.timezone)


def _batches(request: Request, manifest: Manifest, size: int) -> Iterator[tuple[int, list[Row]]]:
    """Number of the first row, and ``size`` rows, in the order of the publication."""
    start, names, waiting = 0, _scores(manifest), list[Row]()
    for part in published(request.settings, request.recipe, manifest):
        waiting += _rows(part, names)
        while len(waiting) >= size:
            yield start, waiting[:size]
            start, waiting = start + size, waiting[size:]
    if waiting:
        yield start, waiting


def _rows(part: pa.Table, names: Sequence[str]) -> list[Row]:
    cells = [part[name].to_pylist() for name in names]
    users = part["user_id"].to_pylist()
    return [
        (user, dict(zip(names, scores, strict=True)))
        for user, *scores in zip(users, *cells, strict=True)
    ]


@dataclass
class _Sample:
    """Every so manieth row of a publication, to be read back."""

    num_rows: int
    rows: list[Row] = field(default_factory=list)

    def look_at(self, start: int, rows: Sequence[Row]) -> None:
        """Keep what belongs to the sample."""
        every = max(1, self.num_rows // _SAMPLE)
        self.rows += rows[-start % every :: every]


def _verify(name: str, store: Store, pointer: Pointer, sample: _Sample) -> None:
    """Count, and read the sample back as a consumer would.

    Raises:
        GateRefused: Something is not as it was written.
    """
    counted = store.count(pointer.edition)
    read = store.get(pointer.edition, [user for user, _ in sample.rows])
    wrong = [user for user, scores in sample.rows if not _equal(scores, read.get(user, {}))]
    if counted != pointer.num_rows or wrong:
        msg = (
            f"store {name} holds {counted} of {pointer.num_rows} rows of {pointer.edition}, and "
            f"{len(wrong)} of {len(sample.rows)} that were read back differ; consumers still read "
            "what they read before. Is it full, or does it evict? Write all again with --force"
        )
        raise GateRefused(msg)


def _equal(wrote: Mapping[str, float], read: Mapping[str, float]) -> bool:
    return wrote.keys() == read.keys() and all(
        math.isclose(value, read[name], rel_tol=1e-15, abs_tol=1e-129)
        for name, value in wrote.items()
    )


class Pace:
    """No more than so many a second on the average, from the first on."""

    def __init__(
        self,
        per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_second, self._clock, self._sleep = per_second, clock, sleep
        self._free = clock()

    def wait_for(self, number: int) -> None:
        """Return when so many more may go."""
        if self._per_second is None:
            return
        now = self._clock()
        self._free = max(self._free, now)
        if self._free > now:
            self._sleep(self._free - now)
        self._free += number / self._per_second
