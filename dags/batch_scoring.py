"""Forecast every active user's next days and publish calibrated scores for Pacman.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | daily at 02:00 (`LUMOS_START_HOURS`); waits for `sequences` and `quality` |
| feeds | Pacman, which reads the newest manifest |

**When a task is red**

* `wait_sequences`, `wait_quality`: the message names the newest ready date, or that quality was
  refused. Pacman keeps the newest published scores until their `valid_until`.
* `prepare_machine`: on AWS, it would not start the machine: the message names the right, quota or
  id that is wrong. Here, `LUMOS_HOME` is full or not writable.
* `resolve`, *bad input*: there is no champion yet - run `retraining`. It pins the model version:
  clear it too, and not `score` alone, to score with another one.
* `score`: a fault or a kill is retried and goes on with the shards that are missing. Its XCom
  `return_value` names shards and rows.
* `publish`, *the gate refused*: users, nulls, ranges, volume, drift or calibration are off, and
  the message names all that is; what is published stays as it is. Where a change of volume or
  drift is real, it says which override lets it pass.
* `publish`, skipped: by the parameter `publish`, or because the date is older than the newest
  one published, or was taken back. Publishing never goes back unless `republish` is ticked, so a
  backfill of old dates scores them and disturbs nobody.
* Published, and wrong: trigger `retract_scores`.
* `export`, skipped: nothing was published, it has expired by now (an old day in a backfill), or the
  recipe has no stores. Red: what a store serves stays as it is; a retry goes on where it was. *The
  gate refused*: what was read back differs; look at the store's memory and eviction, then trigger
  the date with *Do it again* ticked.
* `monitor`, *the gate refused*: nothing that is published is valid any more, scores are not spread
  as they were, or what was published lately came true less than before, or less than by a plain
  baseline. The log names each; the button *Monitors* opens the page that shows it over the weeks,
  with a link to what to do. What is published stays as it is.
* `shadow`, skipped: the recipe promotes without shadow days, or there is no challenger beside the
  champion. Red, it disturbs nobody: Pacman reads nothing of it.
* `promote`, *the gate refused*: the challenger was worse on the days it forecast as a shadow, and
  is challenger no more. The champion goes on serving; nothing needs to be done tonight.
* `release_machine` runs whatever happened, and never hides that something failed.
"""

from airflow.sdk import DAG, Param, chain
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.exporting import skip_without_stores
from lumos_airflow.publishing import REPUBLISH, skip_unless_wanted
from lumos_airflow.shadowing import skip_without_challenger
from lumos_airflow.timetables import DAILY, every

with DAG(
    dag_id="batch_scoring",
    schedule=every(DAILY),
    start_date=form.START,
    catchup=False,
    max_active_runs=2,
    default_args=form.defaults(),
    **watched("batch_scoring"),
    user_defined_macros=form.MACROS,
    params=form.form(
        publish=Param(
            True,
            type="boolean",
            title="Publish",
            description="Off: score only; Pacman sees nothing.",
        ),
        republish=Param(
            False,
            type="boolean",
            title="Publish even an older date, or one that was taken back",
            description="Else such a date is scored only.",
        ),
        model=Param(
            None,
            type=["null", "string"],
            pattern="^[0-9]+$",
            title="Model version",
            description="Empty: the champion. Old dates need a version that was trained before.",
        ),
    ),
    tags=["lumos", "daily", "torch", "pacman"],
    doc_md=__doc__,
):
    prepared, released = jobs.machines("score", "shadow")
    score = jobs.verb(
        "score",
        writes=("forecasts",),
        options={"model": "{{ ti.xcom_pull(task_ids='resolve')['details']['champion'] }}"},
    )
    publish = jobs.verb(
        "publish",
        switches={"force": REPUBLISH},
        writes=("scores", "manifests"),
        hours=1,
        pre_execute=skip_unless_wanted,
    )
    chain(
        [jobs.wait("sequences"), jobs.wait("quality")],
        prepared,
        jobs.verb("resolve", options={"model": "{{ params.model or '' }}"}, hours=1),
        score,
        publish,
        jobs.verb("export", hours=4, pre_execute=skip_without_stores),
        released,
    )
    # Whatever became of `publish`: refused or skipped, earlier forecasts mature all the same.
    publish >> jobs.verb("monitor", options={"of": "forecasts"}, hours=2, trigger_rule="all_done")
    # Beside publishing, not before it: Pacman waits for the one and not for the other.
    chain(
        score,
        jobs.verb("shadow", writes=("shadows",), pre_execute=skip_without_challenger),
        jobs.verb("promote", hours=1),
        released,
    )
