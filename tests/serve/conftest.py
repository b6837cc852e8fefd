"""A gym whose model is trained, evaluated, promoted; each test gets a copy of its own."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import World, enter
from tests.serve.lake import write_lake


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = write_lake(tmp_path_factory.mktemp("serve") / "home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(world, monkeypatch)
        world.run("train")
    return world


@pytest.fixture(scope="session")
def _promoted(_trained: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _trained.copy(tmp_path_factory.mktemp("serve") / "home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(world, monkeypatch)
        world.run("evaluate")
        world.run("promote")
    return world


@pytest.fixture(scope="session")
def _scored(_promoted: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _promoted.copy(tmp_path_factory.mktemp("serve") / "home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(world, monkeypatch)
        world.run("score")
    return world


def _copy(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    shutil.rmtree(home, ignore_errors=True)
    return enter(world.copy(home), monkeypatch)


@pytest.fixture
def trained(_trained: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A challenger, not evaluated yet."""
    return _copy(_trained, tmp_path / "home", monkeypatch)


@pytest.fixture
def promoted(_promoted: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A champion; nothing scored yet."""
    return _copy(_promoted, tmp_path / "home", monkeypatch)


@pytest.fixture
def scored(_scored: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A day scored by the champion; nothing published yet."""
    return _copy(_scored, tmp_path / "home", monkeypatch)
