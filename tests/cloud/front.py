"""The server's door: who asks what, what the plan does to it, and moto behind."""

import contextlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from tests.cloud import imds, wire
from tests.cloud.ec2 import HIDE
from tests.cloud.faults import AIRFLOW, NOBODY, TEST, Call, Faults, Rule
from tests.cloud.instance import Instance

KEYS = {AIRFLOW: "AKIAAIRFLOWAIRFLOW00", TEST: "AKIATESTTESTTEST0000"}
_LOOK_SECONDS = 0.02

StartResponse = Callable[..., Any]


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Not a line for each request."""


class Front:
    """A WSGI application for all services and all instances' metadata."""

    def __init__(self, faults: Faults, instances: Mapping[str, Instance]) -> None:
        self.faults = faults
        self.calls: list[Call] = []
        self._instances = instances
        self._numbers = itertools.count(1)
        self._s3_writes = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Its URL while it is served, on a free port of this machine."""
        server: BaseWSGIServer = make_server(
            "127.0.0.1", 0, self, threaded=True, request_handler=_Quiet
        )
        thread = threading.Thread(
            target=server.serve_forever, args=(_LOOK_SECONDS,), daemon=True, name="aws"
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/imds/"):
            _, _, instance_id, rest = path.split("/", 3)
            instance = self._instances[instance_id]
            return _send(imds.answer(instance, "/" + rest.lstrip("/"), environ), start)
        body = _body(environ)
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        key, service = wire.credential(environ)
        action, parameters = wire.request(environ, service, body)
        number, now = next(self._numbers), time.monotonic()
        call = Call(number, service, action, self._caller(key), parameters, now)
        self.calls.append(call)
        if self.faults.before and call.caller != TEST:
            self.faults.before(call)
        rule = self.faults.choose(call)
        call.fault = rule.kind if rule else None
        return self._execute(call, rule, environ, start)

    def _caller(self, key: str | None) -> str:
        for caller, theirs in KEYS.items():
            if key == theirs:
                return caller
        for instance in list(self._instances.values()):
            if instance.access_key == key:
                return instance.id
        return NOBODY

    def _execute(
        self, call: Call, rule: Rule | None, environ: dict[str, Any], start: StartResponse
    ) -> Iterable[bytes]:
        kind = rule.kind if rule else None
        if kind == "drop":
            return _drop(environ)
        if rule and kind == "hang":
            while self.faults.holds(rule):
                time.sleep(_LOOK_SECONDS)
            return _drop(environ)
        if kind == "empty":
            return _send(wire.nothing(call.action), start)
        if kind in ("throttle", "capacity", "fail", "deny"):
            return _send(wire.error(kind, call.service, environ), start)
        if rule and kind == "slow":
            time.sleep(rule.seconds)
        environ[HIDE] = rule.first if rule and kind == "hide" else 0
        try:
            status, headers, blocks = self._ask_moto(call, environ)
        except NotImplementedError as error:
            return _send(wire.refusal("NotEmulated", 501, call.service, environ, str(error)), start)
        call.status = int(status.split()[0])
        if self.faults.after and call.caller != TEST:
            self.faults.after(call)
        if kind == "lost-answer":
            return _drop(environ)
        start(status, headers)
        return blocks

    def _ask_moto(
        self, call: Call, environ: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], list[bytes]]:
        started: list[Any] = []
        # moto looks at the conditions of a write and then writes: two at once would both succeed.
        is_write = call.service == "s3" and environ["REQUEST_METHOD"] not in ("GET", "HEAD")
        with self._s3_writes if is_write else contextlib.nullcontext():
            blocks = list(self._moto(environ, lambda *given: started.append(given)))
        return started[0][0], started[0][1], blocks


def _body(environ: Mapping[str, Any]) -> bytes:
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        return environ["wsgi.input"].read()
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _send(answer: wire.Answer, start: StartResponse) -> Iterable[bytes]:
    status, content_type, body = answer
    start(f"{status} -", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]


def _drop(environ: Mapping[str, Any]) -> Iterable[bytes]:
    with contextlib.suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("dropped by the test's plan")
