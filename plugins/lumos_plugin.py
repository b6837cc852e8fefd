"""The one file that Airflow loads from this folder by itself; the rest is imported by name."""

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from lumos_airflow.deadlines import Due
from lumos_airflow.links.experiment import REPORTS
from lumos_airflow.timetables import WholeDays


class LumosPlugin(AirflowPlugin):
    """What Airflow must know by name: a timetable and a deadline of ours, and pages to serve."""

    name = "lumos"
    timetables = (WholeDays,)
    deadline_references = (Due,)

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """Asked for by the API server alone, and only imported there: it costs seconds."""
        from lumos_airflow.reports import reports

        return [{"app": reports(), "url_prefix": REPORTS, "name": "LUMOS reports"}]
