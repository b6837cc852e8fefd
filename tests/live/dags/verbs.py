"""One verb on Databricks, for a real scheduler and triggerer."""

import datetime as dt

from airflow.sdk import DAG, Param
from lumos_airflow.operators.databricks import DatabricksVerbOperator

with DAG("verbs", schedule=None, params={"does": Param([], type="array")}):
    DatabricksVerbOperator(
        task_id="sequences",
        verb="sequences",
        date="2024-05-10",
        recipe="complete_journey",
        options={"does": "{{ params.does | tojson }}"},
        overrides="[]",
        retries=1,
        priority_weight=100,  # before the heavy verbs that wait for a slot
        retry_delay=dt.timedelta(seconds=1),
    )
