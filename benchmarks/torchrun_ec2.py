"""What the EC2 operator survives, what it costs beside torchrun, and what its waits cost.

``python -m benchmarks.torchrun_ec2 [--runs N | --seeds 0 7 ...] [--only storms|overhead|waits]``

* *Storms*: the tasks of the retraining DAG, each step a process that can be killed, on an AWS that
  executes (``tests/cloud``), through ``N`` seeded storms: throttled, failed, dropped and lost
  calls, no capacity, forgetful listings, uploads that fail, holes in the log, machines that die
  while they boot or train, spot notices, workers and triggers killed with -9 between any two
  calls, steps delivered twice, clocks ten minutes off. After each run: no instance lives, nothing
  is green that did not end well, no state was lost, no job had two commands at once.
* *Overhead*: the time that a training takes as a task of a real Airflow, polling every 5 s, less
  that of the same command under plain torchrun. Machines of the emulator boot in a third of a
  second; a real one's boot comes on top.
* *Waits*: 200 deferred tasks in one process, as a triggerer holds them, polling every 15 s.
"""

import argparse
import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import tests.conftest  # noqa: F401 - where the plugins and Airflow's settings are found

# isort: split
from lumos_airflow.record import Record
from lumos_airflow.triggers.torchrun_ec2 import LaunchTrigger

from lumos.cloud import read_cloud
from lumos.host.folder import Folder
from lumos.host.job import HEARTBEAT
from tests.cloud.aws import Aws
from tests.cloud.deployment import BUCKET, DATE, build_wheel, cloud_file
from tests.cloud.stage import Stage
from tests.cloud.storms import Verdict, Weather, told, trainer_wheel

NUM_WAITS, WAIT_POLL_SECONDS, WAIT_SECONDS = 200, 15.0, 60.0
OVERHEAD_POLL_SECONDS = 5.0


def storms(seeds: Sequence[int]) -> dict[str, Any]:
    """Fly them in two processes side by side, and count what must not be."""
    halves = [seeds[start::2] for start in (0, 1)]
    flying = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torchrun_ec2", "--fly", *map(str, seeds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seeds in halves
    ]
    verdicts: list[Verdict] = []

    def read(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"seed"'):
                verdicts.append(Verdict(**json.loads(line)))
                print(line, end="", flush=True)

    readers = [threading.Thread(target=read, args=(process,)) for process in flying]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [process.wait() for process in flying] == [0, 0]
    greens = [set(v.states.values()) == {"success"} for v in verdicts]
    seconds = sorted(v.seconds for v in verdicts)
    sums = (
        *("orphans", "false_successes", "lost_checkpoints", "double_commands"),
        *("commands", "launches", "tries", "faults"),
    )
    return {
        "runs": len(verdicts),
        **{name: sum(getattr(v, name) for v in verdicts) for name in sums},
        "struck": dict(sum((Counter(v.struck) for v in verdicts), Counter())),
        "green_runs": sum(greens),
        "median_run_s": seconds[len(seconds) // 2],
    }


def fly(seeds: list[int]) -> None:
    """Fly some of them, one after the other."""
    with tempfile.TemporaryDirectory(prefix="storms-") as name:
        folder = Path(name)
        wheel = trainer_wheel(build_wheel(folder / "real"), folder)
        with Weather(folder, wheel) as weather:
            for seed in seeds:
                print(told(weather.fly(seed)), flush=True)


def overhead(lake: Path, recipe: str, date: str) -> dict[str, Any]:
    """One calm run through a real Airflow beside the same command alone."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        wheel = trainer_wheel(build_wheel(folder / "real"), folder)
        with Stage(
            folder,
            lake=lake,
            wheels=[wheel],
            recipe=recipe,
            machine={"processes": 2, "poll_seconds": OVERHEAD_POLL_SECONDS},
        ) as stage:
            run = stage.airflow.trigger("retraining", date=dt.date.fromisoformat(date))
            stage.airflow.wait([run], timeout_seconds=400)
            path = f"/dags/retraining/dagRuns/{run.run_id}/taskInstances"
            tasks = {
                each["task_id"]: each for each in stage.airflow.call("GET", path)["task_instances"]
            }
            assert tasks["train"]["state"] == "success", tasks["train"]
            report = stage.airflow.xcom(run, "train")
            began, ended = (
                dt.datetime.fromisoformat(tasks[name]["end_date"])
                for name in ("prepare_machine", "train")
            )
            bare, said = _bare(stage, wheel, folder, report["recipe"])
        assert {**report, "tables": []} == said, (report, said)
    task_s = (ended - began).total_seconds()
    return {
        "task_s": round(task_s, 1),
        "torchrun_s": round(bare, 1),
        "overhead_s": round(task_s - bare, 1),
    }


def _bare(stage: Stage, wheel: Path, folder: Path, recipe: str) -> tuple[float, Any]:
    """The same command, without a machine and without Airflow."""
    import zipfile

    code = folder / "code"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(code)
    environment = {
        **stage.environment,
        "PYTHONPATH": str(code),
        "LUMOS_STATES": f"s3://{BUCKET}/bare",
    }
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv += ["-m", "lumos", "train", f"--recipe={recipe}", f"--date={DATE}"]
    started = time.monotonic()
    done = subprocess.run(
        argv, env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return time.monotonic() - started, json.loads(done.stdout.splitlines()[-1])


def waits() -> dict[str, Any]:
    """As many triggers as a year of bad mornings would not see, in one event loop."""
    with tempfile.TemporaryDirectory(prefix="waits-") as name, Aws(Path(name)) as aws:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        (Path(name) / "lumos.whl").write_bytes(b"")
        path = cloud_file(
            aws,
            Path(name),
            [Path(name) / "lumos.whl"],
            machine={"poll_seconds": WAIT_POLL_SECONDS},
        )
        keys = [f"{number:032x}" for number in range(NUM_WAITS)]
        ids = [f"i-{number:017x}" for number in range(NUM_WAITS)]
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(aws, keys, ids, over))
        beating.start()
        try:
            # Another process, for a triggerer's memory is what is measured.
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.torchrun_ec2", "--hold", str(path)],
                env={**os.environ, **aws.environment},
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            over.set()
            beating.join()
        held = json.loads(done.stdout.splitlines()[-1])
        calls = Counter(call.action for call in aws.calls if call.caller == "airflow")
    assert held["events"] == 0, held
    minutes = held["seconds"] / 60
    print("calls:", dict(calls))
    return {
        "waits": NUM_WAITS,
        "waits_cpu_share": round(held["cpu_seconds"] / held["seconds"], 3),
        "waits_mib": held["mib"],
        "waits_mib_before": held["mib_before"],
        "waits_calls_a_minute": round(sum(calls.values()) / minutes),
    }


def _beat(aws: Aws, keys: list[str], ids: list[str], over: threading.Event) -> None:
    """What 200 machines at work write."""
    s3 = aws.client("s3")
    while not over.is_set():
        for key, instance_id in zip(keys, ids, strict=True):
            Folder(s3, f"s3://{BUCKET}/lumos/jobs/{key}/000/{instance_id}").write(HEARTBEAT, b"")
        over.wait(WAIT_POLL_SECONDS)


def hold(path: Path) -> dict[str, Any]:
    """Hold the waits for a while; what that cost this process."""
    cloud = read_cloud(path)
    machine = cloud.machine("train")
    process = psutil.Process()
    before = process.memory_info().rss
    deadline = dt.datetime.now(dt.UTC) + dt.timedelta(hours=96)
    triggers = []
    for number in range(NUM_WAITS):
        key = f"{number:032x}"
        record = Record(
            key=key,
            task_key=key,
            run_key=key,
            dag_id="retraining",
            run_id=f"manual__{number}",
            task_id="train",
            deadline=deadline,
            wheels=(),
            lock_sha256="",
            state="running",
            instance_ids=(f"i-{number:017x}",),
            command_id="c",
        )
        trigger = LaunchTrigger(
            record=record.model_dump(mode="json"),
            cloud=cloud.model_dump(mode="json"),
            machine=machine.model_dump(mode="json"),
        )
        triggers.append(trigger)
    events = 0

    async def watch(trigger: LaunchTrigger) -> None:
        nonlocal events
        async for _ in trigger.run():
            events += 1

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(watch(trigger)) for trigger in triggers]
        await asyncio.sleep(WAIT_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    used, started = sum(process.cpu_times()[:2]), time.monotonic()
    asyncio.run(all_of_them())
    return {
        "events": events,
        "seconds": time.monotonic() - started,
        "cpu_seconds": sum(process.cpu_times()[:2]) - used,
        "mib": process.memory_info().rss >> 20,
        "mib_before": before >> 20,
    }


def main() -> None:
    """Print each part's figures, and all of them as JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=100, help="storms, of the seeds from 0 on")
    parser.add_argument("--seeds", type=int, nargs="+", help="these storms instead")
    parser.add_argument("--only", choices=("storms", "overhead", "waits"))
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fly", type=int, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fly:
        fly(given.fly)
        return
    if given.hold:
        print(json.dumps(hold(given.hold)))
        return
    found: dict[str, Any] = {}
    if given.only in (None, "overhead"):
        found |= _overhead_of_the_gym()
        print(found, flush=True)
    if given.only in (None, "waits"):
        found |= waits()
        print(found, flush=True)
    if given.only in (None, "storms"):
        found |= storms(given.seeds or range(given.runs))
    print(json.dumps(found))


def _overhead_of_the_gym() -> dict[str, Any]:
    """On the tests' tiny world: the DAG's wait looks for its sequences."""
    from tests.conftest import RECIPE, World, prepared_jars, raw

    with tempfile.TemporaryDirectory(prefix="gym-") as name:
        home = Path(name)
        prepared_jars(home)
        raw.write_raw(home / "lake" / "raw" / "gym")
        world = World(home)
        for verb in (["aggregate", f"--days={raw.NUM_DAYS_TO_BUSINESS_DATE}"], ["sequences"]):
            argv = [sys.executable, "-m", "lumos", verb[0], f"--date={DATE}", *verb[1:]]
            subprocess.run(argv, env=world.environment, check=True, capture_output=True)
        return overhead(home / "lake", RECIPE, DATE)


if __name__ == "__main__":
    main()
