"""A small platform of which users are erased, or whose data is given to them."""

from pathlib import Path

import pytest

from tests.conftest import World, enter
from tests.erase.served import published_twice


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world that every test copies; none may change it."""
    home = tmp_path_factory.mktemp("erase") / "home"
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(World(home), monkeypatch)
        return published_twice(home)


@pytest.fixture
def world(served: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return enter(served.copy(tmp_path / "home"), monkeypatch)
