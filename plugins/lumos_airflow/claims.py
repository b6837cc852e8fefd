"""Who sends an alert: the one process that entered it in the table `alerts`.

A task, its DAG's callback and a deadline run in different processes, perhaps on different hosts,
and may tell of the same trouble. The table's commit decides between them.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from lumos_airflow.alerts import CRITICAL, Alert

OPEN, RESOLVED = "open", "resolved"
# The table is small and read whole: older rows help nobody.
_KEPT = dt.timedelta(days=90)


def claim(alert: Alert, *, now: dt.datetime, repeat: dt.timedelta) -> bool:
    """Enter an alert; whether the caller is the one to send it.

    It is to be sent if it is new, was resolved, was last sent ``repeat`` ago or longer, was never
    heard by anybody, or is critical for the first time. Else it is only counted, and not even that
    if it is the very try that was told of last: a task and its run both tell of it.

    Args:
        alert: What happened.
        now: With a time zone.
        repeat: How long an open alert stays silent.

    Raises:
        Exception: Whatever the lake's storage raises.
    """
    is_ours = False

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        nonlocal is_ours
        known = next((row for row in rows if row["dedup_key"] == alert.dedup_key), None)
        is_ours = known is None or _is_due(known, alert, now, repeat)
        if not is_ours and known["url"] == alert.log_url:
            return None
        others = [row for row in rows if row is not known and now - row["last_seen"] < _KEPT]
        return [*others, _row(alert, known, now, is_sent=is_ours)]

    _rewrite(change)
    return is_ours


def release(alert: Alert) -> None:
    """Nobody could be told: the next occurrence is to be sent again.

    Raises:
        Exception: Whatever the lake's storage raises.
    """

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "last_sent": None} if row["dedup_key"] == alert.dedup_key else row
            for row in rows
        ]

    _rewrite(change)


def resolve(keys: Iterable[str]) -> list[str]:
    """Close what is open of these; returns the keys of those that were critical.

    Costs a look at a folder where there was never an alert.

    Raises:
        Exception: Whatever the lake's storage raises.
    """
    from lumos.delta import predicate, read
    from lumos.settings import Settings
    from lumos.tables import alerts_uri

    wanted = list(keys)
    where = predicate(dedup_key=wanted, state=OPEN)
    found = read(alerts_uri(Settings.from_environment()), where=where)
    if found is None or not found.num_rows:
        return []
    closed: list[str] = []

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        ended = [row for row in rows if row["dedup_key"] in wanted and row["state"] == OPEN]
        closed[:] = [row["dedup_key"] for row in ended if row["severity"] == CRITICAL]
        if not ended:
            return None
        return [{**row, "state": RESOLVED} if row in ended else row for row in rows]

    _rewrite(change)
    return closed


def _is_due(known: dict[str, Any], alert: Alert, now: dt.datetime, repeat: dt.timedelta) -> bool:
    return (
        known["state"] == RESOLVED
        or known["last_sent"] is None
        or now - known["last_sent"] >= repeat
        or (alert.severity == CRITICAL and known["severity"] != CRITICAL)
    )


def _row(
    alert: Alert, known: dict[str, Any] | None, now: dt.datetime, *, is_sent: bool
) -> dict[str, Any]:
    goes_on = known if known and known["state"] == OPEN else None
    return {
        "dedup_key": alert.dedup_key,
        "first_sent": goes_on["first_sent"] if goes_on else now,
        "last_sent": now if is_sent or goes_on is None else goes_on["last_sent"],
        "last_seen": now,
        "count": goes_on["count"] + 1 if goes_on else 1,
        # Once critical, PagerDuty has it open: a milder one must not hide that.
        "severity": CRITICAL if goes_on and goes_on["severity"] == CRITICAL else alert.severity,
        **{
            name: getattr(alert, name)
            for name in ("name", "dag_id", "task_id", "run_id", "business_date", "recipe")
        },
        "message": alert.message,
        "state": OPEN,
        "url": alert.log_url,
    }


def _rewrite(change: Any) -> None:  # noqa: ANN401 - of rows as dicts, as above
    # Here, because DAG files import this module and must parse in no time.
    import pyarrow as pa

    from lumos.delta import rewrite
    from lumos.settings import Settings
    from lumos.tables import ALERTS, alerts_uri

    schema = ALERTS.arrow_schema()

    def changed(rows: pa.Table) -> pa.Table | None:
        found = change(rows.to_pylist())
        return None if found is None else pa.Table.from_pylist(found, schema=schema)

    rewrite(alerts_uri(Settings.from_environment()), schema, changed)
