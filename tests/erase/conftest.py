"""A small platform of which users are erased, or whose data is given to them."""

from pathlib import Path

import pytest

from tests.conftest import World, enter
from tests.erase.looking import DATES, GYM, TODAY
from tests.serve.lake import write_lake
from tests.serve.models import crown, register


@pytest.fixture(scope="package")
def _served(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two days scored and published, the second one twice; and a shadow, and embeddings."""
    world = write_lake(tmp_path_factory.mktemp("erase") / "home", num_users=60)
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(world, monkeypatch)
        register(world, seed=1)
        world.run("evaluate")
        crown(world, "1")
        for date in DATES:
            for verb in ("score", "publish", "embed"):
                world.run(verb, date=date)
        _publish_other_scores(world)
    return world


def _publish_other_scores(world: World) -> None:
    """A second publication of today: with the intervals of another level."""
    from lumos.overrides import override

    world.run(
        "publish", date=TODAY, recipe=override(GYM, {"calibration.interval_level": 0.5}), force=True
    )


@pytest.fixture
def world(_served: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return enter(_served.copy(tmp_path / "home"), monkeypatch)
