"""Take back what was published for a date: Pacman gets the publication before it.

| | |
| --- | --- |
| business date | the parameter `business_date`, which must be given |
| runs | by hand only |
| feeds | Pacman: the publication before it, of the same date or an earlier one that is valid |

Nothing is deleted, and doing it twice is doing it once: without `version` the newest publication of
the date is meant, whether or not it was taken back already. What readers see afterwards is the last
line of the log, and `readers_see` of the XCom `return_value`.

**When a task is red**

* `retract`, *bad input*: nothing was published for the date, or not that `version`; the message
  names what there is.

Afterwards `batch_scoring` skips `publish` of the date, until it is run with `republish` ticked.
"""

from airflow.sdk import DAG, Param
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched

with DAG(
    dag_id="retract_scores",
    schedule=None,
    start_date=form.START,
    catchup=False,
    max_active_runs=1,
    default_args=form.defaults(),
    **watched("retract_scores"),
    user_defined_macros=form.MACROS,
    params=form.form(
        business_date=Param(
            type="string",
            format="date",
            title="Business date",
            description="Of the scores: their as_of.",
        ),
        reason=Param(
            None,
            type=["null", "string"],
            maxLength=500,
            title="Reason",
            description="Kept in the manifest, for whoever asks later.",
        ),
        version=Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Version",
            description="scores_version of the manifest. Empty: the newest of the date.",
        ),
    ),
    tags=["lumos", "manual", "pacman"],
    doc_md=__doc__,
):
    jobs.verb(
        "retract",
        options={
            "reason": "{{ params.reason or '' }}",
            "version": "{{ '' if params.version is none else params.version }}",
        },
        writes=("manifests",),
        hours=1,
    )
