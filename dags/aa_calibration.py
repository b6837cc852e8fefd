"""A/A replays: do the analyses of experiments still find as little in equals as they promise?

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | on the first of a month, 3 hours after the daily DAGs; waits for `activity` |
| feeds | the table `metrics`, job `replay`: who reads an experiment's p-values may look there |

**When a task is red**

* `wait_activity`: its message names the newest ready date; look at `daily_aggregation`.
* `replay`, *bad input*: activity does not reach back over the planned days of an experiment and the
  days before them. The message names the `lumos aggregate --days` that mends it.
* `replay`, *the gate refused*: an analysis finds more or less in users whom nobody treated than
  chance allows; the log names experiment, metric and rate. Chance alone does this once in a hundred
  months an experiment. Trigger it for another date: if it is red again, believe no p-value of that
  metric, and look for a few users who are most of it (declare `winsorize`), or for users who are
  many accounts of one person.
"""

from airflow.sdk import DAG, Param
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import MONTHLY, every

with DAG(
    dag_id="aa_calibration",
    schedule=every(MONTHLY, later_hours=3),
    start_date=form.START,
    catchup=False,
    max_active_runs=1,
    default_args=form.defaults(),
    **watched("aa_calibration"),
    user_defined_macros=form.MACROS,
    params=form.form(
        experiment=Param(
            None,
            type=["null", "string"],
            pattern=r"^[a-z][a-z0-9_]{0,62}$",
            title="Experiment",
            description="Its name in the recipe. Empty: every one that is declared.",
        ),
    ),
    tags=["lumos", "monthly", "experiment"],
    doc_md=__doc__,
):
    (
        jobs.wait("activity")
        >> jobs.verb(
            "replay",
            options={"experiment": "{{ params.experiment or '' }}"},
            writes=("metrics",),
        )
    )
