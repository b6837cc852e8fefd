"""The button on a task that opens its run in Databricks, where its log can be read live."""

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

RUN_PAGE_URL = "run_page_url"


class DatabricksRunLink(BaseOperatorLink):
    """Shown from the moment that the run was submitted."""

    name = "Databricks run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ANN401 - Airflow's own
        """Address of the newest run of this task."""
        return XCom.get_value(ti_key=ti_key, key=RUN_PAGE_URL) or ""
