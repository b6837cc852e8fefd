"""Raw tables into the day's activity, event context and users, then one row a user.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | daily at 02:00 (`LUMOS_START_HOURS`), one date at a time |
| waits for | nothing: the raw rows of the business date must have landed |
| feeds | `data_quality`, `batch_scoring`, `ab_metrics`, `retraining` (they wait by themselves) |

**When a task is red.** The last ERROR line of its log says what was given, expected, and the
remedy. Clear the task after mending: every task may be run again, and then changes nothing that
is already right.

* `aggregate`, *bad input*: a raw table or column is missing, or no row of the date has landed.
  Ask the platform that lands it. A day that is truly empty: trigger with `allow_empty`.
* `aggregate`, *the gate refused*: a critical check failed on what was written; the rows that
  were refused stand in the table `quarantine` with a reason.
* `sequences`: `aggregate` of the same date must be green first.

**First load**: trigger with `days` = 365, the same code with a longer window. **Missed days**:
`airflow backfill create --dag-id daily_aggregation --from-date A --to-date B`.
"""

from airflow.sdk import DAG, Param
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import DAILY, every

with DAG(
    dag_id="daily_aggregation",
    schedule=every(DAILY),
    start_date=form.START,
    catchup=False,
    max_active_runs=1,
    default_args=form.defaults(),
    **watched("daily_aggregation"),
    user_defined_macros=form.MACROS,
    params=form.form(
        days=form.days("Aggregate this many days again, for rows that came late."),
        allow_empty=Param(
            False,
            type="boolean",
            title="Allow an empty day",
            description="Accept a business date without a single raw row.",
        ),
    ),
    tags=["lumos", "daily", "spark"],
    doc_md=__doc__,
):
    aggregate = jobs.verb(
        "aggregate",
        options={"days": "{{ params.days or '' }}"},
        switches={"allow-empty": "{{ params.allow_empty }}"},
        writes=("activity", "event_context", "users", "quarantine"),
    )
    aggregate >> jobs.verb("sequences", writes=("sequences",))
