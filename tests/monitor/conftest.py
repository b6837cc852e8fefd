"""Worlds for the monitors, made once and copied for each test."""

import datetime as dt
from pathlib import Path

import pytest

from tests.conftest import World, enter
from tests.monitor.lake import DATE, NUM_USERS, publish_days, write_gym
from tests.serve import lake as serving

PUBLISHED = [DATE - dt.timedelta(days=n) for n in reversed(range(45))]


@pytest.fixture(scope="session")
def _gym(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_gym(tmp_path_factory.mktemp("monitor") / "home")


@pytest.fixture(scope="session")
def _published(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("monitor") / "home"
    world = serving.write_lake(home, num_users=NUM_USERS)
    publish_days(world, PUBLISHED)
    return world


@pytest.fixture
def gym(_gym: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Seventy ordinary days of activity."""
    world = enter(_gym.copy(tmp_path / "home"), monkeypatch)
    return World(world.home, world.recipe_name, DATE)


@pytest.fixture
def published(_published: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Sequences, and six weeks of publications that are about right."""
    world = enter(_published.copy(tmp_path / "home"), monkeypatch)
    return World(world.home, world.recipe_name, DATE)
