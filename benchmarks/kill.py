"""Kill -9 at random moments of ``lumos score`` and ``lumos publish``: nobody may ever see it.

Yesterday of a small world is published; today is scored and published again and again, in a world
of its own each time, by real processes that are killed and started anew until they end by
themselves. A moment is drawn between the first sign of life and the end of an undisturbed run: it
is so many log lines, and so much later, so that a slow machine is not hit before it works. A
reader polls throughout. ``python -m benchmarks.kill [--kills 50] [--users 300]``.

The last line of stdout is JSON: ``kills``; ``differing_rows`` (of the published ones, against an
undisturbed run, must be 0), ``manifests`` (live ones of the day at the end of each world, at most;
must be 1), ``partial_reads`` (reads of anything but yesterday's or today's whole set; must be 0).
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lumos.recipes import load
from lumos.serve.manifest import LIVE, files_of, read_manifests, read_scores
from lumos.settings import REPOSITORY
from lumos.tables import table_uri
from tests.conftest import World
from tests.serve.lake import DATES, write_lake
from tests.serve.models import crown, register

SEED = 7
KILLS_A_RUN = 3  # of one verb in one world, the later ones on reruns
VERBS = ("score", "publish")
OPTIONS = ("--set", "scoring.num_shards=8", "--set", "scoring.batch_size=64")
YESTERDAY, TODAY = DATES


class Verb:
    """A process of its own that works on a world, and what its log said when."""

    def __init__(self, world: World, verb: str, date: str) -> None:
        command = [sys.executable, "-m", "lumos", verb, "--date", date, *OPTIONS]
        self.started = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=world.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append((time.monotonic(), line.rstrip()))

    def finish(self) -> float:
        """Wait for a good end; returns the time of it."""
        code = self._process.wait()
        self._reader.join()
        if code:
            raise RuntimeError("\n".join(line for _, line in self.lines[-20:]))
        return time.monotonic()

    def kill_after(self, num_lines: int, delay: float) -> str | None:
        """Kill -9 so long after so many lines; the last line it wrote, ``None`` if it had ended."""
        while len(self.lines) < num_lines and self._process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        if self._process.poll() is not None:
            self.finish()
            return None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        return self.lines[-1][1] if self.lines else ""


@dataclass(frozen=True)
class Course:
    """How an undisturbed run went: when each line of its log came, and the end."""

    lines: tuple[float, ...]
    end: float

    @classmethod
    def of(cls, world: World, verb: str) -> "Course":
        """Run a verb in peace."""
        run = Verb(world, verb, str(TODAY))
        end = run.finish()
        return cls(tuple(at for at, _ in run.lines), end)

    def moment(self, chance: random.Random, share: float) -> tuple[int, float]:
        """A number of lines, and seconds after the last of them; in the first share of the run."""
        at = chance.uniform(self.lines[0], self.lines[0] + share * (self.end - self.lines[0]))
        seen = sum(line <= at for line in self.lines)
        return seen, at - self.lines[seen - 1]


def prepare(home: Path, num_users: int) -> World:
    """A world whose yesterday is published."""
    world = write_lake(home, num_users=num_users)
    os.environ.update({k: v for k, v in world.environment.items() if k != "PYTHONPATH"})
    register(world, seed=1)
    world.run("evaluate")
    crown(world, "1")
    for verb in VERBS:
        Verb(world, verb, str(YESTERDAY)).finish()
    return world


def consumed(home: Path) -> pa.Table:
    """What a consumer gets today."""
    world = World(home)
    return read_scores(world.settings, load(world.recipe_name), today=TODAY)


def poll(pointer: Path, allowed: tuple[Path, ...], out: Path, stop: Event) -> None:
    """Read what is published, again and again; anything but one of the whole sets is partial."""
    whole = [pq.read_table(path) for path in allowed]
    reads: Counter[str] = Counter()
    driver = multiprocessing.parent_process()
    while not stop.is_set() and driver is not None and driver.is_alive():
        home = Path(pointer.read_text())
        try:
            rows = consumed(home)
        except Exception as error:
            reads[f"partial: {type(error).__name__}: {str(error)[:200]}"] += 1
        else:
            seen = [path.stem for path, each in zip(allowed, whole, strict=True) if rows == each]
            reads[seen[0] if seen else f"partial: {rows.num_rows} rows"] += 1
        time.sleep(0.002)
    out.write_text(json.dumps(reads))


def point(pointer: Path, home: Path) -> None:
    """Tell the reader which world to look at, at once or not at all."""
    draft = pointer.with_suffix(".draft")
    draft.write_text(str(home))
    draft.rename(pointer)


def disturbed(
    world: World, courses: dict[str, Course], num_kills: int, chance: random.Random
) -> Counter[str]:
    """Score and publish today with so many kills; returns at which stages they fell."""
    stages: Counter[str] = Counter()
    for number, verb in enumerate(VERBS):
        share = num_kills // 2 + (num_kills % 2 if number == 0 else 0)
        for rerun in range(share):
            run = Verb(world, verb, str(TODAY))
            # A rerun of `score` finds shards that are done, and has less to do.
            line = run.kill_after(*courses[verb].moment(chance, 1 / (1 + rerun)))
            if line is None:
                break  # it was faster than the undisturbed run; nothing is left to kill
            text = re.sub(r"\d+", "N", re.sub(r"^\S+ \w+ [\w.]+: ", "", line))
            stages[f"{verb}: {text[:70]}"] += 1
        Verb(world, verb, str(TODAY)).finish()
    return stages


def differing(rows: pa.Table, expected: pa.Table) -> int:
    """Rows that stand in one of the two only."""
    ours, theirs = (Counter(map(str, table.to_pylist())) for table in (rows, expected))
    return sum(((ours - theirs) + (theirs - ours)).values())


def leftovers(world: World) -> int:
    """Score files of today that its publication does not have."""
    recipe = load(world.recipe_name)
    uri = table_uri(world.settings, recipe, "scores")
    (mine,) = (m for m in read_manifests(world.settings, recipe) if m.as_of == TODAY)
    lying = list((Path(uri) / f"as_of={TODAY}").glob("*.parquet"))
    return len(lying) - len(files_of(uri, mine))


def main() -> None:
    """Print where the kills fell, and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--users", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lumos-kill-") as scratch:
        print(json.dumps(measure(Path(scratch), arguments.kills, arguments.users)))


def measure(scratch: Path, num_kills: int, num_users: int) -> dict[str, int]:
    """All rounds; see the top of the file."""
    chance, started = random.Random(SEED), time.monotonic()
    base = prepare(scratch / "base", num_users)
    yesterday, today = scratch / "yesterday.parquet", scratch / "today.parquet"
    pq.write_table(consumed(base.home), yesterday)
    quiet = base.copy(scratch / "quiet")
    courses = {verb: Course.of(quiet, verb) for verb in VERBS}
    expected = consumed(quiet.home)
    pq.write_table(expected, today)
    for verb, course in courses.items():
        print(f"{verb}: {course.end - course.lines[0]:.1f} s from its first line", flush=True)
    pointer, out = scratch / "pointer", scratch / "reads.json"
    point(pointer, base.home)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    reader = context.Process(target=poll, args=(pointer, (yesterday, today), out, stop))
    reader.start()
    stages: Counter[str] = Counter()
    result = {"kills": 0, "differing_rows": 0, "manifests": 0, "leftover_files": 0}
    number = 0
    while result["kills"] < num_kills:
        world = base.copy(scratch / f"world-{number}")
        point(pointer, world.home)
        left = num_kills - result["kills"]
        stages += disturbed(world, courses, min(2 * KILLS_A_RUN, left), chance)
        live = [
            m
            for m in read_manifests(world.settings, load(world.recipe_name))
            if m.as_of == TODAY and m.state == LIVE
        ]
        result["kills"] = sum(stages.values())
        result["differing_rows"] += differing(consumed(world.home), expected)
        result["manifests"] = max(result["manifests"], len(live))
        result["leftover_files"] += leftovers(world)
        print(f"world {number}: {result}", flush=True)
        if number:
            shutil.rmtree(scratch / f"world-{number - 1}", ignore_errors=True)
        number += 1
    stop.set()
    reader.join()
    reads = json.loads(out.read_text())
    for stage, times in sorted(stages.items()):
        print(f"{times:4d} x {stage}")
    print(f"reads: {reads}")
    partial = sum(times for what, times in reads.items() if what.startswith("partial"))
    return {
        **result,
        "partial_reads": partial,
        "reads": sum(reads.values()),
        "seconds": round(time.monotonic() - started),
    }


if __name__ == "__main__":
    main()
