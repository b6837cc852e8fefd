"""What the page says, as one object: HTML and JSON are two ways to write the same facts.

Addresses are relative to the server's root, so that they hold behind any proxy and prefix.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lumos_airflow.health.look import Training, Version
from lumos_airflow.health.machines import Rented

Status = Literal["ok", "warning", "unknown", "critical"]
_WORSE: dict[Status, int] = {"ok": 0, "warning": 1, "unknown": 2, "critical": 3}


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them. Not to know is worse than a known nuisance: it may hide anything."""
    return max(statuses, key=_WORSE.__getitem__, default="ok")


class Fact(BaseModel):
    """Base of everything that is said."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Fact):
    """Something that is not as it should be, and where to go with it.

    Attributes:
        runbook: Section of the runbook.
        page: Address of the task or run in Airflow's UI; empty if it is not about one.
        dag_id: With ``run_id`` and ``task_id``: of a failed task that can be run again.
    """

    status: Status
    title: str
    detail: str = ""
    runbook: str = ""
    page: str = ""
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""


class Part(Fact):
    """A section: its status, a sentence, and when its facts were read (UTC)."""

    status: Status = "ok"
    note: str = ""
    read: dt.datetime | None = None


class Step(Fact):
    """A task of a run; ``seconds`` so far if it runs."""

    task_id: str
    state: str
    status: Status
    started: dt.datetime | None
    ended: dt.datetime | None
    seconds: float | None
    page: str


class ChainRun(Fact):
    """The run of the newest business date of one DAG.

    Attributes:
        late_seconds: How long after ``due`` it ended, or by how much it is late now; 0: in time,
            or nobody has said when it is due.
    """

    dag_id: str
    title: str
    status: Status
    state: str
    business_date: dt.date | None
    run_id: str
    started: dt.datetime | None
    ended: dt.datetime | None
    due: dt.datetime | None
    late_seconds: float
    page: str
    steps: tuple[Step, ...]


class Chain(Part):
    """The day's work; ``expected`` is the newest business date that is due by now."""

    expected: dt.date | None = None
    runs: tuple[ChainRun, ...] = ()


class TableFact(Fact):
    """A table's newest entry in the ledger beside what is usual."""

    name: str
    status: Status
    note: str
    business_date: dt.date
    rows: int
    usual_rows: float | None
    version: int
    verdict: str


class Tables(Part):
    """All tables that the ledger knows."""

    tables: tuple[TableFact, ...] = ()


class QualityFact(Part):
    """The newest verdict of the full suite."""

    business_date: dt.date | None = None
    verdict: str = ""
    critical: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Measured(Fact):
    """A number of the monitor."""

    name: str
    segment: str
    value: float | None
    status: Status
    message: str


class Series(Fact):
    """A number of the monitor over the last weeks."""

    name: str
    segment: str
    days: tuple[dt.date, ...]
    values: tuple[float, ...]


class Drift(Part):
    """What the monitor measured on its newest day, and matured accuracy over eight weeks."""

    business_date: dt.date | None = None
    measured: tuple[Measured, ...] = ()
    matured: tuple[Series, ...] = ()


class Champion(Part):
    """The model that serves, by the registry; ``scores_by`` is the one of the live scores."""

    champion: Version | None = None
    challenger: Version | None = None
    age_days: float | None = None
    scores_by: str = ""
    scores_of: dt.date | None = None
    valid_until: dt.date | None = None


class TrainingFact(Part):
    """The training that runs, if one does."""

    is_running: bool = False
    business_date: dt.date | None = None
    seconds: float | None = None
    page: str = ""
    progress: Training | None = None
    rented: Rented | None = None


class Variant(Fact):
    """The newest look at a treatment of an active experiment."""

    experiment: str
    variant: str
    as_of: dt.date
    day: int
    srm_p_value: float | None
    status: Status
    advice: str
    page: str


class Experiments(Part):
    """Active experiments."""

    variants: tuple[Variant, ...] = ()


class Alert(Fact):
    """An alert that was sent and not resolved."""

    severity: Status
    name: str
    dag_id: str
    task_id: str
    business_date: str
    message: str
    count: int
    first_sent: str
    last_seen: str
    page: str


class Alerts(Part):
    """Open alerts of the recipe."""

    open: tuple[Alert, ...] = ()


class Health(Fact):
    """Everything on the page.

    Attributes:
        recipe: As runs are given it.
        recipes: All that can be chosen.
        status: ``ok`` only if every part is known and well.
        generated: Now (UTC).
    """

    recipe: str
    recipes: tuple[str, ...]
    status: Status
    headline: str
    generated: dt.datetime
    problems: tuple[Problem, ...]
    chain: Chain
    tables: Tables
    quality: QualityFact
    champion: Champion
    drift: Drift
    training: TrainingFact
    experiments: Experiments
    alerts: Alerts
