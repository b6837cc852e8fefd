"""An alert as an incident of PagerDuty, opened and, once all is well, resolved by its key."""

from typing import Any

from lumos_airflow.alerts import Alert

_SUMMARY_CHARACTERS = 1024


def send(conn_id: str, to: str, alert: Alert, *, seconds: int) -> None:
    """Trigger an incident; PagerDuty folds those of one key into one.

    Args:
        conn_id: A connection of type ``pagerduty_events``; its host may name another service
            region, such as ``https://events.eu.pagerduty.com``.
        to: Not used: the integration key knows its service.
        alert: What to say.
        seconds: How long to wait for an answer.

    Raises:
        Exception: PagerDuty did not take it.
    """
    _hook(conn_id, seconds).send_event(
        summary=alert.title[:_SUMMARY_CHARACTERS],
        severity=alert.severity,
        source=f"lumos/{alert.dag_id}",
        component=alert.task_id or alert.dag_id,
        group=alert.dag_id,
        class_type=alert.name,
        dedup_key=alert.dedup_key,
        custom_details={"Message": alert.message, **alert.facts()},
        links=[
            {"href": alert.runbook_url, "text": "What to do"},
            {"href": alert.log_url, "text": "Log"},
        ],
    )


def resolve(conn_id: str, dedup_key: str, *, seconds: int) -> None:
    """Close the incident of a key; nothing happens if there is none.

    Raises:
        Exception: PagerDuty did not take it.
    """
    _hook(conn_id, seconds).send_event(
        summary="what failed has succeeded",
        severity="info",
        action="resolve",
        dedup_key=dedup_key,
    )


def _hook(conn_id: str, seconds: int) -> Any:  # noqa: ANN401 - a class made below
    # Here, because DAG files import this module and must parse in no time.
    import pagerduty
    from airflow.providers.pagerduty.hooks.pagerduty_events import (
        PagerdutyEventsHook,
        prepare_event_data,
    )

    class EventsHook(PagerdutyEventsHook):
        """The provider's, which has neither a host nor a time limit."""

        def send_event(self, **event: Any) -> str:  # noqa: ANN401 - the provider's own
            host = self.get_connection(conn_id).host
            client = pagerduty.EventsApiV2Client(self.integration_key, base_url=host or None)
            # Its own retries would take minutes, and have no end while it is throttled.
            client.timeout = seconds
            client.max_network_attempts = 0
            client.retry = {429: 1}
            with client:
                sent: str = client.send_event(**prepare_event_data(**event))
            return sent

    return EventsHook(pagerduty_events_conn_id=conn_id)
