"""The gym on its game day: yesterday is published, today has landed, and the clock goes forward.

A state is what lies on the disk at some point of an undisturbed morning, by name; each fault starts
from one of them, and must end, once mended, with the rows of another.
"""

import datetime as dt
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks._gameday_recipe import recipe
from lumos.delta import read
from lumos.recipes import load
from lumos.serve.manifest import LIVE, read_manifests
from lumos.tables import table_uri, tables
from tests.conftest import WHERE_WE_WORK, World, prepared_jars
from tests.gym.gym_world import raw
from tests.test_promises import NAMES_VERSIONS, contents

# Its data interval ends on the night on which Berlin has no 02:30.
TODAY = dt.date(2024, 3, 30)
YESTERDAY = TODAY - dt.timedelta(days=1)
NUM_DAYS = (YESTERDAY - raw.FIRST_DAY).days + 1
LATE_BY_DAYS = 10  # beyond the three that `aggregate` looks back
_KEPT = ("lake", "mlartifacts", "mlflow.db", "reports")
NAME = f"{recipe.__module__}:{recipe.__name__}"
# And when it was published, which is another moment.
_IGNORED = {**NAMES_VERSIONS, "manifests": NAMES_VERSIONS["manifests"] | {"created"}}
_ZONE = ZoneInfo("Asia/Kolkata")


@dataclass
class States:
    """Makes the states that are asked for, each once, with a Spark session that verbs borrow.

    Attributes:
        scratch: Where they are kept; ``home`` in it is the one that is broken.
    """

    scratch: Path
    _rows: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def world(self) -> World:
        """What the running system works on."""
        return World(self.scratch / "home", NAME, TODAY)

    def make(self, name: str) -> World:
        """The world in a state, which nobody may change."""
        world = World(self.scratch / "states" / name, NAME, TODAY)
        if not world.home.exists():
            before, steps = MAKING[name]
            # A folder of its own: MLflow keeps databases open by their names.
            draft = World(self.scratch / "drafts" / name, NAME, TODAY)
            if before is None:
                draft = self.world  # the registry knows the models by their folder
            else:
                put(self.make(before).home, draft.home)
            with at_work_in(draft):
                steps(draft)
            put(draft.home, world.home)
        return world

    def rows(self, name: str) -> dict[str, list[str]]:
        """Every row of a state, by table."""
        if name not in self._rows:
            self._rows[name] = contents(self.make(name), ignore=_IGNORED)
        return self._rows[name]


def put(source: Path, target: Path) -> None:
    """Let one home hold what another one does: lake, registry, models and pages."""
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "spark").exists():
        prepared_jars(target)
    for name in _KEPT:
        ours, theirs = target / name, source / name
        if ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes():
            continue  # the registry's server has it open
        _remove(ours)
        if theirs.is_dir():
            shutil.copytree(theirs, ours, dirs_exist_ok=True)
        elif theirs.exists():
            shutil.copy2(theirs, ours)


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():  # itself it may be where a disk is mounted
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    else:
        path.unlink(missing_ok=True)


@contextmanager
def at_work_in(world: World) -> Iterator[None]:
    """Point this process's environment at a world."""
    before = {name: os.environ.get(name) for name in WHERE_WE_WORK}
    os.environ.update({name: world.environment[name] for name in WHERE_WE_WORK})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def raw_table(world: World, name: str) -> Path:
    """The one file of a raw table."""
    folder = world.home / "lake" / "raw" / "gym" / name
    return folder / ("part-0.parquet" if name == "checkins" else "part-0.csv")


def checkins(world: World, change: Callable[[pa.Table], pa.Table]) -> None:
    """Land the check-ins again, changed."""
    path = raw_table(world, "checkins")
    draft = path.with_suffix(".draft")
    pq.write_table(change(pq.read_table(path)), draft)
    draft.rename(path)


def of_day(rows: pa.Table, day: dt.date) -> pa.Array:
    """Which check-ins are of a local day."""
    local = pc.local_timestamp(rows["entered_at"].cast(pa.timestamp("us", str(_ZONE))))
    return pc.equal(local.cast(pa.date32()), day)


def _landed(rows: pa.Table) -> pa.Table:
    local = pc.local_timestamp(rows["entered_at"].cast(pa.timestamp("us", str(_ZONE))))
    return rows.append_column("landed_on", local.cast(pa.date32()))


def late(rows: pa.Table) -> pa.Table:
    """The check-ins of one day long ago land today."""
    is_late = of_day(rows, TODAY - dt.timedelta(days=LATE_BY_DAYS))
    landed = pc.if_else(is_late, pa.scalar(TODAY), rows["landed_on"])
    return rows.set_column(rows.column_names.index("landed_on"), "landed_on", landed)


def _yesterday(world: World) -> None:
    """All that has happened before this morning, with two champions one after the other."""
    prepared_jars(world.home)
    raw.write_raw(world.home / "lake" / "raw" / "gym", last_day=TODAY)
    checkins(world, _landed)
    _until_yesterday(world)


def _until_yesterday(world: World) -> None:
    world.run("aggregate", date=YESTERDAY, days=NUM_DAYS)
    for verb in ("sequences", "validate"):
        world.run(verb, date=YESTERDAY)
    for is_second in (False, True):
        for verb in ("train", "evaluate", "promote"):
            world.run(verb, date=YESTERDAY, force=is_second and verb == "train")
    for verb in ("score", "publish", "monitor"):
        world.run(verb, date=YESTERDAY)


def _verbs(*verbs: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        for verb in verbs:
            world.run(verb)

    return run


def _late(world: World) -> None:
    """Yesterday as it would have been without the rows that are going to be late."""
    checkins(world, late)
    world.run("aggregate", date=YESTERDAY, days=NUM_DAYS)
    world.run("sequences", date=YESTERDAY)


def _judged(world: World) -> None:
    _verbs("validate")(world)
    world.run("monitor", of="tables")


def _published(world: World) -> None:
    _verbs("score", "publish")(world)
    world.run("monitor", of="forecasts")


def _rolled_back(world: World) -> None:
    _verbs("rollback")(world)
    _published(world)


# By name: the state that it begins with, and what happens then.
MAKING: Mapping[str, tuple[str | None, Callable[[World], None]]] = {
    "yesterday": (None, _yesterday),
    "yesterday, without late rows": ("yesterday", _late),
    "aggregated": ("yesterday", _verbs("aggregate", "sequences")),
    "embedded": ("aggregated", _verbs("embed")),
    "judged": ("aggregated", _judged),
    "published": ("judged", _published),
    "rolled back": ("judged", _rolled_back),
}


@dataclass(frozen=True)
class Difference:
    """What a world has that its undisturbed twin has not, and the other way round.

    Attributes:
        lost: Rows by table that only the twin has.
        doubled: Rows by table that only the world has, or has twice.
        live: Publications of today that are live; 1 at most.
    """

    lost: Mapping[str, int]
    doubled: Mapping[str, int]
    live: int

    @property
    def number(self) -> int:
        """All of it."""
        return sum(self.lost.values()) + sum(self.doubled.values()) + max(0, self.live - 1)


def compare(
    world: World, twin: Mapping[str, list[str]], *, only: tuple[str, ...] = ()
) -> Difference:
    """Row by row, in all tables or in those named; repeated keys count as doubled too."""
    ours = contents(world, ignore=_IGNORED)
    names = only or tuple(sorted({*ours, *twin}))
    counted = {name: (Counter(ours.get(name, [])), Counter(twin.get(name, []))) for name in names}
    lost = {name: (theirs - mine).total() for name, (mine, theirs) in counted.items()}
    more = {name: (mine - theirs).total() for name, (mine, theirs) in counted.items()}
    repeated = num_repeated(world)
    return Difference(
        {name: number for name, number in lost.items() if number},
        {n: found for n in names if (found := more[n] + repeated.get(n, 0))},
        sum(
            m.as_of == TODAY and m.state == LIVE
            for m in read_manifests(world.settings, load(world.recipe_name))
        ),
    )


def num_repeated(world: World) -> dict[str, int]:
    """Rows by table beyond the first of their key."""
    declared = load(world.recipe_name)
    found = {}
    for name, table in tables(declared).items():
        rows = read(table_uri(world.settings, declared, name))
        if rows is not None and rows.num_rows:
            keys = rows.group_by(list(table.key)).aggregate([([], "count_all")]).num_rows
            found[name] = rows.num_rows - keys
    return found


def shown(difference: Difference) -> str:
    """For people."""
    return json.dumps({"lost": difference.lost, "doubled": difference.doubled})
