"""A shop of its own for every test."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.aggregate.shop import Shop, open_shop
from tests.conftest import enter


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
