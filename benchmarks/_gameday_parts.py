"""Faults of the parts: a process, the database, the disk, the registry, the clock."""

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks._gameday_play import Fault, Play
from benchmarks._gameday_registry import wait_for
from benchmarks._gameday_system import System, Told, Unhealthy
from benchmarks._gameday_world import TODAY
from demo.client import AirflowError, Run
from demo.processes import Component, free_port

_DOWN = "airflow-is-down"
# Enough for the lake and what a day adds to it; the ballast takes all but a few files of it.
_DISK_BYTES, _LEFT_BYTES = 64 * 2**20, 2**14


@contextmanager
def _killing(system: System, *words: str) -> Iterator[None]:
    """Kill every such process with -9 as soon as it shows, until the block ends."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            for process in system.processes(*words):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


def spark_killed(system: System) -> Play:
    """The JVM of `aggregate` is killed with -9, on every try."""
    run = system.start("daily_aggregation")
    assert wait_for(lambda: system.processes("org.apache.spark.deploy"))
    system.breaks()
    with _killing(system, "org.apache.spark.deploy"):
        yield
    system.clear("aggregate", run, "aggregate")


def triggerer_killed(system: System) -> Play:
    """The triggerer is killed with -9 while a wait sleeps in it, and nobody starts it again.

    It is also what tells of lateness: the run is late meanwhile, and that is heard afterwards.
    """
    run = system.start("embedding")
    assert wait_for(lambda: system.state_of(run, "wait_sequences") == "deferred")
    assert wait_for(system.is_healthy)
    system.breaks()
    system.airflow.kill("triggerer")
    made = system.start("daily_aggregation")
    yield
    system.must_finish(made)
    system.says(_DOWN, "Restart the component that is not healthy", "restart the triggerer")
    system.airflow.restart("triggerer")
    system.must_finish(run)


def database_locked(system: System) -> Play:
    """A forgotten transaction holds the table of heartbeats while `aggregate` runs."""
    run = system.start("daily_aggregation")
    assert wait_for(lambda: system.processes("lumos", "aggregate"))
    assert wait_for(system.is_healthy)
    with closing(system.airflow.postgres.connect("airflow")) as holder:
        holder.cursor().execute("LOCK TABLE job IN EXCLUSIVE MODE")
        system.breaks()
        yield
        holder.rollback()
    system.says(_DOWN, "locked\\s+database: free it, restart", "free the database, restart")
    for name in _ended(system):
        system.airflow.restart(name)
    system.must_finish(run)


def _ended(system: System) -> list[str]:
    """Components that have ended by themselves."""
    names = ("api-server", "scheduler", "dag-processor", "triggerer")
    return [name for name in names if not system.airflow.is_running(name)]


def disk_full(system: System) -> Play:
    """The lake's disk, a file system of its own, has no room left."""
    lake = system.states.world.home / "lake"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "lumos-gameday", str(lake)],
        check=True,
    )
    system.after.callback(lambda: subprocess.run(["umount", "-l", str(lake)], check=True))
    system.put(system.states.make("yesterday"))
    ballast = lake / "ballast"
    system.breaks()
    _fill(ballast)
    run = system.start("daily_aggregation")
    yield
    ballast.unlink()
    system.clear("aggregate", run, "aggregate", says="No space left.*[Cc]lear")


def _fill(path: Path) -> None:
    found = os.statvfs(path.parent)
    with path.open("wb") as file:
        file.write(b"\0" * (found.f_bavail * found.f_frsize - _LEFT_BYTES))


def mlflow_down(system: System) -> Play:
    """The registry's server is killed with -9."""
    system.breaks()
    system.registry.kill()
    run = system.start("batch_scoring")
    yield
    system.registry.start()
    system.clear("resolve", run, "resolve", says="start it, then clear the task")


def stuck_task(system: System) -> Play:
    """The process of `embed` stands still: it neither ends nor says a word."""
    run = system.start("embedding")
    found = wait_for(lambda: system.processes("lumos", "embed"))
    assert found
    system.breaks()
    for process in found:
        process.send_signal(signal.SIGSTOP)
    yield
    section = "late-embedding"
    system.mark_failed(section, run, "embed")
    assert wait_for(lambda: not system.processes("lumos", "embed")), "it still runs"
    system.clear(section, run, "embed", says=r"then\s+\*Clear\*")


_AS_THE_SCHEDULER = """
import datetime as dt
import sys

from airflow._shared.timezones.timezone import utcnow
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

day = dt.datetime.fromisoformat(sys.argv[2]).replace(tzinfo=dt.UTC)
SerializedDagModel.get_dag(sys.argv[1]).create_dagrun(
    run_id=f"scheduled__{day.isoformat()}__{utcnow().isoformat()}",
    logical_date=day,
    data_interval=(day, day + dt.timedelta(days=1)),
    run_after=utcnow(),
    run_type=DagRunType.SCHEDULED,
    triggered_by=DagRunTriggeredByType.TIMETABLE,
    state=DagRunState.QUEUED,
)
"""


def clock_change(system: System) -> Play:
    """Scores are due at 02:30 in Berlin, on the night on which the clock goes from 2 to 3."""
    system.breaks()
    subprocess.run(
        [sys.executable, "-c", _AS_THE_SCHEDULER, "batch_scoring", TODAY.isoformat()],
        env=system.airflow.environment,
        check=True,
        capture_output=True,
    )
    found = system.airflow.call(
        "GET", "/dags/batch_scoring/dagRuns", params={"run_type": "scheduled"}
    )
    run = Run("batch_scoring", found["dag_runs"][-1]["dag_run_id"], TODAY)
    yield
    system.says("late-batch-scoring", "its log moves: let it run", "let it run")
    system.must_finish(run)


@dataclass(frozen=True)
class TwoAlive:
    """What Airflow's own list of jobs says; nobody is told, for it is harmless."""

    name: str = "jobs (no alert)"

    def seen(self, system: System) -> str:
        """What was said, or nothing yet."""
        wanted = {"job_type": "SchedulerJob", "job_state": "running", "is_alive": True}
        try:
            # Their total counts those that are dead too.
            number = len(system.airflow.call("GET", "/jobs", params=wanted)["jobs"])
        except AirflowError:
            return ""
        return f"{number} schedulers" if number > 1 else ""


def two_schedulers(system: System) -> Play:
    """A second scheduler runs on the same database, through a whole run."""
    assert wait_for(lambda: not TwoAlive().seen(system))
    port = {"AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port())}
    system.breaks()
    second = Component(
        "scheduler-2",
        [sys.executable, "-m", "airflow", "scheduler"],
        folder=system.airflow.run_folder,
        environment={**system.airflow.environment, **port},
    )
    system.after.callback(second.join)
    system.after.callback(second.terminate)
    yield
    run = system.start("batch_scoring")
    system.says(_DOWN, "two\\s+schedulers\\s+at\\s+once\\s+are\\s+harmless", "let both run")
    system.must_finish(run)
    assert second.is_running, second.last_lines()
    again = [t.task_id for t in system.airflow.tasks([run]) if t.try_number > 1]
    assert not again, f"run twice: {again}"


_NIGHT = dt.datetime.combine(TODAY + dt.timedelta(days=1), dt.time(3, 30))
FAULTS = (
    Fault(
        "spark killed",
        spark_killed,
        Told("aggregate", "aggregate ended with exit code 1"),
        ends="aggregated",
    ),
    Fault("triggerer killed", triggerer_killed, Unhealthy("triggerer"), ends="embedded"),
    Fault("database locked", database_locked, Unhealthy("scheduler"), ends="aggregated"),
    Fault(
        "disk full",
        disk_full,
        Told("aggregate", "aggregate ended with exit code 1"),
        ends="aggregated",
    ),
    Fault(
        "MLflow down",
        mlflow_down,
        Told("resolve", "resolve ended with exit code 1"),
        begins="judged",
        ends="published",
    ),
    Fault(
        "clock change",
        clock_change,
        Told("late-batch-scoring", rf"not done by {_NIGHT:%Y-%m-%d %H:%M} \(Europe/Berlin\)"),
        begins="judged",
        ends="published",
    ),
    Fault("two schedulers", two_schedulers, TwoAlive(), begins="judged", ends="published"),
    Fault(
        "stuck task",
        stuck_task,
        Told("late-embedding", "not done by"),
        begins="aggregated",
        ends="embedded",
    ),
)
