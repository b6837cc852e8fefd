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
        from lumos_airflow.health.page import PREFIX, pages
        from lumos_airflow.reports import reports

        return [
            {"app": reports(), "url_prefix": REPORTS, "name": "LUMOS reports"},
            # After what lies below it: the first prefix that fits is taken.
            {"app": pages(), "url_prefix": PREFIX, "name": "LUMOS health"},
        ]

    # Relative, so that it holds below any path. Airflow keeps the list, and takes out of it what
    # it does not like: so it is a list.
    external_views = [  # noqa: RUF012
        {
            "name": "LUMOS",
            "href": "lumos/health",
            "url_route": "lumos-health",
            "destination": "nav",
            "nav_top_level": True,
        }
    ]
