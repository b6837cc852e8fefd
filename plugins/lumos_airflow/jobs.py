"""How a DAG asks for a job without saying where it runs: ``LUMOS_PLATFORM`` decides here.

Every verb task has ``max_active_tis_per_dag=1``: two dates of one table never write at once,
not even in a backfill, which ignores the DAG's ``max_active_runs``. What the cloud needs is
imported only where it is the platform: boto3 alone would double the time that parsing takes.
"""

import datetime as dt
import os
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, BaseOperator
from pydantic import ValidationError

from lumos.cloud import read_cloud
from lumos.settings import Settings
from lumos_airflow.operators.local import (
    LocalMonitorOperator,
    LocalRanksOperator,
    LocalReviewOperator,
    LocalVerbOperator,
)
from lumos_airflow.operators.ready import TableReadySensor
from lumos_airflow.operators.scratch import PrepareScratchOperator, ReleaseScratchOperator

# Those that compute with torch; all others run on Databricks.
_ON_EC2 = ("train", "evaluate", "score", "shadow", "embed")
# Their pages lie on this host's disk, from which Airflow's server shows them.
_HERE = ("review", "monitor", "maintain")
_LOCAL = {
    "score": LocalRanksOperator,
    "review": LocalReviewOperator,
    "monitor": LocalMonitorOperator,
}
_SPARK = ("aggregate", "sequences", "validate", "assign", "measure", "replay")
_FORCE = {"force": "{{ params.force }}"}
_SCRATCH = "{{ ti.xcom_pull(task_ids='prepare_machine') }}"


def is_cloud() -> bool:
    """Whether jobs run on AWS and Databricks.

    Raises:
        ValueError: ``LUMOS_PLATFORM`` is unknown, or the file about the cloud is wrong: said
            while the DAG is parsed, and so in the UI's import errors.
    """
    try:
        settings = Settings.from_environment()
    except ValidationError as error:
        given = os.environ.get("LUMOS_PLATFORM")
        msg = f"LUMOS_PLATFORM={given!r} is unknown; set it to local or aws"
        raise ValueError(msg) from error
    if settings.platform == "aws":
        read_cloud(settings.cloud)
    return settings.platform == "aws"


def table(name: str) -> Asset:
    """A table as an Asset, so that lineage shows; one for all recipes."""
    return Asset(name=name, uri=f"lumos://lake/{name}")


def verb(
    name: str,
    *,
    options: Mapping[str, str] | None = None,
    switches: Mapping[str, str] | None = None,
    writes: tuple[str, ...] = (),
    hours: float = 2,
    **kwargs: Any,  # noqa: ANN401 - the operator's own
) -> BaseOperator:
    """One ``lumos`` verb; ``options`` and ``switches`` are templates by flag name."""
    common = {
        "verb": name,
        "options": options,
        "switches": {**_FORCE, **(switches or {})},
        **_common(name, writes, kwargs),
    }
    if not is_cloud() or name in _HERE:
        local = _LOCAL.get(name, LocalVerbOperator)
        return local(**common, execution_timeout=dt.timedelta(hours=hours))
    from lumos_airflow.operators.databricks import DatabricksVerbOperator
    from lumos_airflow.operators.torchrun_ec2 import Ec2VerbOperator, ScoreEc2Operator

    if name in _ON_EC2:
        machines = ScoreEc2Operator if name == "score" else Ec2VerbOperator
        return machines(**common, hours=hours)
    return DatabricksVerbOperator(**common, hours=hours, needs_spark=name in _SPARK)


def train(*, writes: tuple[str, ...], hours: float) -> BaseOperator:
    """``lumos train`` under torchrun."""
    common = {"verb": "train", "switches": _FORCE, **_common("train", writes, {})}
    if is_cloud():
        from lumos_airflow.operators.torchrun_ec2 import TorchrunEc2Operator

        return TorchrunEc2Operator(**common, hours=hours)
    return LocalRanksOperator(
        **common, env={"TMPDIR": _SCRATCH}, execution_timeout=dt.timedelta(hours=hours)
    )


def wait(name: str) -> BaseOperator:
    """Wait until a table is ready for the business date."""
    return TableReadySensor(
        task_id=f"wait_{name}",
        table=name,
        poll_seconds=float(os.environ.get("LUMOS_POLL_SECONDS", "30")),
        inlets=[table(name)],
    )


def machines(*verbs: str) -> tuple[BaseOperator, BaseOperator]:
    """Set-up and teardown around verbs that need machines, whatever happens in between.

    In the cloud: ask whether AWS would start them, before hours are waited for; and end what is
    left of the run. Here the machine is the one at hand, and what is prepared and released is
    the scratch folder of the run.
    """
    if is_cloud():
        from lumos_airflow.operators.machines import CheckMachinesOperator, EndMachinesOperator

        prepared: BaseOperator = CheckMachinesOperator(task_id="prepare_machine", verbs=verbs)
        released: BaseOperator = EndMachinesOperator(task_id="release_machine")
    else:
        prepared = PrepareScratchOperator(task_id="prepare_machine")
        released = ReleaseScratchOperator(task_id="release_machine")
    released.as_teardown(setups=prepared)
    return prepared, released


def reaper() -> BaseOperator:
    """The task that ends machines which nobody needs any more; only in the cloud."""
    from lumos_airflow.operators.machines import ReapMachinesOperator

    return ReapMachinesOperator(task_id="reap")


def _common(name: str, writes: tuple[str, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task_id": name,
        "outlets": [table(written) for written in writes],
        "max_active_tis_per_dag": 1,
        **kwargs,
    }
