"""An alert as an e-mail: its text, escaped, for the provider sends HTML only."""

from html import escape

from lumos_airflow.alerts import Alert

_SUBJECT_CHARACTERS = 200


def send(conn_id: str, to: str, alert: Alert, *, seconds: int) -> None:
    """Send it.

    Args:
        conn_id: A connection of type ``smtp``; its extra names ``from_email``.
        to: One address, or several with ``;`` between them.
        alert: What to say.
        seconds: How long to wait for each answer of the server.

    Raises:
        Exception: The server did not take it.
    """
    # Here, because DAG files import this module and must parse in no time.
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    class Mail(SmtpHook):
        """The provider's, in a hurry: five retries of 30 s each would outlast a callback."""

        timeout = seconds
        smtp_retry_limit = 0

    with Mail(smtp_conn_id=conn_id) as hook:
        hook.send_email_smtp(to=to, subject=subject(alert), html_content=page(alert))


def subject(alert: Alert) -> str:
    """One line, whatever a run was called."""
    return " ".join(alert.title.split())[:_SUBJECT_CHARACTERS]


def page(alert: Alert) -> str:
    """The text, as HTML in which nothing but the two links is more than text."""
    facts = "".join(f"{label}: {value}\n" for label, value in alert.facts().items())
    links = (("What to do", alert.runbook_url), ("Log", alert.log_url))
    linked = "<br>".join(
        f'{label}: <a href="{escape(url)}">{escape(url)}</a>' for label, url in links
    )
    text = escape(f"{alert.title}\n\n{alert.message}\n\n{facts}")
    return f"<pre>{text}</pre><p>{linked}</p>"
