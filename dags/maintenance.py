"""Remove what is past the recipe's retention, and keep every table quick to open.

| | |
| --- | --- |
| business date | the day on which the data interval starts, or the parameter `business_date` |
| runs | Mondays, 5 hours after the daily DAGs; beside anything else |
| feeds | nobody |

**What goes** is declared in the recipe, part `retention` (`docs/operate.md`); files' ages count
back from the business date. Trigger it with *Dry run* to have it counted only.

**When a task is red**

* `maintain`: a fault of storage or of MLflow. Nothing is half removed: clear it. Until it is green
  tables grow and open more slowly; nothing is wrong.
"""

from airflow.sdk import DAG, Param
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched
from lumos_airflow.timetables import WEEKLY, every

with DAG(
    dag_id="maintenance",
    schedule=every(WEEKLY, later_hours=5),
    start_date=form.START,
    catchup=False,
    max_active_runs=1,
    default_args=form.defaults(),
    **watched("maintenance"),
    user_defined_macros=form.MACROS,
    params=form.form(
        dry_run=Param(
            False,
            type="boolean",
            title="Dry run",
            description="Say what there is to remove, and change nothing.",
        )
    ),
    tags=["lumos", "weekly", "upkeep"],
    doc_md=__doc__,
):
    jobs.verb("maintain", switches={"dry-run": "{{ params.dry_run }}"}, hours=6)
