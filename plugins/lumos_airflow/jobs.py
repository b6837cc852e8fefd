"""How a DAG asks for a job without saying where it runs: ``LUMOS_PLATFORM`` decides here.

Every verb task has ``max_active_tis_per_dag=1``: two dates of one table never write at once,
not even in a backfill, which ignores the DAG's ``max_active_runs``.
"""

import datetime as dt
import os
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, BaseOperator
from pydantic import ValidationError

from lumos.settings import Settings
from lumos_airflow.operators.local import LocalTrainOperator, LocalVerbOperator
from lumos_airflow.operators.ready import TableReadySensor
from lumos_airflow.operators.scratch import PrepareScratchOperator, ReleaseScratchOperator

_FORCE = {"force": "{{ params.force }}"}
_SCRATCH = "{{ ti.xcom_pull(task_ids='prepare_machine') }}"


def check_platform() -> None:
    """Refuse, while the DAG is parsed, a platform whose jobs are not there.

    Raises:
        ValueError: ``LUMOS_PLATFORM`` is not ``local``.
    """
    try:
        platform = Settings.from_environment().platform
    except ValidationError as error:
        given = os.environ.get("LUMOS_PLATFORM")
        msg = f"LUMOS_PLATFORM={given!r} is unknown; set it to local"
        raise ValueError(msg) from error
    if platform != "local":
        msg = (
            f"LUMOS_PLATFORM={platform} is not available in this version: its jobs on EC2 and "
            "Databricks come with a later one; set LUMOS_PLATFORM=local"
        )
        raise ValueError(msg)


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
    check_platform()
    return LocalVerbOperator(
        verb=name,
        options=options,
        switches={**_FORCE, **(switches or {})},
        **_common(name, writes, hours, kwargs),
    )


def train(*, writes: tuple[str, ...], hours: float) -> BaseOperator:
    """``lumos train`` under torchrun, on the machine that :func:`machine` prepared."""
    check_platform()
    return LocalTrainOperator(
        verb="train",
        switches=_FORCE,
        env={"TMPDIR": _SCRATCH},
        **_common("train", writes, hours, {}),
    )


def wait(name: str) -> BaseOperator:
    """Wait until a table is ready for the business date."""
    return TableReadySensor(
        task_id=f"wait_{name}",
        table=name,
        poll_seconds=float(os.environ.get("LUMOS_POLL_SECONDS", "30")),
        inlets=[table(name)],
    )


def machine() -> tuple[BaseOperator, BaseOperator]:
    """Set-up and teardown around training, whatever happens in between.

    On this platform the machine is the one at hand, and what is prepared and released is the
    scratch folder of the run.
    """
    check_platform()
    prepared = PrepareScratchOperator(task_id="prepare_machine")
    released = ReleaseScratchOperator(task_id="release_machine")
    released.as_teardown(setups=prepared)
    return prepared, released


def _common(
    name: str, writes: tuple[str, ...], hours: float, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "task_id": name,
        "outlets": [table(written) for written in writes],
        "execution_timeout": dt.timedelta(hours=hours),
        "max_active_tis_per_dag": 1,
        **kwargs,
    }
