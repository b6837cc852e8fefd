"""The button on ``monitor`` that opens the page it wrote, also where the task is red."""

from typing import Any

from airflow.sdk import BaseOperatorLink

from lumos_airflow.links.experiment import reports_of


class MonitorPageLink(BaseOperatorLink):
    """The page of the date, which both halves of the monitors share."""

    name = "Monitors"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ANN401 - Airflow's own
        """Address on the server that shows the UI."""
        reports = reports_of(operator.recipe)
        return f"{reports}/monitor/{operator.date}/index.html" if reports else ""
