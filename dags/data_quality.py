"""The full suite on a day's tables; its verdict gates scoring and publishing.

`monitor` compares the day with those before it. It gates nothing: drift is for people.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | daily at 02:00 (`LUMOS_START_HOURS`); waits until `activity` is ready for the date |
| feeds | `batch_scoring`, which waits for the verdict |

**When a task is red**

* `wait_activity`: timed out - its message names the newest ready date; look at
  `daily_aggregation`. Refused - a critical check failed there: mend that first.
* `validate`, *the gate refused*: a critical expectation failed; the log names it and the table
  `metrics` has every result. Nothing is published for the date until this task is green: mend
  the data, run `daily_aggregation` again, then clear from `wait_activity`.
* `validate`, green with warnings: published, but look at the metrics before the trend grows.
* `monitor`, *the gate refused*: rows are late or far fewer than usual, a raw column is gone, or a
  column's values are not what they were. The log names each; the button *Monitors* opens the page
  that shows it beside the days before, with a link to what to do. Scoring goes on meanwhile:
  `validate` alone decides about that.
"""

from airflow.sdk import DAG
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import DAILY, every

with DAG(
    dag_id="data_quality",
    schedule=every(DAILY),
    start_date=form.START,
    catchup=False,
    max_active_runs=2,
    default_args=form.defaults(),
    **watched("data_quality"),
    user_defined_macros=form.MACROS,
    params=form.form(),
    tags=["lumos", "daily", "spark"],
    doc_md=__doc__,
):
    # Beside the suite, not after it: a day that is refused is the very one to look at, and both are
    # leaves, so that neither hides that the other is red.
    jobs.wait("activity") >> [
        jobs.verb("validate", writes=("metrics",)),
        jobs.verb("monitor", options={"of": "tables"}, writes=("histograms",), hours=1),
    ]
