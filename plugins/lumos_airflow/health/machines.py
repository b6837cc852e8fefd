"""Instances of a running training and what they cost so far; nothing to ask where it runs here."""

import datetime as dt

from pydantic import BaseModel, ConfigDict

from lumos.cloud import read_cloud
from lumos.settings import Settings
from lumos_airflow.form import defaults
from lumos_airflow.health.runs import Task


class Rented(BaseModel):
    """Machines of the current launch.

    Attributes:
        instances: That EC2 says are alive.
        launch: Number of the launch; launches before it were replaced.
        usd: Price of the current launch since it was first asked for, at the price that
            ``LUMOS_CLOUD`` names: not a bill, and without launches that were replaced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instances: int
    launch: int
    usd: float | None


def rented(task: Task) -> Rented | None:
    """What runs for a task; none on a local platform, or before anything was asked for.

    Raises:
        ValueError: The file about the cloud is wrong.
        botocore.exceptions.ClientError: AWS did not answer, or did not let us.
    """
    settings = Settings.from_environment()
    if settings.platform != "aws":
        return None
    # boto3 takes half a second to import.
    from lumos_airflow.hooks.torchrun_ec2 import ALIVE, TorchrunEc2Hook
    from lumos_airflow.record import Book
    from lumos_airflow.record import Task as JobTask

    cloud = read_cloud(settings.cloud)
    hook = TorchrunEc2Hook(cloud)
    generation = max(0, task.max_tries - defaults()["retries"])
    job = JobTask(task.dag_id, task.run_id, task.task_id, -1, generation)
    record = Book(hook.jobs, job.key).read()
    if record is None:
        return None
    known = hook.describe(record.instance_ids) if record.instance_ids else {}
    alive = [each for each in known.values() if each.state in ALIVE]
    usd = None
    if record.first_asked and record.instance_ids:
        hours = (dt.datetime.now(dt.UTC) - record.first_asked).total_seconds() / 3600
        usd = round(hours * len(record.instance_ids) * cloud.machine("train").hourly_usd, 2)
    return Rented(instances=len(alive), launch=record.launch, usd=usd)
