"""The server of a home: it starts wherever Airflow does, and nothing of it outlives its starter."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.airflow import LocalAirflow
from demo.client import AirflowError
from demo.postgres import DATABASES, MAJOR, Postgres
from demo.private import make_private
from lumos.settings import REPOSITORY, Settings
from lumos.train.tracking import _experiment, client

STARTER = """
import sys, time
from pathlib import Path
from demo.postgres import Postgres
home = Path(sys.argv[1])
server = Postgres(home).start(home / "run")
print("ready", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def started(home: Path) -> Iterator[Postgres]:
    found = Postgres(home)
    server = found.start(home / "run")
    try:
        yield found
    finally:
        server.terminate()
        server.join()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with started(tmp_path_factory.mktemp("postgres") / "home") as found:
        yield found


def ask(postgres: Postgres, query: str, database: str = "airflow") -> list[tuple]:
    with contextlib.closing(postgres.connect(database)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor.fetchall() if cursor.description else []


def test_a_fresh_home_begins_with_both_schemas_migrated(postgres):
    assert postgres.is_migrated
    for database in DATABASES:
        assert ask(postgres, "SELECT version_num FROM alembic_version", database)


def test_it_listens_on_a_socket_that_only_its_owner_can_reach(postgres):
    assert ask(postgres, "SHOW listen_addresses") == [("",)]
    folder = Path(ask(postgres, "SHOW unix_socket_directories")[0][0])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()
    assert postgres.folder.stat().st_mode & 0o777 == 0o700


def test_mlflow_keeps_its_records_there_and_its_files_in_the_home(postgres, tmp_path):
    airflow = LocalAirflow(postgres.folder.parent, environment={"PATH": os.environ["PATH"]})
    settings = Settings.from_environment(airflow.environment)
    assert settings.mlflow_uri == postgres.url("mlflow")
    tracker = client(settings)
    found = tracker.get_experiment(_experiment(tracker, settings, "trial"))
    assert found.artifact_location == (settings.home / "mlartifacts" / "trial").as_uri()
    assert ask(postgres, "SELECT name FROM experiments WHERE name = 'trial'", "mlflow")
    theirs = LocalAirflow(tmp_path, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert theirs.environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"


def test_a_home_with_a_long_path_runs_beside_another_one(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    home = tmp_path / ("long" * 30) / "home"
    with started(home) as other:
        socket = Path(ask(other, "SHOW unix_socket_directories")[0][0])
        assert not socket.is_relative_to(home)
        ask(other, "CREATE TABLE mine (a int)")
        assert not ask(postgres, "SELECT FROM pg_tables WHERE tablename = 'mine'")
    socket.rmdir()


def test_the_next_start_recovers_from_a_kill_and_from_what_a_power_cut_leaves(tmp_path):
    home, run = tmp_path / "home", [sys.executable, "-c", STARTER, str(tmp_path / "home")]
    with subprocess.Popen(run, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
        found = Postgres(home)
        ask(found, "CREATE TABLE kept AS SELECT 1 AS a")
        mine = psutil.Process(starter.pid).children(recursive=True)
        starter.kill()
    assert len(mine) > 3
    _, alive = psutil.wait_procs(mine, timeout=60)
    assert not alive
    # As after a reboot: pids that others have now, a socket without a server, half a copy.
    for path in ("data/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
        (found.folder / path).write_text(f"{os.getpid()}\n")
    (found.folder / "socket" / ".s.PGSQL.5432").touch()
    (found.folder / "draft").mkdir()
    with started(home) as again:
        assert ask(again, "SELECT a FROM kept") == [(1,)]
    (found.folder / "data" / "postmaster.pid").touch()  # begun, and never written
    with started(home) as again:
        assert ask(again, "SELECT a FROM kept") == [(1,)]


def test_a_database_of_another_major_version_is_left_alone(tmp_path):
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    with pytest.raises(AirflowError, match=f"is of PostgreSQL 17, and this is {MAJOR}: move"):
        Postgres(tmp_path).start(tmp_path / "run")


def test_a_disk_that_is_nearly_full_is_refused_before_it_is_full(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(AirflowError, match=r"only 1 MB are free .* set LUMOS_HOME"):
        Postgres(tmp_path).start(tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_another_user_could_have_put_there_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(AirflowError, match="should be a folder: remove it"):
        make_private(tmp_path / "link")


def test_the_end_of_its_log_says_why_it_did_not_start(tmp_path):
    with started(tmp_path):
        pass
    (tmp_path / "postgres" / "data" / "global" / "pg_control").unlink()
    began = time.monotonic()
    with pytest.raises(AirflowError, match=r"(?s)PostgreSQL ended .*could not find the database"):
        Postgres(tmp_path).start(tmp_path / "run")
    assert time.monotonic() - began < 60


def test_the_deployment_in_containers_has_the_same_major_version():
    assert f"image: postgres:{MAJOR}\n" in (REPOSITORY / "compose.yaml").read_text()
