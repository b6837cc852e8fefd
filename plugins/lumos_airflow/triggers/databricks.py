"""Watch one run on Databricks from the triggerer: no worker slot is held meanwhile."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from lumos_airflow.hooks.databricks import Run, RunGone, Runs
from lumos_airflow.triggers.threads import in_thread

# How long a cancelled run may take until it is over; a cluster is taken down meanwhile.
_CANCEL_SECONDS, _CANCEL_POLL_SECONDS = 600.0, 5.0


class DatabricksRunTrigger(BaseTrigger):
    """Looks every ``poll_seconds`` until the run is over; cancels it at its ``deadline``.

    The deadline (ISO time with zone) travels with the trigger, so that a restart of the
    triggerer neither forgets nor extends it. An API that fails is asked again for as long as it
    fails: what could not be looked at is neither over nor cancelled, and Databricks ends a run by
    its own time limit.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        run_id: int,
        repair_id: int | None,
        poll_seconds: float,
        deadline: str,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.run_id = run_id
        self.repair_id = repair_id
        self.poll_seconds = poll_seconds
        self.deadline = deadline
        self._runs = Runs(conn_id)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where this class is found again, and its arguments."""
        names = ("conn_id", "run_id", "repair_id", "poll_seconds", "deadline")
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {name: getattr(self, name) for name in names},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: ``what`` is ``ended``, ``timeout`` or ``refused``."""
        deadline = dt.datetime.fromisoformat(self.deadline)
        give_up: dt.datetime | None = None  # once the cancel was taken
        while True:
            try:
                found = await in_thread(self._runs.look, self.run_id)
                if self._is_over(found):
                    yield self._event("timeout" if give_up else "ended", found.message)
                    return
                if dt.datetime.now(dt.UTC) >= deadline and give_up is None:
                    self.log.warning("run %d takes too long: cancelling it", self.run_id)
                    await in_thread(self._runs.cancel, self.run_id)
                    give_up = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=_CANCEL_SECONDS)
            except (AirflowFailException, RunGone) as error:
                yield self._event("refused", str(error))
                return
            except AirflowException as error:
                self.log.warning("%s; looking again in %g s", error, self.poll_seconds)
            now = dt.datetime.now(dt.UTC)
            if give_up is not None and now >= give_up:
                yield self._event("timeout", "it was asked to end, and has not")
                return
            pause = self.poll_seconds if now < deadline else _CANCEL_POLL_SECONDS
            await asyncio.sleep(min(self.poll_seconds, pause))

    async def on_kill(self) -> None:
        """Marked failed or succeeded, or cleared, while it waits: end the run."""
        self.log.warning("killed: cancelling run %d", self.run_id)
        await in_thread(self._runs.cancel, self.run_id)

    def _is_over(self, run: Run) -> bool:
        # Right after a repair was asked for, its history may not show it yet.
        is_known = self.repair_id is None or self.repair_id in run.repair_ids
        return is_known and run.is_over

    def _event(self, what: str, why: str) -> TriggerEvent:
        payload = {"run_id": self.run_id, "what": what, "why": why}
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]
