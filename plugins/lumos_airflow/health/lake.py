"""What the lake knows of a recipe, by delta-rs alone: no Spark, and only the newest days of it."""

import datetime as dt
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lumos import delta
from lumos.settings import Settings

T = TypeVar("T")
log = logging.getLogger(__name__)

# What is usual is the median of so many entries, for which some more days are read.
USUAL_ENTRIES = 28
# As :mod:`lumos.experiment.declaration` has it where a declaration does not say.
_SRM_ALPHA = 0.001
_LEDGER_DAYS, _WEEKS_DAYS, _ACTIVE_DAYS = 35, 56, 7


@dataclass(frozen=True)
class Part(Generic[T]):
    """What was read, or a sentence about why it could not be."""

    value: T | None
    trouble: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    table: str
    date: dt.date
    version: int
    rows: int
    verdict: str


@dataclass(frozen=True)
class Quality:
    """The newest verdict of the full suite."""

    date: dt.date
    verdict: str
    critical: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """A row of `metrics` that the monitor wrote."""

    day: dt.date
    name: str
    segment: str
    value: float | None
    verdict: str
    message: str


@dataclass(frozen=True)
class Look:
    """The newest look at an experiment's variant; ``srm_alpha`` as its declaration has it."""

    experiment: str
    as_of: dt.date
    variant: str
    day: int
    srm_p_value: float | None
    advice: str
    srm_alpha: float


@dataclass(frozen=True)
class Publication:
    """The newest manifest that is live."""

    date: dt.date
    model_version: str
    valid_until: dt.date


@dataclass(frozen=True)
class Lake:
    """Everything of one recipe; each part may be unreadable by itself."""

    ledger: Part[tuple[Entry, ...]]
    quality: Part[Quality | None]
    monitor: Part[tuple[Metric, ...]]
    looks: Part[tuple[Look, ...]]
    publication: Part[Publication | None]
    alerts: Part[tuple[Mapping[str, Any], ...]]


def uri(settings: Settings, folder: str, table: str) -> str:
    """As :func:`lumos.tables.table_uri`, for a recipe of which only the name is known."""
    return f"{settings.lake}/{folder}/{table}"


def refuse_absent(settings: Settings) -> None:
    """A disk that is not mounted is no empty lake.

    Raises:
        FileNotFoundError: The lake is a folder that is not there.
    """
    if "://" not in settings.lake and not Path(settings.lake).is_dir():
        msg = f"{settings.lake} is no folder"
        raise FileNotFoundError(msg)


def read(settings: Settings, folder: str) -> Lake:
    """Read what the page shows of one recipe.

    Args:
        settings: Where the lake is.
        folder: The recipe's own name.

    Raises:
        FileNotFoundError: The lake is a folder that is not there.
    """
    refuse_absent(settings)

    def at(table: str) -> str:
        return uri(settings, folder, table)

    told = _together(
        ledger=("ledger", lambda: _ledger(at("ledger"))),
        monitor=("metrics", lambda: _monitor(at("metrics"))),
        looks=("looks at experiments", lambda: _looks(at("looks"), at("experiments"))),
        publication=("manifests", lambda: _publication(at("manifests"))),
        alerts=("alerts", lambda: _alerts(f"{settings.lake}/alerts")),
    )
    ledger = told.pop("ledger")
    written, judged = ledger.value if ledger.value is not None else (None, None)
    return Lake(ledger=Part(written, ledger.trouble), quality=Part(judged, ledger.trouble), **told)


def entries(table_uri: str, *, table: str, days: int) -> tuple[Entry, ...]:
    """Entries of a table in the ledger's last days, oldest first."""
    return tuple(_entry(row) for row in _entered(table_uri, days, table=table))


def _ledger(table_uri: str) -> tuple[tuple[Entry, ...], Quality | None]:
    """Entries by table and date, and the newest verdict on quality, in one reading."""
    rows = _entered(table_uri, _LEDGER_DAYS, "report")
    judged = [row for row in rows if row["table"] == "quality"]
    return tuple(map(_entry, rows)), _quality(judged[-1]) if judged else None


def _entered(table_uri: str, days: int, *more: str, **where: str) -> list[dict[str, Any]]:
    newest = _newest(table_uri, "max.business_date")
    if newest is None:
        return []
    rows = delta.read(
        table_uri,
        columns=["table", "business_date", "version", "rows", "verdict", *more],
        where=delta.predicate(
            business_date=(newest - dt.timedelta(days=days - 1), newest), **where
        ),
    )
    return sorted(_rows(rows), key=lambda row: (row["table"], row["business_date"]))


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(row["table"], row["business_date"], row["version"], row["rows"], row["verdict"])


def _quality(row: Mapping[str, Any]) -> Quality:
    details = json.loads(row["report"]).get("details", {})
    return Quality(
        row["business_date"],
        row["verdict"],
        *(tuple(map(str, details.get(name, ()))) for name in ("critical", "warnings")),
    )


def _together(**jobs: tuple[str, Callable[[], Any]]) -> dict[str, Part[Any]]:
    """Read all parts at once: each waits for the store, not for a core."""
    found: dict[str, Part[Any]] = {}

    def into(name: str) -> None:
        found[name] = _part(*jobs[name])

    # Daemons, unlike an executor's threads, do not keep a server from ending.
    threads = [threading.Thread(target=into, args=(name,), daemon=True) for name in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _part(what: str, read_it: Callable[[], T]) -> Part[T]:
    try:
        return Part(read_it())
    except Exception:
        # Not named: the message of a store has addresses in it, and may have keys.
        log.exception("health page: %s cannot be read", what)
        return Part(None, f"The {what} cannot be read; the log of the API server says why.")


def _rows(rows: pa.Table | None) -> list[dict[str, Any]]:
    return rows.to_pylist() if rows is not None else []


def _newest(table_uri: str, statistic: str, **partition: str) -> dt.date | None:
    """The newest day of a table by its log alone; ``None`` where there is no row."""
    table = delta.open_table(table_uri)
    if table is None:
        return None
    actions = pa.table(table.get_add_actions(flatten=True))
    for name, value in partition.items():
        column = f"partition.{name}"
        actions = actions.filter(pc.equal(pc.cast(actions[column], pa.string()), value))
    if not actions.num_rows or statistic not in actions.column_names:
        return None
    newest: dt.date | None = pc.max(pc.cast(actions[statistic], pa.date32())).as_py()
    return newest


def _monitor(metrics_uri: str) -> tuple[Metric, ...]:
    newest = _newest(metrics_uri, "partition.day", job="monitor")
    if newest is None:
        return ()
    rows = delta.read(
        metrics_uri,
        columns=["day", "name", "segment", "value", "verdict", "message"],
        where=delta.predicate(
            job="monitor", day=(newest - dt.timedelta(days=_WEEKS_DAYS - 1), newest)
        ),
    )
    found = [Metric(**row) for row in _rows(rows)]
    return tuple(sorted(found, key=lambda metric: (metric.day, metric.name, metric.segment)))


def _looks(looks_uri: str, experiments_uri: str) -> tuple[Look, ...]:
    """The newest of each experiment that was looked at within a week of the newest look."""
    rows = delta.read(
        looks_uri, columns=["experiment", "as_of", "variant", "day", "srm_p_value", "advice"]
    )
    declared = _rows(delta.read(experiments_uri, columns=["experiment", "declaration"]))
    alpha = {row["experiment"]: json.loads(row["declaration"]) for row in declared}
    found = [
        Look(**row, srm_alpha=alpha.get(row["experiment"], {}).get("srm_alpha", _SRM_ALPHA))
        for row in _rows(rows)
    ]
    newest = max((look.as_of for look in found), default=dt.date.min)
    last: dict[str, dt.date] = {}
    for look in found:
        last[look.experiment] = max(look.as_of, last.get(look.experiment, look.as_of))
    active = {name for name, day in last.items() if (newest - day).days < _ACTIVE_DAYS}
    shown = [x for x in found if x.experiment in active and x.as_of == last[x.experiment]]
    return tuple(sorted(shown, key=lambda look: (look.experiment, look.variant)))


def _publication(manifests_uri: str) -> Publication | None:
    rows = delta.read(
        manifests_uri,
        columns=["as_of", "model_version", "valid_until", "scores_version"],
        where=delta.predicate(state="live"),
    )
    found = max(_rows(rows), key=lambda row: (row["as_of"], row["scores_version"]), default=None)
    if found is None:
        return None
    return Publication(found["as_of"], found["model_version"], found["valid_until"])


def _alerts(alerts_uri: str) -> Sequence[Mapping[str, Any]]:
    """Those that are open, with whatever columns the table has."""
    rows = _rows(delta.read(alerts_uri))
    opened = [row for row in rows if row.get("state") == "open"]
    return tuple(sorted(opened, key=lambda row: str(row.get("last_seen")), reverse=True))
