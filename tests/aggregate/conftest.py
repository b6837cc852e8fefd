"""One Spark session a module, and a shop of its own for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lumos.aggregate.spark import local_settings, start
from lumos.settings import Settings
from tests.aggregate.shop import Shop, open_shop
from tests.conftest import enter


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """The session that every verb in a module borrows: starting one takes longer than a verb."""
    session = start("tests", local_settings(Settings.from_environment().home / "spark", cores=2))
    yield session
    session.stop()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with its raw tables landed, nothing aggregated yet."""
    opened = open_shop(tmp_path / "home")
    enter(opened, monkeypatch)
    return opened


@pytest.fixture(scope="module")
def _aggregated_shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    opened = open_shop(tmp_path_factory.mktemp("shop") / "home")
    opened.aggregate(days=10)
    return opened


@pytest.fixture
def aggregated(_aggregated_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The same shop aggregated for its business date, ten days; a copy, free to be changed."""
    copy = _aggregated_shop.copy(tmp_path / "home")
    opened = Shop(copy.home, copy.recipe_name, copy.date)
    enter(opened, monkeypatch)
    return opened
