"""A gym with a model version in the registry; each test gets a copy of its own."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import BuildOnce, World, enter
from tests.serve.lake import write_lake
from tests.serve.models import crown, register


@pytest.fixture(scope="session")
def _registered(build_once: BuildOnce) -> World:
    return World(build_once("serve_registered", lambda home: register(write_lake(home), seed=1)))


@pytest.fixture(scope="session")
def _crowned(_registered: World, build_once: BuildOnce) -> World:
    """Crowned by hand: a model of a few seconds' training would not pass the gate."""

    def build(home: Path) -> None:
        world = _registered.copy(home)
        world.run("evaluate")
        crown(world, "1")

    return World(build_once("serve_crowned", build))


@pytest.fixture(scope="session")
def _scored(_crowned: World, build_once: BuildOnce) -> World:
    return World(build_once("serve_scored", lambda home: _crowned.copy(home).run("score")))


def _copy(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    shutil.rmtree(home, ignore_errors=True)
    return enter(world.copy(home), monkeypatch)


@pytest.fixture
def registered(_registered: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Version 1 is the challenger, not evaluated yet."""
    return _copy(_registered, tmp_path / "home", monkeypatch)


@pytest.fixture
def crowned(_crowned: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Version 1 is evaluated and champion; nothing is scored yet."""
    return _copy(_crowned, tmp_path / "home", monkeypatch)


@pytest.fixture
def scored(_scored: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A day scored by the champion; nothing published yet."""
    return _copy(_scored, tmp_path / "home", monkeypatch)
