"""Seeded runs of the retraining DAG in which everything goes wrong, and what must hold after each.

``benchmarks.torchrun_ec2`` flies a hundred and more of them, and a test flies four.
"""

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lumos_airflow.record import Record, Task

from tests.cloud.aws import Aws
from tests.cloud.deployment import BUCKET, DATE, cloud_file, wheel_around
from tests.cloud.faults import Call, Rule
from tests.cloud.pilot import Pilot, storm_of
from tests.cloud.trainer import DIARY, STEPS
from tests.cloud.waiting import eventually
from tests.databricks.workspace import Workspace

RECIPE = "complete_journey"
# Of the machines' dead-man's switch; real ones are a hundred times as long.
MINUTE_SECONDS = 0.6
_LIGHTS_OUT_SECONDS = 40.0
_COMMAND = r"-m lumos (train|evaluate)"


@dataclass(frozen=True)
class Verdict:
    """What became of one run.

    Attributes:
        states: Of its tasks.
        orphans: Instances that lived on.
        false_successes: Tasks that were green although their verb had not ended well.
        lost_checkpoints: Times that a training began behind what it had saved.
        double_commands: Jobs of which two commands ran at once.
        commands: Jobs whose command was seen at work: what the line before was counted from.
        launches: Instances that it took.
        tries: Of all tasks.
        seconds: It took.
        faults: Calls that a fault met.
        struck: How often each kind of fault did: of calls, of processes, of machines.
    """

    seed: int
    states: dict[str, str]
    orphans: int
    false_successes: int
    lost_checkpoints: int
    double_commands: int
    commands: int
    launches: int
    tries: int
    seconds: float
    faults: int
    struck: dict[str, int]

    @property
    def is_sound(self) -> bool:
        """Whether all that must hold did."""
        broken = self.orphans + self.false_successes + self.lost_checkpoints + self.double_commands
        return broken == 0


def trainer_wheel(wheel: Path, folder: Path) -> Path:
    """The project's wheel with the quick trainer for its command line."""
    return wheel_around("cli.py", "trainer.py", wheel, folder)


class Weather:
    """A deployment and a pilot, for runs one after the other.

    Args:
        folder: For everything.
        wheel: From :func:`trainer_wheel`.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self._wheel = folder, wheel
        self.aws = Aws(folder / "cloud", boot_seconds=0.3, agent_seconds=0.3)
        self._exit = contextlib.ExitStack()
        self._lost = Counter[str]()
        self.pilot: Pilot
        self.workspace: Workspace

    def __enter__(self) -> "Weather":
        with contextlib.ExitStack() as stack:
            aws = stack.enter_context(self.aws)
            aws.minute_seconds = MINUTE_SECONDS
            aws.client("s3").create_bucket(Bucket=BUCKET)
            machine = {"market": "spot", "processes": 2, "launches": 8, "capacity_hours": 0.005}
            path = cloud_file(aws, self.folder, [self._wheel], machine=machine)
            self.workspace = stack.enter_context(
                Workspace(self.folder / "workspace", variables=aws.environment)
            )
            stack.enter_context(
                _variables(
                    {
                        **aws.environment,
                        **self.workspace.environment,
                        "LUMOS_PLATFORM": "aws",
                        "LUMOS_CLOUD": str(path),
                        "LUMOS_RECIPE": RECIPE,
                        "LUMOS_LAKE": f"s3://{BUCKET}/lake",
                        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
                    }
                )
            )
            self.pilot = Pilot(
                self.folder / "runs",
                "retraining",
                skipped=("wait_sequences",),
                rendered={
                    "date": DATE,
                    "recipe": RECIPE,
                    "overrides": "[]",
                    "options": {},
                    "switches": {},
                },
            )
            aws.faults.before = lambda call: self.pilot.meet(call, executed=False)
            aws.faults.after = lambda call: self.pilot.meet(call, executed=True)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.__exit__(*error)  # type: ignore[arg-type]

    def fly(self, seed: int) -> Verdict:
        """One run in the weather of its seed."""
        aws, run_id = self.aws, f"storm__{seed}"
        self._forget_states()
        self._lost.clear()
        rules = [aws.faults.add(rule) for rule in rules_of(seed)]
        known, calls = len(aws.instances()), len(aws.calls)
        over = threading.Event()
        bolts = threading.Thread(target=self._strike, args=(seed, known, over), daemon=True)
        bolts.start()
        started = time.monotonic()
        try:
            outcomes = self.pilot.fly(run_id, storm_of(seed))
        finally:
            over.set()
            bolts.join()
            for rule in rules:
                aws.faults.remove(rule)
        seconds = time.monotonic() - started
        with contextlib.suppress(AssertionError):
            eventually(lambda: not aws.alive(), _LIGHTS_OUT_SECONDS)
        states = {name: outcome["state"] for name, outcome in outcomes.items()}
        jobs = {one.tags.get("lumos:job", "") for one in aws.instances()[known:]}
        most = aws.most_running(_COMMAND)
        met = Counter[str](call.fault for call in aws.calls[calls:] if call.fault is not None)
        return Verdict(
            seed=seed,
            states=states,
            orphans=len(aws.alive()),
            false_successes=self._false_successes(run_id, outcomes),
            lost_checkpoints=self._lost_checkpoints(),
            double_commands=sum(most.get(job, 0) > 1 for job in jobs),
            commands=sum(most.get(job, 0) > 0 for job in jobs),
            launches=len(aws.instances()) - known,
            tries=sum(outcome.get("try_number", 0) for outcome in outcomes.values()),
            seconds=round(seconds, 1),
            faults=met.total(),
            struck=dict(met + self.pilot.struck + self._lost),
        )

    def _strike(self, seed: int, known: int, over: threading.Event) -> None:
        """Machines die while they boot or train, or are taken back."""
        for number, (kind, delay) in enumerate(losses_of(seed)):
            while not over.is_set() and len(self.aws.instances()) <= known + number:
                over.wait(0.05)
            if over.wait(delay):
                return
            target = self.aws.instances()[known + number]
            self._lost[kind] += target in self.aws.alive()
            if kind == "spot":
                self.aws.interrupt(target.id, 4.0)
            else:
                self.aws.crash(target.id)

    def _forget_states(self) -> None:
        s3 = self.aws.client("s3")
        for key in self._keys("lumos/train/"):
            s3.delete_object(Bucket=BUCKET, Key=key)

    def _keys(self, prefix: str) -> Iterator[str]:
        pages = self.aws.client("s3").get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=BUCKET, Prefix=prefix):
            yield from (each["Key"] for each in page.get("Contents", ()))

    def _text(self, key: str) -> str:
        answer = self.aws.client("s3").get_object(Bucket=BUCKET, Key=key)
        return str(answer["Body"].read().decode())

    def _diary(self) -> list[tuple[str, int]]:
        keys = sorted(self._keys(f"lumos/train/trainer/{DATE}/{DIARY}/"))
        lines = (self._text(key).split() for key in keys)
        return [(what, int(step)) for what, step in lines]

    def _lost_checkpoints(self) -> int:
        saved, lost = 0, 0
        for what, step in self._diary():
            lost += what == "began" and step < saved
            saved = max(saved, step) if what == "saved" else saved
        return lost

    def _false_successes(self, run_id: str, outcomes: dict) -> int:
        """Green tasks without the machine's own word for it."""
        false = 0
        for name in ("train", "evaluate"):
            if outcomes.get(name, {}).get("state") != "success":
                continue
            key = Task("retraining", run_id, name, -1, 0).key
            record = Record.model_validate(json.loads(self._text(f"lumos/jobs/{key}/record.json")))
            has_ended = record.end is not None and record.end.code == 0
            if name == "train":
                has_ended = has_ended and ("finished", STEPS) in self._diary()
                has_ended = has_ended and outcomes[name]["value"]["steps"] == STEPS
            false += not has_ended
        return false


def rules_of(seed: int) -> list[Rule]:
    """The faults of AWS in the weather of a seed."""
    dice = random.Random(seed + 7)

    def is_log(call: Call) -> bool:
        return "/log-" in str(call.parameters.get("Key", ""))

    choices = [
        Rule("throttle", probability=0.15),
        Rule("throttle", "ec2", probability=0.5, times=12),
        Rule("capacity", action="RunInstances", times=dice.randint(1, 40)),
        Rule("empty", action="DescribeInstances", caller="airflow", times=dice.randint(1, 5)),
        Rule("empty", action="DescribeInstanceInformation", times=dice.randint(1, 5)),
        Rule("empty", action="ListCommandInvocations"),
        Rule("lost-answer", probability=0.08, times=8),
        Rule("drop", probability=0.08, times=8),
        Rule("fail", probability=0.1),
        Rule("fail", "s3", "PutObject", caller="instance", probability=0.4),
        Rule("fail", "s3", "GetObject", caller="airflow", when=is_log, probability=0.5),
        Rule("slow", probability=0.05, seconds=1.0),
        Rule("hide", "ec2", "DescribeInstances", first=3),
    ]
    return dice.sample(choices, dice.choice((0, 1, 1, 2, 3)))


def losses_of(seed: int) -> list[tuple[str, float]]:
    """How the first machines of a seed are lost, and how many seconds after their launch."""
    dice = random.Random(seed + 1_000_003)
    losses = []
    for _ in range(dice.choice((0, 1, 1, 2))):
        kind = dice.choice(("boot", "crash", "spot", "spot"))
        losses.append((kind, 0.05 if kind == "boot" else dice.uniform(1.0, 5.0)))
    return losses


@contextlib.contextmanager
def _variables(given: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def told(verdict: Verdict) -> str:
    """One line for people."""
    return json.dumps(asdict(verdict))
