"""The bytes of each protocol: what a request asks for, and how an error looks in it."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from tests.cloud.faults import Kind

Answer = tuple[int, str, bytes]  # status, content type, body
_S3_SUBRESOURCES = (
    "acl",
    "encryption",
    "lifecycle",
    "location",
    "policy",
    "publicAccessBlock",
    "tagging",
    "versioning",
)


def credential(environ: Mapping[str, Any]) -> tuple[str | None, str]:
    """Access key and service of a request signed with version 4, in its header or its URL."""
    header = environ.get("HTTP_AUTHORIZATION", "")
    if "Credential=" in header:
        scope = header.split("Credential=", 1)[1].split(",", 1)[0].split("/")
    else:
        query = parse_qs(environ.get("QUERY_STRING", ""))
        scope = unquote(query.get("X-Amz-Credential", [""])[0]).split("/")
    if len(scope) != 5:
        return None, "s3"  # anonymous
    return scope[0], scope[3]


def request(environ: Mapping[str, Any], service: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """Action and parameters."""
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return target.rpartition(".")[2], json.loads(body or b"{}")
    if service == "s3":
        return _s3(environ)
    form = {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
    return form.pop("Action", environ["PATH_INFO"]), form


def _s3(environ: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    method = environ["REQUEST_METHOD"]
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
    parameters = {"Bucket": bucket, "Key": key, **{name: query[name][0] for name in query}}
    for name in _S3_SUBRESOURCES:
        if name in query:
            kind = "Object" if key else "Bucket"
            return f"{method.title()}{kind}{name[0].upper()}{name[1:]}", parameters
    if not bucket:
        return "ListBuckets", parameters
    return (_s3_object if key else _s3_bucket)(method, query, environ), parameters


def _s3_bucket(method: str, query: Mapping[str, Any], _environ: Mapping[str, Any]) -> str:
    if method == "GET":
        if "uploads" in query:
            return "ListMultipartUploads"
        return "ListObjectsV2" if "list-type" in query else "ListObjects"
    if method == "POST":
        return "DeleteObjects" if "delete" in query else "PostObject"
    return {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}[method]


def _s3_object(method: str, query: Mapping[str, Any], environ: Mapping[str, Any]) -> str:
    if method == "POST":
        return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
    if "uploadId" in query:
        return {"PUT": "UploadPart", "DELETE": "AbortMultipartUpload", "GET": "ListParts"}[method]
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "CopyObject"
    return f"{method.title()}Object"


# (EC2, S3, JSON, others), each a code and its HTTP status, from the services' error references.
_ERRORS: dict[Kind, tuple[tuple[str, int], ...]] = {
    "throttle": (
        ("RequestLimitExceeded", 503),
        ("SlowDown", 503),
        ("ThrottlingException", 400),
        ("Throttling", 400),
    ),
    "capacity": (("InsufficientInstanceCapacity", 500),) * 4,
    "fail": (
        ("InternalError", 500),
        ("InternalError", 500),
        ("InternalServerError", 500),
        ("InternalFailure", 500),
    ),
    "deny": (
        ("UnauthorizedOperation", 403),
        ("AccessDenied", 403),
        ("AccessDeniedException", 400),
        ("AccessDenied", 403),
    ),
}


def error(kind: Kind, service: str, environ: Mapping[str, Any]) -> Answer:
    """The error of a kind in the words and the protocol of a service."""
    code, status = _ERRORS[kind][_protocol(service, environ)]
    return refusal(code, status, service, environ, "This call was made to fail by the test's plan.")


def refusal(
    code: str, status: int, service: str, environ: Mapping[str, Any], message: str
) -> Answer:
    """Any error in the protocol of a service."""
    protocol = _protocol(service, environ)
    if protocol == 2:
        body = json.dumps({"__type": code, "message": message})
        return status, "application/x-amz-json-1.1", body.encode()
    inner = f"<Code>{code}</Code><Message>{escape(message)}</Message>"
    body = (
        f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>0</RequestID></Response>",
        f"<Error>{inner}<RequestId>0</RequestId></Error>",
        "",
        f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error></ErrorResponse>",
    )[protocol]
    return status, "text/xml", b"" if environ["REQUEST_METHOD"] == "HEAD" else body.encode()


def _protocol(service: str, environ: Mapping[str, Any]) -> int:
    """Which column of the table above."""
    if "HTTP_X_AMZ_TARGET" in environ:
        return 2
    return {"ec2": 0, "s3": 1}.get(service, 3)


_EMPTY_LISTS = {
    "ListCommandInvocations": "CommandInvocations",
    "ListCommands": "Commands",
    "DescribeInstanceInformation": "InstanceInformationList",
}


def nothing(action: str) -> Answer:
    """A listing of nothing.

    Raises:
        ValueError: The action lists nothing that this file knows.
    """
    if name := _EMPTY_LISTS.get(action):
        return 200, "application/x-amz-json-1.1", json.dumps({name: []}).encode()
    if action == "DescribeInstances":
        space = "http://ec2.amazonaws.com/doc/2016-11-15/"
        body = f'<{action}Response xmlns="{space}"><reservationSet/></{action}Response>'
        return 200, "text/xml", body.encode()
    msg = f"a fault 'empty' has no answer for {action}: known are DescribeInstances, " + ", ".join(
        _EMPTY_LISTS
    )
    raise ValueError(msg)
