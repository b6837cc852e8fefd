"""A verb that borrows a warm Java process finds what it would find in one of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.processes import Component
from lumos.aggregate.jvms import MAX_PROCESSES
from lumos.settings import REPOSITORY, Settings

PREPARED = Settings.from_environment().home / "spark"

JOB = """
import json, sys
from lumos.aggregate.spark import spark_session

with spark_session("test", cores=2, num_rows=int(sys.argv[2])) as spark:
    jvm = spark.sparkContext._jvm
    found = {
        "java": jvm.java.lang.ProcessHandle.current().pid(),
        "settings": sorted(
            pair for pair in spark.sparkContext.getConf().getAll()
            if pair[0].startswith("spark.sql") or pair[0] in ("spark.master", "spark.app.name")
        ),
        "zone": spark.conf.get("spark.sql.session.timeZone"),
        "views": [table.name for table in spark.catalog.listTables()],
        "mark": jvm.java.lang.System.getProperty("spark.mark"),
    }
    rows = spark.range(9).selectExpr("id", "id % 3 as day", "id / 7 as amount")
    if sys.argv[3] == "table":
        rows.write.format("delta").mode("overwrite").partitionBy("day").save(sys.argv[1])
        rows = spark.read.format("delta").load(sys.argv[1])
    rows.createOrReplaceTempView("left_behind")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    found["rows"] = [list(row) for row in spark.table("left_behind").orderBy("id").collect()]
    print(json.dumps(found), flush=True)
    if sys.argv[3] == "wait":
        sys.stdin.readline()
    if sys.argv[3] == "fail":
        raise SystemExit("as asked")
"""


class Verbs:
    """Starts processes that use Spark, with a pool or without."""

    def __init__(self, folder: Path, pool: Path | None) -> None:
        self._folder, self._pool = folder, pool

    def start(self, then: str = "end", *, num_rows: int = 0) -> tuple[subprocess.Popen, dict]:
        """One that has done its work, and what it found; with ``wait`` it still holds Java."""
        given = {name: os.environ[name] for name in os.environ if name != "LUMOS_SPARK_POOL"}
        given |= {"LUMOS_SPARK_POOL": str(self._pool)} if self._pool else {}
        given |= {"LUMOS_HOME": str(PREPARED.parent), "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, (self._folder / "table").as_uri(), str(num_rows), then],
            env=given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return process, json.loads(process.stdout.readline())

    def run(self, then: str = "end", *, num_rows: int = 0) -> dict:
        """What one found that has ended."""
        process, found = self.start(then, num_rows=num_rows)
        process.communicate("\n")
        assert process.returncode == (then == "fail")
        return found


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Component]:
    """Of this module, with the socket at a path longer than a Unix socket may have."""
    folder = tmp_path_factory.mktemp("pool") / ("long" * 30)
    folder.mkdir()
    component = Component(
        "spark-pool",
        [sys.executable, "-m", "lumos.aggregate.jvms", str(folder / "pool")],
        folder=folder,
        environment=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    until = time.monotonic() + 60
    while not (folder / "pool" / "socket").exists() and time.monotonic() < until:
        time.sleep(0.05)
    yield component
    component.terminate()
    component.join()


@pytest.fixture
def verbs(pool: Component, tmp_path: Path) -> Verbs:
    """Verbs that know the pool."""
    return Verbs(tmp_path, pool.log_path.parent / "pool")


def javas(pool: Component) -> set[int]:
    """The Java processes that the pool has now."""
    guard = psutil.Process(int((pool.log_path.parent / "spark-pool.pid").read_text()))
    return {p.pid for p in guard.children(recursive=True) if p.name() == "java"}


def is_gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    until = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


def test_a_borrowed_java_finds_the_same_as_an_own_one_and_nothing_of_the_verb_before(
    verbs, pool, tmp_path
):
    own = Verbs(tmp_path / "own", None).run("table")
    first = verbs.run("table", num_rows=1_000_000)
    second = verbs.run("table")
    assert own["java"] not in {first["java"], second["java"]}
    assert first["java"] == second["java"]
    assert javas(pool) == {first["java"]}
    assert first["settings"] != second["settings"]  # many rows: compiled queries
    assert {**second, "java": own["java"]} == own
    assert second["zone"] == "UTC"
    assert second["views"] == []


def test_verbs_at_once_never_share_and_the_one_too_many_starts_its_own(verbs, pool):
    held = [verbs.start("wait") for _ in range(MAX_PROCESSES + 1)]
    found = [java["java"] for _, java in held]
    assert len(set(found)) == len(found)
    assert javas(pool) == set(found[:MAX_PROCESSES])
    for process, _ in held:
        process.communicate("\n")
        assert process.returncode == 0
    assert is_gone(found[-1])
    assert javas(pool) == set(found[:MAX_PROCESSES])


def test_a_verb_killed_or_failed_costs_its_java_and_the_next_one_works(verbs):
    process, killed = verbs.start("wait")
    process.kill()
    process.communicate()
    assert is_gone(killed["java"])
    failed = verbs.run("fail")
    assert is_gone(failed["java"])
    assert verbs.run()["rows"] == failed["rows"]


def test_a_java_that_died_idle_is_not_lent(verbs):
    before = verbs.run()
    os.kill(before["java"], signal.SIGKILL)
    assert is_gone(before["java"])
    assert verbs.run()["rows"] == before["rows"]


def test_a_folder_open_to_others_is_not_trusted(verbs, pool):
    folder = pool.log_path.parent / "pool"
    folder.chmod(0o755)
    try:
        assert verbs.run()["java"] not in javas(pool)
    finally:
        folder.chmod(0o700)


def test_a_pool_killed_leaves_no_java_and_verbs_go_on_alone(verbs, pool):
    process, held = verbs.start("wait")
    idle = javas(pool)
    assert held["java"] in idle
    psutil.Process(held["java"]).parent().kill()
    assert all(is_gone(java) for java in idle)
    process.kill()
    process.communicate()
    alone = verbs.run()
    assert alone["java"] not in idle
    assert alone["rows"] == held["rows"]
    assert is_gone(alone["java"])
