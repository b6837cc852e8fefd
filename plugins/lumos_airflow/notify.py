"""Send alerts: once, by every channel that `LUMOS_ALERTS` names, whatever becomes of the others.

Callbacks run where Airflow pleases: in the task's process, in the DAG processor (of tasks that
were lost, and of runs), in the triggerer (of deadlines). So nothing here needs more than a
context and connections.
"""

import datetime as dt
import functools
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.log import redact
from asgiref.sync import sync_to_async

from lumos.addresses import refuse_unencoded
from lumos.settings import Settings
from lumos_airflow import alerts, claims
from lumos_airflow.alerts import CRITICAL, Alert, Occasion, Pages
from lumos_airflow.notifiers import pagerduty, slack, smtp

log = logging.getLogger(__name__)

_SENDERS = {"slack": slack.send, "pagerduty": pagerduty.send, "email": smtp.send}
# The DAG processor ends a callback after 50 s: an answer is not waited for longer than this, and
# nobody is asked again after so long in all.
_SECONDS, _ASK_AGAIN_WITHIN_SECONDS = 6, 15
# A run's failure is known as soon as its task's, which tells more: let that be first.
_ECHO_SECONDS = 5
_CHANNEL = re.compile(r"(slack|pagerduty|email)=([A-Za-z0-9_.-]+)(?::(.+))?")


class AlertNotSent(AirflowException):
    """No channel took it; what each of them said stands in the log."""


@dataclass(frozen=True)
class Channel:
    """Where alerts go: a kind, its connection, and for e-mail the addresses."""

    kind: str
    conn_id: str
    to: str = ""

    def hears(self, alert: Alert) -> bool:
        """PagerDuty wakes people up, so it hears of nothing that can wait."""
        return self.kind != "pagerduty" or alert.severity == CRITICAL


def channels() -> tuple[Channel, ...]:
    """What ``LUMOS_ALERTS`` names; none where alerts are only logged.

    Raises:
        ValueError: It is not a list of ``KIND=CONNECTION``.
    """
    found = []
    for text in filter(None, map(str.strip, os.environ.get("LUMOS_ALERTS", "").split(","))):
        match = _CHANNEL.fullmatch(text)
        channel = Channel(match[1], match[2], match[3] or "") if match else None
        if channel is None or (channel.kind == "email") != bool(channel.to):
            msg = (
                f"LUMOS_ALERTS has {text!r}; expected slack=CONNECTION, pagerduty=CONNECTION or "
                "email=CONNECTION:ADDRESS, with commas between them"
            )
            raise ValueError(msg)
        found.append(channel)
    return tuple(found)


def repeat_after() -> dt.timedelta:
    """How long an open alert stays silent before it is sent again.

    Raises:
        ValueError: ``LUMOS_ALERT_REPEAT_HOURS`` is no number of hours.
    """
    text = os.environ.get("LUMOS_ALERT_REPEAT_HOURS") or "4"
    try:
        hours = float(text)
    except ValueError:
        hours = -1
    if not 0 <= hours < 10_000:
        msg = f"LUMOS_ALERT_REPEAT_HOURS={text!r} is not a number of hours"
        raise ValueError(msg)
    return dt.timedelta(hours=hours)


def pages() -> Pages:
    """Where links lead: ``LUMOS_RUNBOOK_URL``, or the page that Airflow's own server has."""
    airflow = str(conf.get("api", "base_url", fallback="") or "http://localhost:8080").rstrip("/")
    return Pages(airflow, os.environ.get("LUMOS_RUNBOOK_URL") or f"{airflow}/lumos/runbook")


def deliver(alert: Alert) -> bool:
    """Send an alert unless that was done lately; whether it was sent.

    Raises:
        AlertNotSent: There are channels for it, and none took it.
    """
    if not _claim(alert):
        log.info("alert %s was sent already", alert.dedup_key)
        return False
    log.error("ALERT %s: %s; see %s", alert.title, alert.message, alert.runbook_url)
    hearing = [channel for channel in channels() if channel.hears(alert)]
    started = time.monotonic()
    silent = [channel for channel in hearing if not _send(channel, alert)]
    if silent and time.monotonic() - started < _ASK_AGAIN_WITHIN_SECONDS:
        time.sleep(1)
        silent = [channel for channel in silent if not _send(channel, alert)]
    if hearing and silent == hearing:
        _look_after("forget that it was sent", lambda: claims.release(alert))
        msg = f"alert {alert.dedup_key} reached nobody: no channel of LUMOS_ALERTS took it"
        raise AlertNotSent(msg)
    return True


def mended(occasion: Occasion, task_id: str) -> None:
    """Close what a task's success puts an end to, in the table and in PagerDuty."""
    keys = alerts.mended_by(occasion, task_id)
    closed = _look_after("close alerts", lambda: claims.resolve(keys)) or []
    paged = [channel for channel in channels() if channel.kind == "pagerduty"]
    for channel, key in itertools.product(paged, closed):
        end = functools.partial(pagerduty.resolve, channel.conn_id, key, seconds=_SECONDS)
        _try(channel, end)


class TaskFailed(BaseNotifier):
    """A task's ``on_failure_callback``: after its last try, or at once where none can help."""

    def notify(self, context: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Alert."""
        deliver(alerts.of_failure(context, pages()))


class RunFailed(BaseNotifier):
    """A DAG's ``on_failure_callback``, for tasks that could not say it themselves.

    Of a task whose process is killed on its last try, Airflow calls no callback but this.
    """

    def notify(self, context: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Alert about the task that failed last, unless it has done so."""
        if "ti" not in context:
            # Airflow names none only where it knows none: see the grid.
            log.error("run %s failed, and Airflow names no task", context.get("run_id"))
            return
        time.sleep(_ECHO_SECONDS)
        deliver(alerts.of_failure(context, pages()))


class TaskDone(BaseNotifier):
    """A task's ``on_success_callback``: tell what a monitor found, or close its alerts."""

    def notify(self, context: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Alert, or close."""
        ti = context["ti"]
        if ti.task_id == alerts.MONITOR:
            found = alerts.findings_in(ti.xcom_pull(task_ids=ti.task_id))
            if found:
                deliver(alerts.of_findings(context, pages(), found))
                return
        mended(Occasion.of_task(context), ti.task_id)


async def late(context: Mapping[str, Any]) -> None:
    """A deadline's callback, in the triggerer: in a thread, for it waits as asyncio must not."""
    await sync_to_async(_late, thread_sensitive=False)(context)


def _late(context: Mapping[str, Any]) -> None:
    occasion = Occasion.of_deadline(context, Settings.from_environment().recipe)
    if occasion.dag_id == "batch_scoring" and _are_published(occasion):
        log.info("scores of %s were in time; the run goes on", occasion.business_date)
        return
    due = context["deadline"]["deadline_time"]
    deliver(alerts.of_lateness(occasion, pages(), _sentence(due, context["dag_run"]["state"])))


def _sentence(due: dt.datetime | str, state: str) -> str:
    when = dt.datetime.fromisoformat(due) if isinstance(due, str) else due
    zone = os.environ.get("LUMOS_TIMEZONE") or "UTC"
    local = when.astimezone(ZoneInfo(zone))
    return f"not done by {local:%Y-%m-%d %H:%M} ({zone}); the run is {state}"


def _are_published(occasion: Occasion) -> bool:
    """Whether scores of the date are live: a run may fail, or go on, after it has published."""

    def look() -> bool:
        from lumos import stored
        from lumos.serve.manifest import LIVE, read_manifests

        settings = Settings.from_environment()
        try:
            recipe = stored.read(settings, occasion.recipe)
        except stored.NotStored:
            return False
        manifests = read_manifests(settings, recipe)
        return any(
            found.state == LIVE and found.as_of.isoformat() == occasion.business_date
            for found in manifests
        )

    return bool(_look_after("see whether scores are published", look))


def _claim(alert: Alert) -> bool:
    now, repeat = dt.datetime.now(dt.UTC), repeat_after()
    found = _look_after(
        "see whether it was sent",
        lambda: claims.claim(alert, now=now, repeat=repeat),
    )
    # Better twice than never.
    return True if found is None else found


def _look_after(what: str, do: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it gives
    """Do something with the lake, which may be what is broken: an alert must not depend on it."""
    try:
        return do()
    except Exception:
        log.exception("alerts: could not %s (is the lake at fault?); going on without", what)
        return None


def _send(channel: Channel, alert: Alert) -> bool:
    variable = f"AIRFLOW_CONN_{channel.conn_id.upper()}"

    def send() -> None:
        refuse_unencoded(variable, os.environ.get(variable, ""))
        _SENDERS[channel.kind](channel.conn_id, channel.to, alert, seconds=_SECONDS)

    return _try(channel, send)


def _try(channel: Channel, do: Callable[[], None]) -> bool:
    """Whether a channel took it; if not, its reason is logged, and the others have their turn."""
    try:
        do()
    except Exception as error:
        # No traceback and nothing secret: what libraries raise may quote their arguments.
        said = redact(f"{type(error).__name__}: {error}")
        log.error("%s (connection %s) did not take it: %s", channel.kind, channel.conn_id, said)
        return False
    log.info("told %s (connection %s)", channel.kind, channel.conn_id)
    return True
