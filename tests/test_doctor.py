"""The doctor sees what is wrong with a machine, and names every remedy at once."""

import datetime as dt
import socket
import sqlite3
import sys
import time

import pytest

from lumos.doctor import (
    check_disk,
    check_java,
    check_lake,
    check_mlflow,
    check_port,
    check_python,
    check_recipe,
    check_schedule,
    doctor,
    examine,
)
from lumos.finding import Finding
from lumos.verbs import BadInput
from tests.conftest import World, enter, prepared_jars


@pytest.fixture
def world(tmp_path, monkeypatch):
    home = tmp_path / "home"
    prepared_jars(home)
    return enter(World(home), monkeypatch)


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def with_settings(world, **fields):
    request = world.request("doctor")
    settings = type(request.settings).model_validate({**request.settings.model_dump(), **fields})
    return type(request).model_validate({**dict(request), "settings": settings})


def test_every_check_says_what_it_saw(world):
    found = {finding.check: finding for finding in examine(world.request("doctor"))}
    assert set(found) == {
        "python", "user", "java", "jars", "lake", "disk", "mlflow", "recipe", "schedule",
        "platform",
    }  # fmt: skip
    assert all(finding.seen for finding in found.values())
    assert found["platform"].seen == "LUMOS_PLATFORM=local"


def test_all_remedies_are_named_at_once(tmp_path, monkeypatch, taken_port, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no-java"))
    request = with_settings(
        World(tmp_path / "home"), lake=str(tmp_path / "file" / "lake"), sql_root=tmp_path
    )
    request = type(request).model_validate({**dict(request), "options": {"port": taken_port}})
    with pytest.raises(BadInput) as caught:
        doctor(request)
    message = str(caught.value)
    assert message.startswith("4 of 11 checks failed. ")
    for remedy in (
        "apt-get install openjdk-17-jre-headless",
        "python -m lumos.aggregate.prepare",
        "set LUMOS_LAKE to another one",
        f"ss -ltnp 'sport = :{taken_port}'",
    ):
        assert remedy in message
    assert capfd.readouterr().err.count("FAILED") == 4


def test_the_doctor_is_quick_and_loads_no_heavy_library(world):
    before = set(sys.modules)
    began = time.process_time()
    examine(world.request("doctor"))
    assert time.process_time() - began < 2
    assert not {"torch", "mlflow", "great_expectations"} & (set(sys.modules) - before)


def test_another_python_is_refused():
    assert check_python((3, 11)).ok
    assert "Python 3.11" in check_python((3, 12)).remedy


def test_java_is_judged_by_the_check_that_spark_makes(tmp_path, monkeypatch):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "has 11.0.2" in check_java().remedy
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    assert check_java().seen == "21.0.1"


def test_a_lake_that_cannot_be_written_is_found(tmp_path, world):
    (tmp_path / "file").write_text("")
    assert check_lake(world.settings).ok
    wrong = with_settings(world, lake=str(tmp_path / "file")).settings
    assert "file is not a folder that can be written to" in check_lake(wrong).remedy


def test_room_is_measured_where_the_home_will_be(world):
    assert (
        "GiB free"
        in check_disk(with_settings(world, home=world.home / "not" / "yet").settings).seen
    )


def test_a_port_is_free_until_someone_takes_it(taken_port):
    assert "Stop what uses it" in check_port(taken_port).remedy
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert check_port(free).ok


@pytest.mark.parametrize("kind", ["server", "new sqlite", "sqlite"])
def test_a_tracking_store_that_answers_is_fine(kind, world, tmp_path, taken_port):
    sqlite3.connect(tmp_path / "mlflow.db").close()
    uri = {
        "server": f"http://127.0.0.1:{taken_port}",
        "new sqlite": f"sqlite:///{tmp_path}/new/mlflow.db",
        "sqlite": f"sqlite:///{tmp_path}/mlflow.db",
    }[kind]
    assert check_mlflow(with_settings(world, mlflow_uri=uri).settings).ok


def test_a_tracking_store_behind_a_unix_socket_is_reached_by_it(world, tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / ".s.PGSQL.5432"))
        server.listen()
        uri = f"postgresql+psycopg2://lumos@:5432/mlflow?host={tmp_path}"
        assert check_mlflow(with_settings(world, mlflow_uri=uri).settings) == Finding("mlflow", uri)


@pytest.mark.parametrize("kind", ["no server", "no socket", "not a database", "below a file"])
def test_a_tracking_store_that_does_not_answer_is_found(kind, world, tmp_path):
    (tmp_path / "text").write_text("this is not a database, whatever its name says")
    uri = {
        "no server": "http://someone:secret@127.0.0.1:1",
        "no socket": f"postgresql+psycopg2://lumos@:5432/mlflow?host={tmp_path}",
        "not a database": f"sqlite:///{tmp_path}/text",
        "below a file": f"sqlite:///{tmp_path}/text/mlflow.db",
    }[kind]
    found = check_mlflow(with_settings(world, mlflow_uri=uri).settings)
    assert "does not answer" in found.seen
    assert "MLFLOW_TRACKING_URI" in found.remedy
    assert "secret" not in found.seen


def test_a_recipe_without_its_selects_is_found(world, tmp_path):
    request = world.request("doctor")
    assert check_recipe(request).ok
    recipe = type(request.recipe).model_validate(
        {**request.recipe.model_dump(), "sql": str(tmp_path)}
    )
    missing = check_recipe(world.request("doctor", recipe=recipe))
    assert "activity.sql, static.sql, event_context.sql" in missing.remedy


def test_a_schedule_before_the_end_of_the_recipes_days_is_found(world):
    recipe = world.request("doctor").recipe
    early = {"LUMOS_TIMEZONE": "Pacific/Kiritimati"}
    found = check_schedule(recipe, dt.date(2024, 5, 10), early)
    assert "set LUMOS_TIMEZONE=Asia/Kolkata" in found.remedy
    assert "6.5 h before" in found.remedy
    # A machine without Airflow need not say when runs start, and one whose schedule is off never.
    assert check_schedule(recipe, dt.date(2024, 5, 10), {}).ok
    assert check_schedule(recipe, dt.date(2024, 5, 10), {**early, "LUMOS_SCHEDULE": "off"}).ok
    right = {"AIRFLOW_HOME": "/airflow", "LUMOS_TIMEZONE": "Asia/Kolkata"}
    assert check_schedule(recipe, dt.date(2024, 5, 10), right).ok
    wrong = check_schedule(recipe, dt.date(2024, 5, 10), {"LUMOS_TIMEZONE": "Mars/Phobos"})
    assert "LUMOS_TIMEZONE='Mars/Phobos'" in wrong.remedy
