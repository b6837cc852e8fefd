"""A gym with a model version in the registry; each test gets a copy of its own."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import World, enter
from tests.serve.lake import write_lake
from tests.serve.models import crown, register


@pytest.fixture(scope="session")
def _registered(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = write_lake(tmp_path_factory.mktemp("serve") / "home")
    register(world, seed=1)
    return world


@pytest.fixture(scope="session")
def _crowned(_registered: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Crowned by hand: a model of a few seconds' training would not pass the gate."""
    world = _registered.copy(tmp_path_factory.mktemp("serve") / "home")
    world.run("evaluate")
    crown(world, "1")
    return world


@pytest.fixture(scope="session")
def _scored(_crowned: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _crowned.copy(tmp_path_factory.mktemp("serve") / "home")
    world.run("score")
    return world


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
