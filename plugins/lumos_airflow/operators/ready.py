"""Wait until a table is ready for the run's business date, according to the ledger."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from lumos.allowed import refuse_unless_allowed
from lumos.settings import Settings
from lumos_airflow.triggers.ready import Finding, Partition, TableReadyTrigger, look


class TableReadySensor(BaseOperator):
    """Looks once, then defers to the triggerer; a refused table fails at once, without retry."""

    template_fields: Sequence[str] = ("recipe", "date")
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        table: str,
        poll_seconds: float = 30,
        timeout: dt.timedelta = dt.timedelta(hours=12),
        recipe: str = "{{ params.recipe }}",
        date: str = "{{ business_date() }}",
        **kwargs: Any,  # noqa: ANN401 - BaseOperator's own
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.poll_seconds = poll_seconds
        self.timeout = timeout
        self.recipe = recipe
        self.date = date

    def execute(self, context: Context) -> dict[str, Any]:
        """The ledger's finding as XCom, now or after the trigger fired."""
        self.log.info("business date %s, recipe %s", self.date, self.recipe)
        try:
            refuse_unless_allowed(self.recipe, Settings.from_environment())
        except ValueError as error:
            raise AirflowFailException(str(error)) from error
        finding = look(self._partition)
        if finding.verdict == "absent":
            self._wait(finding)
        return self._conclude(finding)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Called when the trigger fired."""
        return self._conclude(Finding(**event))

    @property
    def _partition(self) -> Partition:
        return Partition(self.table, self.recipe, self.date)

    def _wait(self, finding: Finding) -> NoReturn:
        self.log.info("%s; looking again every %g s", finding.message, self.poll_seconds)
        self.defer(
            trigger=TableReadyTrigger(
                **asdict(self._partition),
                poll_seconds=self.poll_seconds,
                deadline=(dt.datetime.now(dt.UTC) + self.timeout).isoformat(),
            ),
            method_name="resume",
        )
        raise AssertionError  # defer() never returns

    def _conclude(self, finding: Finding) -> dict[str, Any]:
        if finding.verdict == "absent":
            msg = f"{finding.message}, after {self.timeout}. Make it: {self._partition.remedy}"
            raise AirflowFailException(msg)
        if finding.verdict == "refused":
            raise AirflowFailException(finding.message)
        self.log.info("%s", finding.message)
        return asdict(finding)
