"""Kill -9 at random moments of ``lumos erase``, beside a writer: nothing may be lost or left.

A small platform is published. In copies of it a writer commits rows of other users to random
tables, while a process erases one user and is killed and started again, until it ends by itself.
After each kill, every version that a log still tells is opened and its files are looked for, and
what is published is read. At the end of each world all files of the home are searched for the id,
byte by byte, and Parquet by its values, as it is compressed. ``python -m benchmarks.erase
[--kills 100]``.

The last line of stdout is JSON: ``kills``; ``lost_files`` (files that a version names and that are
not there, must be 0); ``ids_found`` (files that name the user at the end, must be 0); ``commits``
of the writer.
"""

import argparse
import json
import logging
import multiprocessing
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from lumos.delta import append, data_files, open_table, read
from lumos.erase.places import Place, Users, places
from lumos.gone import VersionGone
from lumos.lock import shared
from lumos.serve.manifest import LIVE, read_manifests, rows_of
from tests.conftest import World
from tests.erase.looking import GYM, USER, naming
from tests.erase.served import enter, mention, published_twice

SEED = 11
KILLS_A_WORLD = 4
THEM = Users((USER,))
# Its processes have the imports already, and no thread of another one.
_CONTEXT = multiprocessing.get_context("forkserver")


def erase(home: Path, log: Path, parent: Connection) -> None:
    """The verb; tells its parent when it begins."""
    logging.basicConfig(filename=log, level=logging.INFO, format="%(message)s", force=True)
    world = enter(World(home))
    parent.send("begins")
    world.run("erase", user=[USER])


def write(home: Path, seed: int, parent: Connection) -> None:
    """Append rows of other users to random tables under the lock, until the parent speaks."""
    world, chance, commits = enter(World(home)), random.Random(seed), 0
    request = world.request("score")
    uris = tables_of_users(world)
    while not parent.poll():
        uri = chance.choice(sorted(uris))
        with shared(request):
            rows = read(uri)
            assert rows is not None
            others = rows.filter(pc.invert(uris[uri].is_theirs(rows, THEM)))
            append(uri, others.slice(chance.randrange(others.num_rows + 1), 2))
        commits += 1
    parent.send(commits)


def tables_of_users(world: World) -> dict[str, Place]:
    """Those of which whole rows go, by where they lie."""
    found = {place.uri(world.settings, GYM): place for place in places(GYM) if not place.scrubbed}
    return {uri: place for uri, place in found.items() if open_table(uri) is not None}


class Writer:
    """The process that commits while an erasure runs."""

    def __init__(self, world: World, seed: int) -> None:
        self._ours, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=write, args=(world.home, seed, theirs), daemon=True)
        self._process.start()

    def end(self) -> int:
        """Stop it; returns its number of commits."""
        self._ours.send("stop")
        commits: int = self._ours.recv()
        self._process.join()
        return commits


def run_erase(world: World, seconds: float | None) -> str | None:
    """Erase, and kill that so long after it began; its last words, ``None`` if it ended."""
    log = world.home.with_suffix(".log")
    log.write_text("")
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=erase, args=(world.home, log, theirs))
    process.start()
    ours.recv()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode == 0:
        return None
    if seconds is None or process.exitcode > 0:
        raise RuntimeError(f"erase ended with {process.exitcode}: {log.read_text()}")
    return (log.read_text().splitlines() or ["it began"])[-1].replace(str(world.home), "")


def lost_files(world: World) -> int:
    """Files that a version of a table names and that are gone; a newest one must open."""
    lost = 0
    for place in places(GYM):
        uri = place.uri(world.settings, GYM)
        newest = open_table(uri)
        for version in range(newest.version() + 1) if newest is not None else ():
            try:
                table = open_table(uri, version)
            except (VersionGone, DeltaError):
                if newest is not None and version == newest.version():
                    raise
                continue  # the log does not tell of it any more
            assert table is not None
            lost += sum(not (Path(uri) / file.path).is_file() for file in data_files(table))
    for manifest in read_manifests(world.settings, GYM):
        if manifest.state == LIVE:
            rows_of(world.settings, GYM, manifest)  # it checks what it reads
    return lost


def versions(world: World) -> list[int]:
    """The newest of each table of users."""
    opened = map(open_table, tables_of_users(world))
    return [table.version() for table in opened if table is not None]


def measure(scratch: Path, base: World, num_kills: int) -> dict[str, int]:
    """All rounds; see the top of the file.

    Args:
        scratch: For copies of the base.
        base: A world from :func:`published_twice` in which :func:`mention` was called.
        num_kills: How many in all.
    """
    _CONTEXT.set_forkserver_preload(["lumos.erase.run", "lumos.cli", "tests.erase.served"])
    chance, number, stages = random.Random(SEED), 0, Counter[str]()
    found = {"kills": 0, "lost_files": 0, "ids_found": 0, "commits": 0}
    for name in ("first", "quiet"):  # the first one waits for imports
        started = time.monotonic()
        run_erase(base.copy(scratch / name), None)
        usual_seconds = time.monotonic() - started
    while found["kills"] < num_kills:
        world = base.copy(scratch / f"world-{number}")
        assert naming(world.home, USER)
        writer = Writer(world, number)
        for _ in range(min(KILLS_A_WORLD, num_kills - found["kills"])):
            stage = run_erase(world, chance.uniform(0, usual_seconds))
            if stage is None:
                break
            stages[re.sub(r"[0-9]+", "N", stage)] += 1
            found["kills"] += 1
            found["lost_files"] += lost_files(world)
        run_erase(world, None)
        found["commits"] += writer.end()
        found["lost_files"] += lost_files(world)
        found["ids_found"] += len(naming(world.home, USER))
        shutil.rmtree(world.home)
        number += 1
    for stage, times in sorted(stages.items()):
        print(f"{times:4d} x {stage}")
    return found


def main() -> None:
    """Print where the kills fell, and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lumos-erase-") as scratch:
        base = World(Path(scratch) / "base")
        enter(base)
        published_twice(base.home)
        mention(base)
        started = time.monotonic()
        found = measure(Path(scratch), base, arguments.kills)
        print(json.dumps({**found, "seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    main()
