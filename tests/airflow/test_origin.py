"""*Run again* over real HTTP: plain, encrypted, behind a proxy; and from pages of other sites."""

import datetime as dt
import http.client
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import uvicorn
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from lumos_airflow.health import look, page
from playwright.sync_api import Browser, Error, expect, sync_playwright
from sqlalchemy import delete, select

from benchmarks import _health_world as made
from lumos.recipes import load
from lumos.settings import Settings
from lumos.stored import store
from tests.conftest import RECIPE, WHERE_WE_WORK

YESTERDAY = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
# Not localhost: to that a browser sends `Sec-Fetch-Site` over plain http too.
NAME = "lumos.example"
RETRY = f"/lumos/health/retry?dag_id=batch_scoring&run_id={made.run_id(YESTERDAY)}&task_id=score"
RETRY = RETRY.replace("+", "%2B")


@contextmanager
def listening(app: FastAPI, **config) -> Iterator[int]:
    """A real server in a thread; its port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", **config))
        thread = threading.Thread(target=server.run, args=([taken],))
        thread.start()
        try:
            yield taken.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def proxy(port: int, certificate: Path, *, prefix: str, keeps_host: bool) -> Iterator[int]:
    """Ends TLS, takes a prefix off the path, and says so as proxies do."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            host = self.headers["host"] if keeps_host else f"127.0.0.1:{port}"
            size = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            headers |= {"host": host, "x-forwarded-proto": "https"}
            behind = http.client.HTTPConnection("127.0.0.1", port)
            path = self.path.removeprefix(prefix)
            behind.request(self.command, path, body=self.rfile.read(size), headers=headers)
            answer = behind.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made_of = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = made_of.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    found = tmp_path_factory.mktemp("certificate") / "both.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    secret = key.private_bytes(*form, serialization.NoEncryption())
    public = signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    found.write_bytes(secret + public)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """Airflow's login and rights, and the pages."""
    made.make_database()
    home = tmp_path_factory.mktemp("home")
    places = (str(home), str(home / "lake"), RECIPE, f"sqlite:///{home}/mlflow.db")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, place in zip(WHERE_WE_WORK, places, strict=True):
            monkeypatch.setenv(name, place)
        monkeypatch.setenv("LUMOS_SCHEDULE", "off")
        monkeypatch.setattr(look, "look", lambda _name: look.Found())
        store(Settings.from_environment(), RECIPE, load(RECIPE))
        app = FastAPI()
        app.mount(page.PREFIX, page.pages())
        airflow_app.init_auth_manager(app)
        airflow_app.init_middlewares(app)
        yield app


@pytest.fixture(scope="module")
def plain(server: FastAPI) -> Iterator[int]:
    with listening(server) as port:
        yield port


@pytest.fixture(autouse=True)
def _leaves_the_environment_alone() -> None:
    """The module's server works elsewhere than the process did before."""


@pytest.fixture
def red() -> Iterator[None]:
    """A failed run of yesterday."""
    with create_session() as session:
        made.add_runs(session, "batch_scoring", [YESTERDAY], states={"score": "failed"})
    yield
    with create_session() as session:
        for model in (TaskInstance, DagRun, Log):
            session.execute(delete(model))


def is_cleared() -> bool:
    with create_session() as session:
        mine = TaskInstance.task_id == "score", TaskInstance.dag_id == "batch_scoring"
        return session.scalar(select(TaskInstance.state).where(*mine)) is None


def token() -> str:
    user = SimpleAuthManagerUser(username="somebody", role="op")
    return airflow_app.get_auth_manager().generate_jwt(user, expiration_time_in_seconds=600)


def ask(port: int, *, scheme: str = "http", prefix: str = "", **headers: str) -> int:
    """*Run again* as a browser with the cookie asks for it; the status."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.Client(verify=False, cookies={"_token": token()}) as client:
        return client.post(
            f"{scheme}://127.0.0.1:{port}{prefix}{RETRY}",
            headers={"host": f"{NAME}:{port}", **sent},
        ).status_code


def test_our_own_page_may_ask_over_plain_http(plain, red):
    assert ask(plain, origin=f"http://{NAME}:{plain}") == 303
    assert is_cleared()


def test_our_own_page_may_ask_over_https(server, red, certificate):
    with listening(server, ssl_certfile=certificate) as port:
        assert ask(port, scheme="https", origin=f"https://{NAME}:{port}") == 303
    assert is_cleared()


@pytest.mark.parametrize("keeps_host", [True, False])
def test_our_own_page_may_ask_behind_a_proxy_with_a_path(
    plain, red, certificate, monkeypatch, keeps_host
):
    with proxy(plain, certificate, prefix="/tools/airflow", keeps_host=keeps_host) as port:
        asked = {"scheme": "https", "prefix": "/tools/airflow"}
        if not keeps_host:
            assert ask(port, **asked, origin=f"https://{NAME}:{port}") == 403
            base_url = f"https://{NAME}:{port}/tools/airflow"
            monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
        assert ask(port, **asked, origin=f"https://{NAME}:{port}") == 303
        assert is_cleared()
        assert ask(port, **asked, origin="https://evil.example") == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://evil.{host}"},
        {"origin": "http://{host}.evil.example"},
        {"origin": "http://{host}@evil.example"},
        {"origin": "http://user@{host}"},
        {"origin": "http://" + NAME},
        {"origin": "http://" + NAME + ":1"},
        {"origin": "http://" + NAME + ":99999999"},
        {"origin": "file://{host}"},
        {"origin": "{host}"},
        {"origin": "http://[::1"},
        {"origin": "http://evil.example", "x_forwarded_host": "evil.example"},
        {"origin": "http://evil.example", "forwarded": "host=evil.example"},
        {"origin": "http://evil.example", "referer": "http://{host}/lumos/health"},
        {"origin": "http://{host}", "sec_fetch_site": "same-site"},
        {"origin": "http://{host}", "sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_of_another_site_may_not(plain, red, headers):
    host = f"{NAME}:{plain}"
    assert ask(plain, **{k: v.replace("{host}", host) for k, v in headers.items()}) == 403
    assert not is_cleared()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    names = "MAP lumos.example 127.0.0.1, MAP evil.lumos.example 127.0.0.1"
    arguments = ["--no-sandbox", f"--host-resolver-rules={names}", "--ignore-certificate-errors"]
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=arguments)
        except Error as error:
            pytest.skip(f"chromium does not start here: {error.message.splitlines()[0]}")
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_button_works_in_a_browser_and_a_sibling_s_does_not(
    browser, plain, red, certificate, scheme
):
    with proxy(plain, certificate, prefix="/tools/airflow", keeps_host=True) as encrypted:
        port, prefix = (plain, "") if scheme == "http" else (encrypted, "/tools/airflow")
        ours = f"{scheme}://{NAME}:{port}"
        context = browser.new_context(ignore_https_errors=True)
        cookie = {"name": "_token", "value": token(), "domain": NAME, "path": "/"}
        context.add_cookies([{**cookie, "sameSite": "Lax"}])
        tab = context.new_page()
        # Of the same site, so that the cookie is sent along.
        form = f"<form method=post action='{ours}{prefix}{RETRY}'><button>Win</button></form>"
        sibling = f"{scheme}://evil.{NAME}:{port}/"
        tab.route(sibling, lambda route: route.fulfill(body=form, content_type="text/html"))
        tab.goto(sibling)
        with tab.expect_response(lambda answer: "retry" in answer.url) as refused:
            tab.get_by_role("button").click()
        assert refused.value.status == 403
        assert not is_cleared()
        tab.goto(f"{ours}{prefix}/lumos/health")
        tab.get_by_role("button", name="Run again").first.click()
        expect(tab.get_by_role("status")).to_be_visible()
        assert tab.url == f"{ours}{prefix}/lumos/health"
        assert is_cleared()
        context.close()
