"""An alert as a Slack message, through an incoming webhook."""

import logging
import re

from lumos_airflow.alerts import Alert

# Slack refuses a longer text in a section; escaping may make it longer than what it was.
_BLOCK_CHARACTERS, _FIELD_CHARACTERS = 2900, 1900


def send(conn_id: str, to: str, alert: Alert, *, seconds: int) -> None:
    """Post it.

    Args:
        conn_id: A connection of type ``slackwebhook``.
        to: Not used: the webhook knows its channel.
        alert: What to say.
        seconds: How long to wait for an answer.

    Raises:
        Exception: Slack did not take it.
    """
    # Here, because DAG files import this module and must parse in no time.
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

    # Of its own and never at debug level, at which slack_sdk logs the URL, which is the secret.
    quiet = logging.getLogger("lumos_airflow.slack_sdk")
    quiet.setLevel(logging.WARNING)
    hook = SlackWebhookHook(
        slack_webhook_conn_id=conn_id, timeout=seconds, retry_handlers=[], logger=quiet
    )
    hook.send(
        text=escaped(alert.title, _BLOCK_CHARACTERS), blocks=blocks(alert), unfurl_links=False
    )


def blocks(alert: Alert) -> list[dict[str, object]]:
    """The message, in Slack's Block Kit."""
    sign = ":rotating_light:" if alert.severity == "critical" else ":warning:"
    links = f"<{escaped(alert.runbook_url)}|What to do>  |  <{escaped(alert.log_url)}|Log>"
    facts = [
        {"type": "mrkdwn", "text": escaped(f"*{label}*\n{value}", _FIELD_CHARACTERS)}
        for label, value in alert.facts().items()
    ]
    return [
        _section(f"{sign} *{escaped(alert.title, _BLOCK_CHARACTERS - 50)}*"),
        _section(escaped(alert.message, _BLOCK_CHARACTERS)),
        {"type": "section", "fields": facts},
        _section(links),
    ]


def escaped(text: str, characters: int = _BLOCK_CHARACTERS) -> str:
    """Text that Slack shows as it is: no link, no mention of anybody, not longer than allowed."""
    found = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if len(found) <= characters:
        return found
    # An entity that the cut would halve is left out whole.
    return re.sub(r"&[a-z]{0,3}$", "", found[: characters - 4]) + " ..."


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}
