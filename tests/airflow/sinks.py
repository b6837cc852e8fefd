"""Slack, PagerDuty and a mail server, as far as an alert can tell: they write down what came."""

import datetime as dt
import ipaddress
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TOKEN = "T0000/B0000/slack-webhook-secret"
KEY = "pagerduty-integration-secret"
PASSWORD = "smtp-password-secret"
CHANNELS = "slack=slack_test,pagerduty=pagerduty_test,email=smtp_test:oncall@example.com"


@dataclass
class Sinks:
    """What arrived, in order; ``broken`` names those that refuse."""

    certificate: Path
    http: str = ""
    smtp_port: int = 0
    slack: list[dict] = field(default_factory=list)
    pagerduty: list[dict] = field(default_factory=list)
    mails: list[Message] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    @property
    def environment(self) -> dict[str, str]:
        """Connections and channels that lead here."""
        return {
            "LUMOS_ALERTS": CHANNELS,
            "SSL_CERT_FILE": str(self.certificate),
            "AIRFLOW_CONN_SLACK_TEST": json.dumps(
                {
                    "conn_type": "slackwebhook",
                    "host": f"{self.http}/services",
                    "password": TOKEN,
                }
            ),
            "AIRFLOW_CONN_PAGERDUTY_TEST": json.dumps(
                {"conn_type": "pagerduty_events", "host": self.http, "password": KEY}
            ),
            "AIRFLOW_CONN_SMTP_TEST": json.dumps(
                {
                    "conn_type": "smtp",
                    "host": "127.0.0.1",
                    "port": self.smtp_port,
                    "password": PASSWORD,
                    "extra": {
                        "from_email": "lumos@example.com",
                        "disable_tls": True,
                        "disable_ssl": True,
                    },
                }
            ),
        }


class Web(BaseHTTPRequestHandler):
    """Both services that speak HTTP; ``server.sinks`` is where they write."""

    def do_POST(self) -> None:
        found = self.server.sinks
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_slack = self.path == f"/services/{TOKEN}"
        if ("slack" if is_slack else "pagerduty") in found.broken:
            self._answer(500, "sorry")
        elif is_slack:
            found.slack.append(body)
            self._answer(200, "ok")
        else:
            assert self.path == "/v2/enqueue", self.path
            found.pagerduty.append(body)
            self._answer(202, json.dumps({"status": "success", "dedup_key": body["dedup_key"]}))

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Not to the test's own output."""


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a message needs."""

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip():
            verb = line.upper()
            if verb.startswith("QUIT"):
                self._say("221 bye")
                return
            if verb.startswith("MAIL") and "email" in self.server.sinks.broken:
                self._say("550 sorry")
            elif verb == "DATA":
                self._say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.sinks.mails.append(message_from_bytes(b"".join(lines)))
                self._say("250 taken")
            else:
                self._say("250 fine")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class MailServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def sinks(folder: Path) -> Iterator[Sinks]:
    """Listening on free ports of this host until the block ends; the folder gets a certificate."""
    certificate = write_certificate(folder)
    found = Sinks(certificate=certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with ExitStack() as stack:
        web = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Web))
        web.socket = tls.wrap_socket(web.socket, server_side=True)
        mail = stack.enter_context(MailServer(("127.0.0.1", 0), Mail))
        for server in (web, mail):
            server.sinks = found
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        found.http = f"https://127.0.0.1:{web.server_address[1]}"
        found.smtp_port = mail.server_address[1]
        yield found


def write_certificate(folder: Path) -> Path:
    """A key and its own certificate for 127.0.0.1: PagerDuty's client speaks nothing but TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sink")])
    now = dt.datetime.now(dt.UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(host, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "sink.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path
