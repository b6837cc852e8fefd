"""Assign users to variants, measure the experiments up to a business date, write their pages.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | daily at 02:00 (`LUMOS_START_HOURS`); waits until `activity` is ready for the date |
| feeds | the tables `exposures`, `outcomes`, `effects`; pages below `$LUMOS_HOME/reports` |

**When a task is red**

* `wait_activity`: the message names the newest ready date; look at `daily_aggregation`.
* `assign`, `measure`, *bad input*: the parameter `experiment` names none that runs on the date, a
  declaration has changed since its first day, or a SELECT is at fault; the message says which. All
  other experiments are done, and the tasks that follow run for them. A date on which nothing runs
  ends green, and so does an experiment of which a variant has no users yet.
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
    ready = jobs.wait("activity")
    # What is wrong with one experiment turns a task red when it is done with all others: those are
    # measured and reviewed all the same, and each later task is red for the one as well.
    despite = {"options": EXPERIMENT, "trigger_rule": "all_done_min_one_success"}
    assign = jobs.verb("assign", options=EXPERIMENT, writes=("exposures",), hours=1)
    measure = jobs.verb("measure", writes=("outcomes", "effects"), **despite)
    review = jobs.verb("review", hours=1, **despite)
    ready >> [assign, measure, review]
    assign >> measure >> review
