"""The tiny world: one gym, written once as real tables, given to each test as its own copy.

The suite runs in several processes (``make test``). A file's tests stay together in one of them,
and worlds that take seconds to make are made by the first process that needs them.
"""

import datetime as dt
import importlib.machinery
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GYM_FOLDER = Path(__file__).resolve().parent / "gym"
sys.path.insert(0, str(GYM_FOLDER))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(GYM_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# A process of xdist has no main module, which PySpark takes for a run of its own doctests.
main = sys.modules["__main__"]
if main.__spec__ is None and not hasattr(main, "__file__"):
    main.__spec__ = importlib.machinery.ModuleSpec(None, None)  # type: ignore[arg-type]

from lumos import compute  # noqa: E402 - before anything imports torch

# Tests compare results bit for bit, and run beside each other.
os.environ["OMP_NUM_THREADS"] = "1"
compute.set_up()

from gym_world import raw  # noqa: E402

import tests.airflow_home  # noqa: E402, F401 - before anything imports Airflow
from lumos.allowed import is_name  # noqa: E402
from lumos.cli import VERBS  # noqa: E402
from lumos.recipes import load  # noqa: E402
from lumos.settings import Settings  # noqa: E402
from lumos.stored import store  # noqa: E402
from lumos.verbs import Report, Request  # noqa: E402
from tests.tracing import run_declared  # noqa: E402

# Wall time per example depends on what else the machine runs.
settings.register_profile("lumos", deadline=None)
settings.load_profile("lumos")

RECIPE = "gym_world.recipe:recipe"
TESTS = Path(__file__).resolve().parent
# What takes longest starts first, or one process would end with it while the other idles.
LONGEST_FIRST = (
    "airflow",
    "cloud/test_storms.py",
    "train/test_loop.py",
    "aggregate/test_daily.py",
    "cloud/test_operator.py",
)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, or of one mark, together; the longest groups first."""
    groups = {}
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is None:
            mark = pytest.mark.xdist_group(item.path.relative_to(TESTS).as_posix())
            item.add_marker(mark)
        groups[item] = mark.kwargs.get("name") or mark.args[0]
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(groups[item], len(places)))


@dataclass(frozen=True)
class World:
    """A lake of its own, and a short way to run verbs on it."""

    home: Path
    recipe_name: str = RECIPE
    date: dt.date = raw.BUSINESS_DATE

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a subprocess that works on this world."""
        return {
            **os.environ,
            "LUMOS_HOME": str(self.home),
            "LUMOS_LAKE": str(self.home / "lake"),
            "LUMOS_RECIPE": self.recipe_name,
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.home / 'mlflow.db'}",
        }

    @property
    def settings(self) -> Settings:
        """The same as an object."""
        return Settings.from_environment(self.environment)

    def request(self, verb: str, *, date: dt.date | None = None, **options: Any) -> Request:
        """A request with the verb's default options, some of them replaced."""
        force = options.pop("force", False)
        recipe = options.pop("recipe", None) or load(self.recipe_name)
        defaults = {flag.name.replace("-", "_"): flag.default for flag in VERBS[verb].flags}
        return Request(
            verb=verb,
            recipe=recipe,
            date=date or self.date,
            settings=self.settings,
            options={**defaults, **options},
            force=force,
        )

    def run(self, verb: str, *, date: dt.date | None = None, **options: Any) -> Report:
        """Run a verb in this process."""
        if is_name(self.recipe_name):
            store(self.settings, self.recipe_name, load(self.recipe_name))
        return run_declared(self.request(verb, date=date, **options))

    def copy(self, home: Path) -> "World":
        """The same world somewhere else, free to be changed."""
        shutil.copytree(self.home, home, dirs_exist_ok=True, symlinks=True)
        return World(home, self.recipe_name, self.date)


WHERE_WE_WORK = ("LUMOS_HOME", "LUMOS_LAKE", "LUMOS_RECIPE", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def _leaves_the_environment_alone() -> Iterator[None]:
    """A test that left these behind would send the next one's rows into its own lake."""
    before = {name: os.environ.get(name) for name in WHERE_WE_WORK}
    yield
    assert {name: os.environ.get(name) for name in WHERE_WE_WORK} == before


def enter(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Point this process's environment at the world."""
    for name in WHERE_WE_WORK:
        monkeypatch.setenv(name, world.environment[name])
    return world


def prepared_jars(home: Path) -> None:
    """Let a fresh home use the JARs that ``make setup`` has prepared."""
    prepared = Settings.from_environment().home / "spark"
    home.mkdir(parents=True, exist_ok=True)
    if prepared.exists():
        (home / "spark").symlink_to(prepared)


@pytest.fixture(scope="session")
def spark() -> Iterator["SparkSession"]:
    """The session that verbs in this process borrow: to start one takes longer than a verb."""
    from lumos.aggregate.spark import local_settings, start

    session = start("tests", local_settings(Settings.from_environment().home / "spark", cores=2))
    yield session
    session.stop()


BuildOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """Make a folder by its name once for all processes of a run; the later ones wait for it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "built_once"
    shared.mkdir(exist_ok=True)

    def once(name: str, build: Callable[[Path], object]) -> Path:
        folder, marker = shared / name, shared / f"{name}.ready"
        with FileLock(shared / f"{name}.lock"):
            if not marker.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed to make it
                build(folder)
                marker.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def _raw_world(build_once: BuildOnce) -> World:
    def build(home: Path) -> None:
        prepared_jars(home)
        raw.write_raw(home / "lake" / "raw" / "gym")

    return World(build_once("gym_raw", build))


@pytest.fixture(scope="session")
def _aggregated_world(
    _raw_world: World, build_once: BuildOnce, request: pytest.FixtureRequest
) -> World:
    def build(home: Path) -> None:
        request.getfixturevalue("spark")
        world = _raw_world.copy(home)
        world.run("aggregate", days=raw.NUM_DAYS_TO_BUSINESS_DATE)
        world.run("sequences")
        world.run("validate")

    return World(build_once("gym_aggregated", build))


@pytest.fixture(scope="session")
def _trained_world(_aggregated_world: World, build_once: BuildOnce) -> World:
    def build(home: Path) -> None:
        world = _aggregated_world.copy(home)
        with pytest.MonkeyPatch.context() as monkeypatch:
            enter(world, monkeypatch)
            for verb in ("train", "evaluate", "promote"):
                world.run(verb)

    return World(build_once("gym_trained", build))


@pytest.fixture
def gym_raw(_raw_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A lake of the gym's raw tables, nothing aggregated yet."""
    return enter(_raw_world.copy(tmp_path / "home"), monkeypatch)


@pytest.fixture
def gym(_aggregated_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The gym aggregated, sequenced and validated for its business date."""
    return enter(_aggregated_world.copy(tmp_path / "home"), monkeypatch)


@pytest.fixture
def gym_trained(_trained_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The gym with a trained, evaluated and promoted champion."""
    return enter(_trained_world.copy(tmp_path / "home"), monkeypatch)
