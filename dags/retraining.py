"""A challenger, trained by torchrun, judged, and made champion if it is no worse.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | Mondays, 2 hours after the daily DAGs; waits until `sequences` is ready |
| feeds | `batch_scoring`, which scores with the champion |

**When a task is red**

* `wait_sequences`: its message names the newest ready date; look at `daily_aggregation`.
* `prepare_machine`: the disk under `LUMOS_HOME` is full or not writable.
* `train`: a fault is retried and resumes from the last checkpoint; a rank that was killed
  (exit 137) usually ran out of memory: trigger with the override `training.batch_size=...`.
* `evaluate`: the challenger stands in the registry; clear this task.
* `promote`, *the gate refused*: the challenger is worse than the champion or the baselines. The
  champion goes on serving; nothing needs to be done tonight. See its metrics in MLflow.
* `release_machine` runs whatever happened, and never hides that something failed.

A bad champion is taken back by one command: `lumos rollback --date YYYY-MM-DD`.
"""

from airflow.sdk import DAG, chain
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import WEEKLY, every

with DAG(
    dag_id="retraining",
    schedule=every(WEEKLY, later_hours=2),
    start_date=form.START,
    catchup=False,
    max_active_runs=1,
    default_args=form.defaults(),
    **watched("retraining"),
    user_defined_macros=form.MACROS,
    params=form.form(),
    tags=["lumos", "weekly", "torch"],
    doc_md=__doc__,
):
    prepared, released = jobs.machines("train", "evaluate")
    chain(
        jobs.wait("sequences"),
        prepared,
        jobs.train(writes=("model",), hours=96),
        jobs.verb("evaluate", writes=("evaluations",), hours=6),
        jobs.verb("promote"),
        released,
    )
