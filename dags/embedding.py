"""Every active user and every day of the calendar as a vector, with cohorts and sudden changes.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | daily at 02:00 (`LUMOS_START_HOURS`); waits until `sequences` is ready for the date |
| feeds | `embeddings`, `profiles` and `cohorts`, which `lumos similar` and consumers read |

**When a task is red**

* `wait_sequences`: its message names the newest ready date; look at `daily_aggregation`.
* `prepare_machine`: on AWS, it would not start the machine: the message names the right, quota or
  id that is wrong. Here, `LUMOS_HOME` is full or not writable.
* `embed`, *bad input*: there is no champion yet - run `retraining`. A fault or a kill is retried
  and goes on with the buckets that are missing.
* `embed`, green with the warning `unusual_share`: many more users than usual changed more than
  usual. The day is unusual, or its data is: look at `data_quality` before anybody acts on flags.
* `release_machine` runs whatever happened, and never hides that something failed.

The day after a promotion nobody is flagged: embeddings of two models cannot be compared, and the
report says so.
"""

from airflow.sdk import DAG, chain
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import DAILY, every

with DAG(
    dag_id="embedding",
    schedule=every(DAILY),
    start_date=form.START,
    catchup=False,
    max_active_runs=2,
    default_args=form.defaults(),
    **watched("embedding"),
    user_defined_macros=form.MACROS,
    params=form.form(),
    tags=["lumos", "daily", "torch"],
    doc_md=__doc__,
):
    prepared, released = jobs.machines("embed")
    chain(
        jobs.wait("sequences"),
        prepared,
        jobs.verb("embed", writes=("embeddings", "profiles", "cohorts")),
        released,
    )
