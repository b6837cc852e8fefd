"""What an alert says, and who is affected, how badly, by every task and every deadline.

No Airflow and no network: what happens becomes an :class:`Alert` here, and
:mod:`lumos_airflow.notify` sends it. An alert's name is the heading of its section in
`docs/runbook.md`: that of the task that failed, or ``late-`` and the DAG for a missed deadline.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from urllib.parse import quote

from airflow.sdk.exceptions import AirflowFailException

from lumos_airflow.dates import business_date

Severity = Literal["critical", "warning"]
CRITICAL: Final = "critical"
WARNING: Final = "warning"
OWNER = "lumos"
MONITOR = "monitor"
UNKNOWN = "unknown"

# PagerDuty's own limit on a key; the message must leave Slack's 3,000 a block some room.
_KEY_CHARACTERS, _MESSAGE_CHARACTERS = 255, 1500
_WORTH_TELLING = ("warning", "critical", "unknown")


@dataclass(frozen=True)
class Effect:
    """How bad it is, and for whom."""

    severity: Severity
    affects: str


@dataclass(frozen=True)
class Deadline:
    """When a run of a DAG is late.

    Attributes:
        hours: From the planned start of a run to its deadline.
        ends_with: The task whose success ends the lateness.
        effect: Who waits for it.
    """

    hours: float
    ends_with: str
    effect: Effect


_SCORES = "Pacman: no scores of this date; it goes on with the last publication until that expires"
_MORNING = Effect(CRITICAL, _SCORES)
_SHADOW = Effect(WARNING, "the comparison with the challenger; nobody who reads scores")
_MACHINES = Effect(WARNING, "nobody; a machine or its scratch folder may be left and cost money")
_MONITOR = Effect(WARNING, "nobody yet: data or forecasts are not what they were")
_VECTORS = Effect(WARNING, "readers of embeddings, profiles and cohorts: those of the day before")
_EXPERIMENTS = Effect(WARNING, "readers of experiments: the effects and pages of the day before")
_REPLAYS = Effect(WARNING, "readers of experiments: whether p-values can be believed is unknown")
_CHAMPION = Effect(WARNING, "nobody tonight: the champion of before goes on scoring")

# What keeps this morning's scores from Pacman is critical; nothing else wakes anybody up.
EFFECTS: Mapping[tuple[str, str], Effect] = {
    ("daily_aggregation", "aggregate"): _MORNING,
    ("daily_aggregation", "sequences"): _MORNING,
    ("data_quality", "wait_activity"): _MORNING,
    ("data_quality", "validate"): _MORNING,
    ("data_quality", MONITOR): _MONITOR,
    ("batch_scoring", "wait_sequences"): _MORNING,
    ("batch_scoring", "wait_quality"): _MORNING,
    ("batch_scoring", "prepare_machine"): _MORNING,
    ("batch_scoring", "resolve"): _MORNING,
    ("batch_scoring", "score"): _MORNING,
    ("batch_scoring", "publish"): _MORNING,
    ("batch_scoring", "export"): Effect(
        CRITICAL, "whoever reads the online stores: they serve the scores of the day before"
    ),
    ("batch_scoring", "shadow"): _SHADOW,
    ("batch_scoring", "promote"): _SHADOW,
    ("batch_scoring", MONITOR): _MONITOR,
    ("batch_scoring", "release_machine"): _MACHINES,
    ("embedding", "wait_sequences"): _VECTORS,
    ("embedding", "prepare_machine"): _VECTORS,
    ("embedding", "embed"): _VECTORS,
    ("embedding", "release_machine"): _MACHINES,
    ("ab_metrics", "wait_activity"): _EXPERIMENTS,
    ("ab_metrics", "assign"): _EXPERIMENTS,
    ("ab_metrics", "measure"): _EXPERIMENTS,
    ("ab_metrics", "review"): Effect(
        WARNING, "owners of experiments: a page is missing, a split broken or a guardrail crossed"
    ),
    ("aa_calibration", "wait_activity"): _REPLAYS,
    ("aa_calibration", "replay"): _REPLAYS,
    ("retract_scores", "retract"): Effect(
        WARNING, "Pacman: what was to be taken back is still live"
    ),
    ("maintenance", "maintain"): Effect(
        WARNING, "nobody tonight: tables grow, and open more slowly"
    ),
    ("retraining", "wait_sequences"): _CHAMPION,
    ("retraining", "prepare_machine"): _CHAMPION,
    ("retraining", "train"): _CHAMPION,
    ("retraining", "evaluate"): _CHAMPION,
    ("retraining", "promote"): _CHAMPION,
    ("retraining", "release_machine"): _MACHINES,
    ("instance_reaper", "reap"): Effect(WARNING, "the bill: forgotten machines may go on running"),
}
_NOT_LISTED = Effect(WARNING, "not known: this task stands in no list of lumos_airflow.alerts")

# Scheduled runs of batch_scoring go by the clock (LUMOS_SCORES_BY); its hours are for others.
DEADLINES: Mapping[str, Deadline] = {
    "daily_aggregation": Deadline(3, "sequences", Effect(WARNING, f"soon {_SCORES}")),
    "data_quality": Deadline(3.5, "validate", Effect(WARNING, f"soon {_SCORES}")),
    "batch_scoring": Deadline(12, "publish", _MORNING),
    "embedding": Deadline(8, "embed", _VECTORS),
    "ab_metrics": Deadline(8, "review", _EXPERIMENTS),
    "aa_calibration": Deadline(24, "replay", _REPLAYS),
    "retraining": Deadline(30, "promote", _CHAMPION),
    "maintenance": Deadline(8, "maintain", Effect(WARNING, "nobody tonight: tables grow")),
}


def anchor(name: str) -> str:
    """A task or DAG as a heading of the runbook is addressed."""
    return name.replace("_", "-")


def late_name(dag_id: str) -> str:
    """The name of a missed deadline's alert."""
    return f"late-{anchor(dag_id)}"


def names() -> tuple[str, ...]:
    """Every name that an alert may have, each a section of the runbook."""
    tasks = {anchor(task_id) for _, task_id in EFFECTS}
    return tuple(sorted(tasks | {late_name(dag_id) for dag_id in DEADLINES}))


def effect_of(dag_id: str, task_id: str) -> Effect:
    """Who is affected; a task that nobody listed is alerted all the same."""
    return EFFECTS.get((dag_id, task_id), _NOT_LISTED)


@dataclass(frozen=True)
class Pages:
    """Where links lead: Airflow's address, and that of the runbook."""

    airflow: str
    runbook: str


@dataclass(frozen=True)
class Alert:
    """One thing that somebody should know, whole: a channel needs nothing else.

    Attributes:
        name: Its section in the runbook.
        severity: ``critical`` may wake somebody up, ``warning`` never does.
        task_id: Empty for a missed deadline.
        business_date: ISO; ``unknown`` where a run has none.
        recipe: As the run was given it.
        message: What happened, for people.
        affects: Who notices, and how.
        runbook_url: What to do.
        log_url: Of the task, or of the run.
    """

    name: str
    severity: Severity
    owner: str
    dag_id: str
    task_id: str
    run_id: str
    business_date: str
    recipe: str
    message: str
    affects: str
    runbook_url: str
    log_url: str

    @property
    def dedup_key(self) -> str:
        """Equal for the same trouble, whichever try or run of the date it happens to."""
        # A run without a date is only itself.
        when = self.run_id if self.business_date == UNKNOWN else self.business_date
        return dedup_key(self.recipe, self.dag_id, when, self.name)

    @property
    def title(self) -> str:
        """In one line."""
        what = f"{self.dag_id}.{self.task_id}" if self.task_id else f"{self.dag_id} is late"
        return f"[{self.severity}] {what}, business date {self.business_date} ({self.name})"

    def facts(self) -> dict[str, str]:
        """What stands beside the message, by label."""
        return {
            "Affects": self.affects,
            "Business date": self.business_date,
            "Recipe": self.recipe,
            "Owner": self.owner,
            "Run": self.run_id,
        }


def dedup_key(recipe: str, dag_id: str, when: str, name: str) -> str:
    """The key of an alert, short enough for PagerDuty."""
    key = f"{recipe}/{dag_id}/{when}/{name}"
    if len(key) <= _KEY_CHARACTERS:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"{key[: _KEY_CHARACTERS - 17]}-{digest}"


@dataclass(frozen=True)
class Occasion:
    """The run that something happened to, whoever tells of it: a task, a DAG or a deadline."""

    dag_id: str
    run_id: str
    run_type: str
    business_date: str
    recipe: str

    @classmethod
    def of_task(cls, context: Mapping[str, Any]) -> "Occasion":
        """From a task's context; what the DAG processor's lacks is said to be unknown."""
        ti = context["ti"]
        run = context.get("dag_run")
        return cls(
            ti.dag_id,
            ti.run_id,
            _run_type(getattr(run, "run_type", None), ti.run_id),
            _date(context),
            str(context.get("params", {}).get("recipe") or "-"),
        )

    @classmethod
    def of_deadline(cls, context: Mapping[str, Any], recipe: str) -> "Occasion":
        """From what the scheduler hands to a deadline's callback.

        Args:
            context: ``dag_run`` as the REST API shows it, and ``deadline``.
            recipe: Of runs that were given none.
        """
        run = context["dag_run"]
        given = run.get("conf") or {}
        start = run.get("data_interval_start")
        dated = {
            "params": given,
            "data_interval_start": dt.datetime.fromisoformat(start) if start else None,
        }
        return cls(
            run["dag_id"],
            run["dag_run_id"],
            _run_type(run.get("run_type"), run["dag_run_id"]),
            _date(dated),
            str(given.get("recipe") or recipe),
        )

    def alert(self, name: str, effect: Effect, pages: Pages, **own: str) -> Alert:
        """An alert about this run; only one that the scheduler started is ever critical."""
        found = Alert(
            name=name,
            severity=effect.severity,
            dag_id=self.dag_id,
            run_id=self.run_id,
            business_date=self.business_date,
            recipe=self.recipe,
            affects=effect.affects,
            runbook_url=f"{pages.runbook}#{name}",
            **{"owner": OWNER, "task_id": "", **own},
        )
        if found.severity == CRITICAL and self.run_type != "scheduled":
            message = f"{found.message} (a {self.run_type} run: it pages nobody)"
            return replace(found, severity=WARNING, message=message)
        return found

    def key(self, name: str) -> str:
        """The key that an alert of this name about this run has."""
        when = self.run_id if self.business_date == UNKNOWN else self.business_date
        return dedup_key(self.recipe, self.dag_id, when, name)


def of_failure(context: Mapping[str, Any], pages: Pages) -> Alert:
    """A task that has failed for good."""
    error = context.get("exception")
    said = str(error) if error is not None and str(error) else _without_a_word(error)
    return _of_task(context, pages, said)


def of_findings(
    context: Mapping[str, Any], pages: Pages, findings: Sequence[Mapping[str, Any]]
) -> Alert:
    """A task that ended green, and found something that people should look at."""
    lines = [
        f"{each['name']} ({each.get('segment', 'all')}): {each['message']}" for each in findings
    ]
    found = _of_task(context, pages, f"{len(lines)} findings\n" + "\n".join(lines))
    return replace(found, severity=WARNING)


def findings_in(report: object) -> list[Mapping[str, Any]]:
    """Those of a monitor's report that are worth an alert."""
    details = report.get("details") if isinstance(report, Mapping) else None
    found = (details or {}).get("findings") or []
    return [each for each in found if each["verdict"] in _WORTH_TELLING]


def of_lateness(occasion: Occasion, pages: Pages, message: str) -> Alert:
    """A run that has missed its deadline."""
    return occasion.alert(
        late_name(occasion.dag_id),
        DEADLINES[occasion.dag_id].effect,
        pages,
        message=_capped(message),
        log_url=f"{pages.airflow}/dags/{occasion.dag_id}/runs/{quote(occasion.run_id)}",
    )


def mended_by(occasion: Occasion, task_id: str) -> list[str]:
    """Keys of the alerts that a task's success puts an end to."""
    deadline = DEADLINES.get(occasion.dag_id)
    ended = [anchor(task_id)]
    if deadline and deadline.ends_with == task_id:
        ended.append(late_name(occasion.dag_id))
    return [occasion.key(name) for name in ended]


def _of_task(context: Mapping[str, Any], pages: Pages, said: str) -> Alert:
    ti = context["ti"]
    occasion = Occasion.of_task(context)
    page = f"{pages.airflow}/dags/{ti.dag_id}/runs/{quote(ti.run_id)}/tasks/{ti.task_id}"
    return occasion.alert(
        anchor(ti.task_id),
        effect_of(ti.dag_id, ti.task_id),
        pages,
        message=_capped(said),
        owner=str(getattr(context.get("task"), "owner", OWNER)),
        task_id=ti.task_id,
        log_url=f"{page}?try_number={ti.try_number}",
    )


def _without_a_word(error: object) -> str:
    if error is not None:
        return type(error).__name__
    return (
        "it ended without a word: killed (out of memory?), its host lost, or marked failed; "
        "the end of its log and the scheduler's log say more"
    )


def _capped(text: str) -> str:
    if len(text) <= _MESSAGE_CHARACTERS:
        return text
    return text[: _MESSAGE_CHARACTERS - 4] + " ..."


def _run_type(given: object, run_id: str) -> str:
    # An enum of strings in a task, text in a deadline; the DAG processor may know neither.
    return str(getattr(given, "value", given) or run_id.partition("__")[0])


def _date(context: Mapping[str, Any]) -> str:
    try:
        return business_date(context).isoformat()
    except (AirflowFailException, KeyError):  # what is wrong with it may be why the task failed
        return UNKNOWN
