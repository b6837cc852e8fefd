"""Ask AWS, and turn whatever it answers into a finding: nobody reads a traceback of botocore's."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lumos.finding import Finding

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"}
_BAD_KEYS = {
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId",
    "InvalidClientTokenId", "RequestExpired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip
_MOST_SAID = 300
POLICY = "docs/aws/airflow-policy.json"


@dataclass
class Aws:
    """boto3's clients of one region, made when they are first asked for."""

    region: str
    _clients: dict[str, Any] = field(default_factory=dict)
    _session: Any = None

    def __call__(self, service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        """Client of a service."""
        import boto3
        from botocore.config import Config

        if service not in self._clients:
            # A doctor who takes minutes is not asked again.
            config = Config(
                connect_timeout=5,
                read_timeout=15,
                retries={"mode": "standard", "total_max_attempts": 3},
            )
            # A session of its own: boto3's shared one keeps the credentials it once found.
            self._session = self._session or boto3.Session(region_name=self.region)
            self._clients[service] = self._session.client(service, config=config)
        return self._clients[service]


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        name: For the table.
        look: Sees it.
        remedy: Where AWS answers with an error that is no lack of a right.
        must: A right that Airflow needs for its work, too: without it nothing can run.
    """

    name: str
    look: Callable[[], tuple[str, str]]
    remedy: str
    must: bool = False

    def run(self) -> Finding:
        """What was seen, whatever happens."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            return Finding(self.name, *self.look())
        except ClientError as error:
            return self._said_no(error_code(error), said(error))
        except NoCredentialsError as error:
            return Finding(self.name, str(error), self.remedy)
        except BotoCoreError as error:
            remedy = "Check the region, the network and the credentials, then look again"
            return Finding(self.name, f"no answer: {str(error)[:_MOST_SAID]}", remedy)
        except Unseen as error:
            return Finding(self.name, str(error))

    def _said_no(self, code: str, message: str) -> Finding:
        if code in _BAD_KEYS:
            return Finding(self.name, message, "Renew the credentials")
        if code not in _DENIED:
            return Finding(self.name, message, self.remedy)
        if self.must:
            return Finding(self.name, message, f"Allow it: {POLICY} is all that Airflow needs")
        return Finding(self.name, f"not looked at, these credentials may not ({code})")


class Unseen(Exception):
    """Nothing can be said about it from here, which is no fault; the message says why."""


def error_code(error: Any) -> str:  # noqa: ANN401 - ClientError, imported where it is caught
    """Of a ``ClientError``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def said(error: Any) -> str:  # noqa: ANN401
    """A ``ClientError`` in short."""
    found = error.response.get("Error", {})
    return f"{found.get('Code', '')}: {found.get('Message', '')}".strip(": ")[:_MOST_SAID]


def run_all(checks: Iterable[Check]) -> Iterator[Finding]:
    """Each check's finding."""
    for check in checks:
        yield check.run()
