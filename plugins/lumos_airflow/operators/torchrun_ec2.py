"""A verb on EC2, under torchrun where it trains: launched, watched, concluded, ended.

Each task has machines of its own, from its start to its end: none waits, at tens of dollars an
hour, for a scheduler to go on. What happens is a walk over the states of a record in S3
(:mod:`lumos_airflow.record`): ``launching -> booting -> running -> ended``, and from any of them
``replacing -> launching`` when a machine is lost or taken back. A worker takes a step and hands
over to the trigger; a retry, whoever died, reads the record and goes on from there.
"""

import datetime as dt
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NoReturn

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from lumos.cloud import Cloud, Machine, read_cloud
from lumos.codes import RESUME
from lumos.host.folder import Conflict
from lumos.host.job import JOB, Job, Lock, Node, Shipped
from lumos.host.process import Ended
from lumos.settings import Settings
from lumos_airflow.hooks.code import ship
from lumos_airflow.hooks.torchrun_ec2 import (
    JOB as JOB_TAG,
)
from lumos_airflow.hooks.torchrun_ec2 import (
    LAUNCH,
    NOT_OVER,
    TASK,
    TorchrunEc2Hook,
)
from lumos_airflow.operators.killed import aside
from lumos_airflow.operators.verb import VerbOperator
from lumos_airflow.reach import MACHINE, verb_environment
from lumos_airflow.record import (
    WHY_REPLACED,
    Book,
    End,
    Record,
    is_done,
    is_final,
    task_of,
)
from lumos_airflow.refusals import NoCapacity, Refused
from lumos_airflow.triggers.torchrun_ec2 import LaunchTrigger

# A worker only takes steps, each of a few calls; the waits are the trigger's.
_STEP_MINUTES = 30
_MOST_CONFLICTS = 20
_MOST_ARGUMENT_BYTES = 131_072  # Linux's MAX_ARG_STRLEN


class Ec2VerbOperator(VerbOperator):
    """``python -m lumos VERB`` on an instance of its own.

    Args:
        hours: When the verb is asked to save and leave, from the task's start.
    """

    ui_color = "#f7ece0"

    def __init__(self, *, hours: float, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(execution_timeout=dt.timedelta(minutes=_STEP_MINUTES), **kwargs)
        self.hours = hours
        self._record: Record | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Begin, or go on with what an earlier try began.

        Raises:
            AirflowFailException: What a retry cannot mend, in a sentence.
            AirflowException: A fault worth a retry.
        """
        self.log.info("business date %s, recipe %s", self.date, self.recipe)
        with self._told(context):
            book, record = self._open(context)
            if record.state == "ended" and not is_final(record.end):
                self.log.info("the try before ended with a fault: launching anew")
                record = book.write(record.next_launch("the try before ended with a fault"))
            return self._walk(context, book, record)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Called when the trigger saw something."""
        with self._told(context):
            book, record = self._open(context)
            # An event of the past says nothing about what is there now.
            if (event["launch"], event["state"]) == (record.launch, record.state):
                try:
                    record = self._take(book, record, event)
                except Conflict:
                    record = _read_again(book)
            return self._walk(context, book, record)

    def on_kill(self) -> None:
        """Marked failed, cleared or terminated while a step is taken: end the instances."""
        if (record := self._record) is not None:
            aside(lambda: TorchrunEc2Hook(self._cloud).end(record))

    @contextmanager
    def _told(self, context: Context) -> Iterator[None]:
        """Errors as sentences and as what Airflow makes of them; no machine waits for nobody."""
        ti = context["ti"]
        try:
            yield
        except Refused as error:
            self._abandon()
            raise AirflowFailException(str(error)) from error
        except AirflowFailException:
            self._abandon()
            raise
        except (ClientError, BotoCoreError, OSError) as error:
            if ti.try_number > ti.max_tries:  # nobody will come back to it
                self._abandon()
            msg = f"AWS did not do what lumos {self.verb} needs: {error}"
            raise AirflowException(msg) from error

    def _abandon(self) -> None:
        if self._record is not None:
            try:
                TorchrunEc2Hook(self._cloud).end(self._record)
            except (ClientError, BotoCoreError, OSError, Refused) as error:
                self.log.error(
                    "the instances of job %s may still run, until their dead-man's switch or the "
                    "DAG instance_reaper ends them: %s",
                    self._record.key,
                    error,
                )

    # -- the record

    @cached_property
    def _cloud(self) -> Cloud:
        try:
            return read_cloud(Settings.from_environment().cloud)
        except ValueError as error:
            raise Refused(str(error)) from error

    @cached_property
    def _machine(self) -> Machine:
        try:
            return self._cloud.machine(self.verb)
        except ValueError as error:
            raise Refused(str(error)) from error

    def _open(self, context: Context) -> tuple[Book, Record]:
        """The record of this task's generation; a new one if there is none."""
        task, hook = task_of(context), TorchrunEc2Hook(self._cloud)
        book = Book(hook.jobs, task.key)
        record = book.read()
        if record is not None:
            self._record = record
            self.log.info("going on with job %s, which is %s", task.key, record.state)
            return book, record
        self._refuse()
        wheels = ship(self._cloud, self._cloud.wheels)
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        record = Record(
            key=task.key,
            task_key=task.task_key,
            run_key=task.run_key,
            dag_id=task.dag_id,
            run_id=task.run_id,
            task_id=task.task_id,
            deadline=now + dt.timedelta(hours=self.hours),
            wheels=tuple(Shipped(uri=each.uri, sha256=each.sha256) for each in wheels),
            lock_sha256=hashlib.sha256(self._cloud.lock.read_bytes()).hexdigest(),
        )
        try:
            return book, book.write(record)
        except Conflict:
            return book, _read_again(book)

    def _refuse(self) -> None:
        """What cannot work, before it costs anything."""
        self._environment()
        self.processes(self._machine)
        for each in self.arguments:
            if not _fits(each):
                msg = (
                    f"no command line can hold {each[:60]!a}: an argument is text in UTF-8, "
                    "without NUL, of less than 128 KiB"
                )
                raise AirflowFailException(msg)

    def _take(self, book: Book, record: Record, event: Mapping[str, Any]) -> Record:
        """Write down what the trigger saw."""
        what, why = event["what"], event["why"]
        if what == "online":
            return self._send(book, record)
        if what == "gone":
            return book.write(record.next_launch(record.replaced[-1]))
        if what == "ended":
            return self._weigh(book, record, End.model_validate(event["end"]))
        if what == "lost":
            return self._weigh(book, record, End(code=-1, cause="lost", last_error=why))
        if what == "late":
            return book.write(record.but(state="ended", end=End(code=RESUME, cause="budget")))
        return record

    def _weigh(self, book: Book, record: Record, end: End) -> Record:
        """Whether the launch was the last one, or must be replaced."""
        if is_done(end):
            return book.write(record.but(state="ended", end=end))
        why = end.last_error if end.cause == "lost" else WHY_REPLACED.get(end.cause, end.last_error)
        if record.launch + 1 >= self._machine.launches:
            message = f"{record.launch + 1} launches were lost or taken back, the last one: {why}"
            lost = End(code=-1, cause="lost", last_error=message)
            return book.write(record.but(state="ended", end=lost))
        self.log.warning("launch %d is over (%s): another one goes on", record.launch, why)
        return book.write(record.but(state="replacing", replaced=(*record.replaced, why)[-5:]))

    # -- the steps

    def _walk(self, context: Context, book: Book, record: Record) -> dict[str, Any]:
        """Take steps until the trigger must wait for something, or all is over."""
        hook = TorchrunEc2Hook(self._cloud)
        for _ in range(_MOST_CONFLICTS):
            self._record = record
            try:
                if record.state == "ended":
                    return self._conclude(context, hook, record)
                if record.state == "launching":
                    record = self._launch(hook, book, record)
                    continue
                if record.state == "replacing":
                    hook.end(record)
                self._wait(record)
            except Conflict:
                # Delivered twice: whoever wrote first leads, and both go on from there.
                record = _read_again(book)
        msg = f"the record {book.folder.uri} changes all the time: another task writes it"
        raise AirflowException(msg)

    def _launch(self, hook: TorchrunEc2Hook, book: Book, record: Record) -> Record:
        machine = self._machine
        self._end_others(hook, record)
        if record.first_asked is None:
            record = book.write(record.but(first_asked=dt.datetime.now(dt.UTC)))
            cost = machine.nodes * machine.hourly_usd
            most = f"at most {self.hours:g} h and {cost * self.hours:,.0f} USD"
            what = f"{machine.nodes} x {machine.instance_type} ({machine.market})"
            self.log.info("starting %s for %s: job %s", what, most, record.key)
        try:
            ids = hook.launch(record, machine)
        except NoCapacity as error:
            self.log.info("no capacity, %s", error)
            return self._ask_elsewhere(book, record)
        self.log.info("launch %d: %s", record.launch, ", ".join(ids))
        return book.write(record.but(state="booting", instance_ids=tuple(ids)))

    def _ask_elsewhere(self, book: Book, record: Record) -> Record:
        """Another zone at once; after the last one all of them again, later and later."""
        record = book.write(record.but(attempt=record.attempt + 1))
        if record.attempt % len(self._machine.subnets) == 0:
            self._wait_for_capacity(record)
        return record

    def _wait_for_capacity(self, record: Record) -> NoReturn:
        machine = self._machine
        assert record.first_asked is not None
        waited = dt.datetime.now(dt.UTC) - record.first_asked
        if waited > dt.timedelta(hours=machine.capacity_hours):
            msg = (
                f"no zone had {machine.nodes} x {machine.instance_type} for "
                f"{machine.capacity_hours:g} hours. Add subnets of other zones, take another "
                "instance type, or reserve a capacity block (docs/aws.md)"
            )
            raise Refused(msg)
        rounds = record.attempt // len(machine.subnets)
        pause = min(machine.poll_seconds * 4 * 2 ** (rounds - 1), machine.poll_seconds * 60)
        self.log.info("asking all zones again in %.0f s", pause)
        self._wait(record, pause_seconds=pause)

    def _end_others(self, hook: TorchrunEc2Hook, record: Record) -> None:
        """End what is left of the task from before it was cleared, or of a launch given up."""
        others = [
            each
            for each in hook.find({TASK: record.task_key}, states=NOT_OVER)
            if (each.tags.get(JOB_TAG), each.tags.get(LAUNCH)) != (record.key, str(record.launch))
        ]
        if others:
            ids = [each.instance_id for each in others]
            self.log.info("ending %s, left from before", ", ".join(ids))
            hook.terminate(ids)
            self._wait(record, pause_seconds=2 * self._machine.poll_seconds)

    def _send(self, book: Book, record: Record) -> Record:
        """Write the job, which is written once a launch, and have it run."""
        hook, machine = TorchrunEc2Hook(self._cloud), self._machine
        folder = book.launch(record)
        job = self._job(hook, record).model_dump_json(indent=1).encode()
        try:
            folder.create(JOB, job)
        except Conflict:
            written = folder.read(JOB)
            assert written is not None
            job = written.data
        digest = hashlib.sha256(job).hexdigest()
        command_id = hook.send(record, machine, f"{folder.uri}/{JOB}", digest)
        self.log.info("command %s: lumos %s", command_id, shlex.join(self.arguments))
        return book.write(record.but(state="running", command_id=command_id))

    def _job(self, hook: TorchrunEc2Hook, record: Record) -> Job:
        cloud, machine = self._cloud, self._machine
        found = hook.describe(record.instance_ids)
        left = (record.deadline - dt.datetime.now(dt.UTC)).total_seconds()
        return Job(
            arguments=tuple(self.arguments),
            processes=self.processes(machine),
            nodes=tuple(
                Node(instance_id=each, address=found[each].address if each in found else "")
                for each in record.instance_ids
            ),
            rendezvous_port=machine.rendezvous_port,
            wheels=record.wheels,
            lock=Lock(path=machine.lock, sha256=record.lock_sha256),
            environment=self._environment(),
            secrets=cloud.secrets,
            home=machine.home,
            region=cloud.region,
            budget_seconds=max(left, 1.0),
            beat_seconds=machine.poll_seconds,
        )

    def _environment(self) -> dict[str, str]:
        states = f"{self._cloud.root}/train"
        here = Settings.from_environment()
        return verb_environment(here, self._cloud, MACHINE, self.actor, LUMOS_STATES=states)

    def processes(self, machine: Machine) -> int | None:
        """Ranks a node under torchrun; ``None``: without it."""
        return None

    def _wait(self, record: Record, *, pause_seconds: float = 0.0) -> NoReturn:
        """Hand over to the trigger; whatever is needed to find the job again is written by now."""
        later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=pause_seconds)
        self.defer(
            trigger=LaunchTrigger(
                record=record.model_dump(mode="json"),
                cloud=self._cloud.model_dump(mode="json"),
                machine=self._machine.model_dump(mode="json"),
                not_before=later.isoformat(),
            ),
            method_name="resume",
        )
        raise AssertionError  # defer() never returns

    def _conclude(self, context: Context, hook: TorchrunEc2Hook, record: Record) -> dict[str, Any]:
        """End the machines first, then say how the verb ended."""
        assert record.end is not None
        hook.end(record)
        end = record.end
        if end.cause == "lost":
            raise AirflowException(f"lumos {self.verb}: {end.last_error}")
        if end.code and end.cause == "budget":
            msg = (
                f"lumos {self.verb} was not done after {self.hours:g} h and was asked to save and "
                "leave. Clear the task to go on from its state, or give it more hours"
            )
            raise AirflowFailException(msg)
        report = self.conclude(context, Ended(end.code, end.last_line, end.last_error))
        if report.get("verb") != self.verb or report.get("date") != self.date:
            msg = f"the report is of another verb or date: {json.dumps(report)[:300]}"
            raise AirflowFailException(msg)
        return report


class TorchrunEc2Operator(Ec2VerbOperator):
    """``torchrun -m lumos VERB``: as many ranks as the machine, or else the recipe, says."""

    def processes(self, machine: Machine) -> int:
        """Ranks a node."""
        return machine.processes or self.recipe_processes()


class ScoreEc2Operator(Ec2VerbOperator):
    """``lumos score``: under torchrun where there are several ranks, as it is for one."""

    def processes(self, machine: Machine) -> int | None:
        """Ranks a node; ``None`` for one."""
        processes = machine.processes or self.recipe_processes()
        return processes if processes > 1 or machine.nodes > 1 else None


def _fits(argument: str) -> bool:
    """Whether Linux can hand it to a program."""
    try:
        return "\0" not in argument and len(argument.encode()) < _MOST_ARGUMENT_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return False


def _read_again(book: Book) -> Record:
    record = book.read()
    assert record is not None
    return record
