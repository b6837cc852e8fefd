"""The instance metadata service, which on AWS is http://169.254.169.254 as seen from inside.

Here each instance finds its own through AWS_EC2_METADATA_SERVICE_ENDPOINT: one machine cannot
answer several instances on one address.
"""

import datetime as dt
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from tests.cloud.instance import Instance
from tests.cloud.wire import Answer

_ROLE = "lumos-instance"
_TOKEN = "/latest/api/token"
_ISO = "%Y-%m-%dT%H:%M:%SZ"


def answer(instance: Instance, path: str, environ: Mapping[str, Any]) -> Answer:
    """What the service says to a request from the instance."""
    time.sleep(instance.metadata_seconds)
    options = instance.record.metadata_options
    if options.http_endpoint == "disabled":
        return 403, "text/plain", b""
    method = environ["REQUEST_METHOD"]
    if path == _TOKEN:
        return _token(instance, environ) if method == "PUT" else (405, "text/plain", b"")
    given = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN")
    if given not in instance.imds_tokens and (given or options.http_tokens == "required"):
        return 401, "text/plain", b""
    found = _values(instance).get(path.rstrip("/"))
    if found is None or method != "GET":
        return (404 if method == "GET" else 405), "text/plain", b""
    return 200, "text/plain", found.encode()


def _token(instance: Instance, environ: Mapping[str, Any]) -> Answer:
    seconds = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS", "")
    if not seconds.isdigit() or not 1 <= int(seconds) <= 21_600:
        return 400, "text/plain", b""
    token = secrets.token_urlsafe(32)
    instance.imds_tokens.add(token)  # they do not expire here
    return 200, "text/plain", token.encode()


def _values(instance: Instance) -> dict[str, str]:
    region = instance.zone[:-1]
    data = "/latest/meta-data"
    identity = {
        "instanceId": instance.id,
        "instanceType": instance.type,
        "imageId": instance.record.image_id,
        "region": region,
        "availabilityZone": instance.zone,
        "accountId": instance.record.owner_id,
        "privateIp": "127.0.0.1",
    }
    values = {
        f"{data}/instance-id": instance.id,
        f"{data}/instance-type": instance.type,
        f"{data}/ami-id": instance.record.image_id,
        f"{data}/local-ipv4": "127.0.0.1",
        f"{data}/placement/region": region,
        f"{data}/placement/availability-zone": instance.zone,
        f"{data}/instance-life-cycle": instance.record.lifecycle or "on-demand",
        "/latest/dynamic/instance-identity/document": json.dumps(identity),
    }
    if instance.has_profile:
        roles = f"{data}/iam/security-credentials"
        values |= {roles: _ROLE, f"{roles}/{_ROLE}": _credentials(instance)}
    if instance.notice is not None:
        then = dt.datetime.fromtimestamp(instance.notice, dt.UTC).strftime(_ISO)
        values[f"{data}/spot/instance-action"] = json.dumps({"action": "terminate", "time": then})
        values[f"{data}/spot/termination-time"] = then
    return values


def _credentials(instance: Instance) -> str:
    now = dt.datetime.now(dt.UTC)
    return json.dumps(
        {
            "Code": "Success",
            "LastUpdated": now.strftime(_ISO),
            "Type": "AWS-HMAC",
            "AccessKeyId": instance.access_key,
            "SecretAccessKey": "secret-of-" + instance.id,
            "Token": "token-of-" + instance.id,
            "Expiration": (now + dt.timedelta(hours=6)).strftime(_ISO),
        }
    )
