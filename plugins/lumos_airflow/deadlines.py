"""When a run is late: scores by the clock on the wall, all else some hours after its start.

Airflow's own references do not do: from the logical date a run by hand or a backfill of last year
would be late at once, and from the queue a hundred days of a backfill would all be late together.
"""

import datetime as dt
import os
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow.sdk import AsyncCallback, DeadlineAlert
from airflow.sdk.definitions.deadline import BaseDeadlineReference

from lumos.schedule import Schedule, at_clock
from lumos_airflow.alerts import DEADLINES, late_name
from lumos_airflow.notify import RunFailed, late


@dataclass(frozen=True)
class Due(BaseDeadlineReference):
    """When a run should be done, asked once, when the run is created.

    Attributes:
        hours: From the time at which the run was to start.
        by: For runs that the scheduler starts, this time (HH:MM) of the day after the data
            interval instead.
        zone: Of ``by``, as IANA calls it.
    """

    required_kwargs: ClassVar[set[str]] = {"dag_id", "run_id"}

    hours: float = 3
    by: str = ""
    zone: str = "UTC"

    def serialize_reference(self) -> dict[str, Any]:
        """The constructor's arguments, and the name under which Airflow keeps them."""
        return {
            "reference_type": self.reference_name,
            "hours": self.hours,
            "by": self.by,
            "zone": self.zone,
        }

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> "Due":
        """Inverse of :meth:`serialize_reference`."""
        return cls(**{name: reference_data[name] for name in ("hours", "by", "zone")})

    def due(
        self, run_type: str, run_after: dt.datetime, interval_end: dt.datetime | None
    ) -> dt.datetime | None:
        """The deadline, in UTC; none for backfills, for which nobody waits."""
        if run_type == "backfill":
            return None
        if run_type != "scheduled" or not self.by or interval_end is None:
            return run_after.astimezone(dt.UTC) + dt.timedelta(hours=self.hours)
        clock = dt.time.fromisoformat(self.by)
        # Intervals name days by midnight UTC, in every zone.
        return at_clock(interval_end.astimezone(dt.UTC).date(), clock, self.zone)

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> dt.datetime | None:  # noqa: ANN401 - SQLAlchemy's
        # Here, because only the server may have these: a DAG file imports this module.
        from airflow.models import DagRun
        from sqlalchemy import select

        wanted = select(DagRun.run_type, DagRun.run_after, DagRun.data_interval_end)
        found = session.execute(
            wanted.where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        ).one_or_none()
        return self.due(str(found[0]), found[1], found[2]) if found else None


def watched(dag_id: str) -> dict[str, Any]:
    """What a DAG needs to be watched as a whole: its failure, and its deadline if it has one.

    Raises:
        ValueError: An environment variable is wrong: said while the DAG is parsed.
    """
    found: dict[str, Any] = {"on_failure_callback": [RunFailed()]}
    if dag_id in DEADLINES:
        found["deadline"] = DeadlineAlert(
            name=late_name(dag_id),
            reference=reference(dag_id),
            interval=dt.timedelta(0),
            callback=AsyncCallback(late),
        )
    return found


def reference(dag_id: str) -> Due:
    """When runs of a DAG are due, as the environment has it.

    Raises:
        ValueError: ``LUMOS_DEADLINES``, or a variable of the schedule, is wrong.
    """
    hours = {name: each.hours for name, each in DEADLINES.items()} | _hours()
    schedule = Schedule.from_environment()
    by = f"{schedule.scores_by:%H:%M}" if dag_id == "batch_scoring" else ""
    return Due(hours=hours[dag_id], by=by, zone=schedule.zone)


def _hours() -> dict[str, float]:
    """``LUMOS_DEADLINES``, such as ``retraining=40,data_quality=5``."""
    found = {}
    for text in filter(None, map(str.strip, os.environ.get("LUMOS_DEADLINES", "").split(","))):
        dag_id, _, hours = text.partition("=")
        try:
            found[dag_id] = float(hours)
        except ValueError:
            found[dag_id] = 0
        if dag_id not in DEADLINES or not 0 < found[dag_id] < 10_000:
            msg = (
                f"LUMOS_DEADLINES has {text!r}; expected DAG=HOURS, with commas between them, "
                f"for {', '.join(DEADLINES)}"
            )
            raise ValueError(msg)
    return found
