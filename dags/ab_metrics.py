"""Assign users to variants, measure the experiments up to a business date, write their pages.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | daily at 02:00 (`LUMOS_START_HOURS`); waits until `activity` is ready for the date |
| feeds | the tables `exposures`, `outcomes`, `effects`; pages below `$LUMOS_HOME/reports` |

**When a task is red**

* `wait_activity`: the message names the newest ready date; look at `daily_aggregation`.
* `assign`, `measure`, *bad input*: the parameter `experiment` names none that runs on the date, a
  declaration has changed since its first day, a metric's SELECT is at fault, or a variant has no
  users; the message says which. A date on which nothing runs ends green.
* `review`: *the gate refused* means that a split is broken (look for users that were lost or
  logged twice before reading any effect; the page hides them) or that a guardrail is crossed
  (somebody must decide today whether to stop). The page is written all the same: the button
  *Experiment page* on the task opens it.
"""

from airflow.sdk import DAG, Param
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import DAILY, every

EXPERIMENT = {"experiment": "{{ params.experiment or '' }}"}

with DAG(
    dag_id="ab_metrics",
    schedule=every(DAILY),
    start_date=form.START,
    catchup=False,
    max_active_runs=1,
    default_args=form.defaults(),
    **watched("ab_metrics"),
    user_defined_macros=form.MACROS,
    params=form.form(
        experiment=Param(
            None,
            type=["null", "string"],
            pattern=r"^[a-z][a-z0-9_]{0,62}$",
            title="Experiment",
            description="Its name in the recipe. Empty: every one that has started.",
        ),
    ),
    tags=["lumos", "daily", "experiment"],
    doc_md=__doc__,
):
    (
        jobs.wait("activity")
        >> jobs.verb("assign", options=EXPERIMENT, writes=("exposures",), hours=1)
        >> jobs.verb("measure", options=EXPERIMENT, writes=("outcomes", "effects"))
        >> jobs.verb("review", options=EXPERIMENT, hours=1)
    )
