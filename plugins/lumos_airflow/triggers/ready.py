"""Wait in the triggerer until the ledger calls a table ready: no worker slot is held meanwhile."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lumos_airflow.triggers.threads import in_thread

# Which verb, and which DAG's run, makes a table ready.
_MADE_BY = {
    "activity": ("aggregate", "daily_aggregation"),
    "sequences": ("sequences", "daily_aggregation"),
    "quality": ("validate", "data_quality"),
}


@dataclass(frozen=True)
class Partition:
    """One table of one recipe for one business date (ISO text, so that a trigger can carry it)."""

    table: str
    recipe: str
    date: str

    @property
    def remedy(self) -> str:
        """The command, and the DAG where there is one, that makes it ready."""
        verb, dag = _MADE_BY.get(self.table, (self.table, None))
        command = f"`lumos {verb} --recipe {self.recipe} --date {self.date}`"
        return command + (f", or a run of the DAG {dag} for that date" if dag else "")


@dataclass(frozen=True)
class Finding:
    """What the ledger says; ``message`` is for people."""

    verdict: Literal["ready", "refused", "absent"]
    message: str
    version: int | None = None
    rows: int | None = None


def look(partition: Partition) -> Finding:
    """Read the ledger once.

    Raises:
        ValueError: This cannot be the name of a recipe.
    """
    # Here, because DAG files import this module and must parse in no time.
    from lumos import ledger, stored
    from lumos.settings import Settings

    settings = Settings.from_environment()
    try:
        recipe = stored.read(settings, partition.recipe)
    except stored.NotStored as nothing:
        message = f"{partition.table} is not ready for {partition.date}: {nothing}"
        return Finding("absent", message)
    date = dt.date.fromisoformat(partition.date)
    entry = ledger.find(settings, recipe, partition.table, date)
    if entry is None:
        ready = [
            found.business_date
            for found in ledger.entries(settings, recipe, partition.table)
            if found.verdict == ledger.READY
        ]
        newest = f"its newest ready date is {ready[-1]}" if ready else "no date of it is ready"
        message = f"{partition.table} of recipe {recipe.name} is not ready for {date}; {newest}"
        return Finding("absent", message)
    if entry.verdict != ledger.READY:
        message = (
            f"{partition.table} of recipe {recipe.name} was refused for {date}: mend what the "
            f"log of that run names, then run {partition.remedy}"
        )
        return Finding("refused", message, entry.version, entry.rows)
    message = (
        f"{partition.table} of recipe {recipe.name} is ready for {date}: "
        f"version {entry.version}, {entry.rows} rows"
    )
    return Finding("ready", message, entry.version, entry.rows)


class TableReadyTrigger(BaseTrigger):
    """Looks every ``poll_seconds`` until ready, refused, or past ``deadline``.

    The deadline (ISO time with zone) travels with the trigger, so that a restart of the
    triggerer neither forgets nor extends it. A lake that does not answer is asked again.
    """

    def __init__(
        self, *, table: str, recipe: str, date: str, poll_seconds: float, deadline: str
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.partition = Partition(table, recipe, date)
        self.poll_seconds = poll_seconds
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where this class is found again, and its arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                **asdict(self.partition),
                "poll_seconds": self.poll_seconds,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: the finding, whose verdict is ``absent`` when time ran out.

        Raises:
            OSError, DeltaError: Of the last look, when time ran out before one succeeded.
        """
        # Here, because DAG files import this module and must parse in no time.
        from deltalake.exceptions import DeltaError

        deadline = dt.datetime.fromisoformat(self.deadline)
        while True:
            is_over = dt.datetime.now(dt.UTC) >= deadline
            try:
                finding = await in_thread(look, self.partition)
            except (OSError, DeltaError) as error:
                if is_over:
                    raise
                self.log.warning("looking again in %g s: %s", self.poll_seconds, error)
            else:
                if finding.verdict != "absent" or is_over:
                    yield TriggerEvent(asdict(finding))  # type: ignore[no-untyped-call]
                    return
            await asyncio.sleep(self.poll_seconds)
