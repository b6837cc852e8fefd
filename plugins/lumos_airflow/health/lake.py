"""What the lake knows of a recipe, by delta-rs alone: no Spark, and only the newest days of it."""

import datetime as dt
import json
import logging
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

# What is usual is the median of so many entries; weekly tables need as many weeks.
USUAL_ENTRIES = 28
# As :mod:`lumos.experiment.declaration` has it where a declaration does not say.
_SRM_ALPHA = 0.001
_LEDGER_DAYS, _WEEKS_DAYS, _ACTIVE_DAYS = 7 * USUAL_ENTRIES, 56, 7


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


def read(settings: Settings, folder: str) -> Lake:
    """Read what the page shows of one recipe.

    Args:
        settings: Where the lake is.
        folder: The recipe's own name.

    Raises:
        FileNotFoundError: The lake is a folder that is not there.
    """
    if "://" not in settings.lake and not Path(settings.lake).is_dir():
        msg = f"{settings.lake} is no folder"
        raise FileNotFoundError(msg)

    def at(table: str) -> str:
        return uri(settings, folder, table)

    return Lake(
        ledger=_part("ledger", lambda: entries(at("ledger"), days=_LEDGER_DAYS)),
        quality=_part("verdicts on quality", lambda: _quality(at("ledger"))),
        monitor=_part("metrics", lambda: _monitor(at("metrics"))),
        looks=_part("looks at experiments", lambda: _looks(at("looks"), at("experiments"))),
        publication=_part("manifests", lambda: _publication(at("manifests"))),
        alerts=_part("alerts", lambda: _alerts(f"{settings.lake}/alerts")),
    )


def entries(table_uri: str, *, days: int, table: str | None = None) -> tuple[Entry, ...]:
    """Entries of the ledger's last days, by table and date; ``table``: of it alone."""
    newest = _newest(table_uri, "max.business_date")
    if newest is None:
        return ()
    chosen: dict[str, Any] = {"business_date": (newest - dt.timedelta(days=days), newest)}
    if table is not None:
        chosen["table"] = table
    rows = delta.read(
        table_uri,
        columns=["table", "business_date", "version", "rows", "verdict"],
        where=delta.predicate(**chosen),
    )
    found = [
        Entry(row["table"], row["business_date"], row["version"], row["rows"], row["verdict"])
        for row in _rows(rows)
    ]
    return tuple(sorted(found, key=lambda entry: (entry.table, entry.date)))


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


def _quality(ledger_uri: str) -> Quality | None:
    newest = _newest(ledger_uri, "max.business_date")
    if newest is None:
        return None
    rows = delta.read(
        ledger_uri,
        columns=["business_date", "verdict", "report"],
        where=delta.predicate(
            table="quality", business_date=(newest - dt.timedelta(days=USUAL_ENTRIES), newest)
        ),
    )
    found = max(_rows(rows), key=lambda row: row["business_date"], default=None)
    if found is None:
        return None
    details = json.loads(found["report"]).get("details", {})
    return Quality(
        found["business_date"],
        found["verdict"],
        *(tuple(map(str, details.get(name, ()))) for name in ("critical", "warnings")),
    )


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
