"""Around what runs on rented machines: look first whether it can, and leave none behind.

The verbs' own operators start and end their machines. These are what a person would do besides:
ask AWS, before anything costs money, whether it would start them; and look, whatever became of a
run, whether something of it is still there.
"""

import datetime as dt
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from lumos.cloud import Cloud, read_cloud
from lumos.host.folder import Folder
from lumos.settings import Settings
from lumos_airflow.hooks.code import ship
from lumos_airflow.hooks.torchrun_ec2 import (
    EXPIRES,
    JOB,
    RUN,
    STARTING,
    Instance,
    TorchrunEc2Hook,
)
from lumos_airflow.reach import MACHINE, verb_environment
from lumos_airflow.record import Book, Record, run_key
from lumos_airflow.refusals import NoCapacity, Refused

log = logging.getLogger(__name__)

# After a verb has ended its instances go within seconds; a record that ended long ago is sure.
_SETTLED = dt.timedelta(minutes=15)


class CheckMachinesOperator(BaseOperator):
    """Ask AWS whether it would start the machines of some verbs; nothing is started.

    Args:
        verbs: Whose machines.
    """

    ui_color = "#f7ece0"

    def __init__(self, *, verbs: tuple[str, ...], **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.verbs = verbs

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Ship the code, and try each machine dry."""
        with told():
            cloud = cloud_of_here()
            verb_environment(Settings.from_environment(), cloud, MACHINE, "")
            wheels = ship(cloud, cloud.wheels)
            hook = TorchrunEc2Hook(cloud)
            for verb in self.verbs:
                self._check(hook, verb, context["run_id"])
        return {"code": [each.uri for each in wheels]}

    def _check(self, hook: TorchrunEc2Hook, verb: str, run_id: str) -> None:
        try:
            machine = hook.cloud.machine(verb)
        except ValueError as error:
            raise Refused(str(error)) from error
        num_gpus = hook.num_gpus(machine.instance_type)
        if num_gpus and machine.processes and machine.processes > num_gpus:
            msg = (
                f"[machines.{verb}] wants {machine.processes} processes on a "
                f"{machine.instance_type}, which has {num_gpus} GPUs: give one a GPU at most"
            )
            raise Refused(msg)
        now = dt.datetime.now(dt.UTC)
        key = run_key("dry", f"{run_id} {now.isoformat()}")
        record = Record(
            **{name: key for name in ("key", "task_key", "run_key")},
            **{"dag_id": self.dag_id, "run_id": run_id, "task_id": verb},
            deadline=now,
            wheels=(),
            lock_sha256="",
        )
        try:
            hook.launch(record, machine, dry=True)
        except NoCapacity as error:  # the verb's own task waits for it
            self.log.warning("no capacity now, %s", error)
        self.log.info(
            "AWS would start %d x %s (%s) for %s, at %.2f USD an hour",
            machine.nodes,
            machine.instance_type,
            machine.market,
            verb,
            machine.nodes * machine.hourly_usd,
        )


class EndMachinesOperator(BaseOperator):
    """End what instances of this DAG run are left; usually there are none."""

    ui_color = "#f7ece0"

    def execute(self, context: Context) -> list[str]:
        """The ids of those that were left."""
        with told():
            hook = TorchrunEc2Hook(cloud_of_here())
            left = hook.find({RUN: run_key(self.dag_id, context["run_id"])}, states=STARTING)
            hook.terminate([each.instance_id for each in left])
        for each in left:
            self.log.warning(
                "ended %s (%s), launched %s", each.instance_id, each.type, each.launched
            )
        return [each.instance_id for each in left]


class ReapMachinesOperator(BaseOperator):
    """End every instance of this deployment whose job is over, or past its time.

    Args:
        dry_run: Renders to ``True`` where they should only be named.
    """

    template_fields = ("dry_run",)
    ui_color = "#f7ece0"

    def __init__(self, *, dry_run: str = "{{ params.dry_run }}", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.dry_run = dry_run

    def execute(self, context: Context) -> dict[str, str]:
        """Why each of those that were ended, or would be, was found too old."""
        with told():
            hook = TorchrunEc2Hook(cloud_of_here())
            found = hook.find({}, states=(*STARTING, "stopping", "stopped"))
            doomed: dict[str, str] = {}
            # One by one: an answer that is missing for one must not keep those before it alive.
            for instance_id, why in overdue(found, hook.jobs, dt.datetime.now(dt.UTC)):
                self.log.warning("%s: %s", instance_id, why)
                doomed[instance_id] = why
                if self.dry_run != "True":
                    hook.terminate([instance_id])
        done = "would be ended" if self.dry_run == "True" else "ended"
        self.log.info("%d instances, %d of them %s", len(found), len(doomed), done)
        return doomed


def overdue(found: Iterable[Instance], jobs: Folder, now: dt.datetime) -> Iterator[tuple[str, str]]:
    """Instances that nobody needs any more, and why; first those of which the tag alone says so."""
    settled = []
    for each in found:
        expires = _time(each.tags.get(EXPIRES, ""))
        if expires is None or now > expires:
            yield each.instance_id, f"its time was over at {expires or 'no time that is told'}"
        elif now - each.launched >= _SETTLED:
            settled.append(each)
    for each in settled:
        try:
            record = Book(jobs, each.tags.get(JOB, "unknown")).read()
        except ValidationError as error:  # of another version of ours: its time will tell
            log.warning("%s: its record cannot be understood: %s", each.instance_id, error)
            continue
        if record is None:
            yield each.instance_id, "its job has no record"
        elif record.state == "ended":
            yield each.instance_id, "its job has ended"
        elif each.instance_id not in record.instance_ids:
            yield each.instance_id, "its job goes on elsewhere"


def _time(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def cloud_of_here() -> Cloud:
    """The deployment that this Airflow is of.

    Raises:
        Refused: Its file is missing or wrong.
    """
    try:
        return read_cloud(Settings.from_environment().cloud)
    except ValueError as error:
        raise Refused(str(error)) from error


@contextmanager
def told() -> Iterator[None]:
    """AWS's errors as Airflow's: what a person must mend is not tried again."""
    try:
        yield
    except Refused as error:
        raise AirflowFailException(str(error)) from error
    except (ClientError, BotoCoreError, OSError) as error:
        msg = f"AWS did not do what was asked: {error}"
        raise AirflowException(msg) from error
