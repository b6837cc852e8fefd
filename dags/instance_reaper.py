"""End rented instances whose job is over or past its time. There should never be any.

| | |
| --- | --- |
| runs | hourly, where `LUMOS_PLATFORM=aws`; elsewhere there is nothing to end, and no such DAG |
| looks at | instances with this deployment's tag `lumos:owner`, and the records of their jobs |

Every verb's task ends its own instances, a machine that nobody looks after switches itself off,
and `release_machine` looks once more. This is the last of four nets (`docs/aws.md` says what each
of them can cost).

**When a task is red**

* `reap`: AWS did not answer, or did not let us; the message says which right is missing. Look at
  the EC2 console yourself, by the tag `lumos:owner`.

**When it ended something**, its log says what and why: a fault of ours worth a look at that job.
Trigger it with `dry_run` to have them named only.
"""

from airflow.sdk import DAG, Param
from lumos_airflow import form, jobs
from lumos_airflow.deadlines import watched

from lumos.schedule import Schedule

if jobs.is_cloud():
    with DAG(
        dag_id="instance_reaper",
        schedule="17 * * * *" if Schedule.from_environment().is_automatic else None,
        start_date=form.START,
        catchup=False,
        max_active_runs=1,
        default_args=form.defaults(),
        **watched("instance_reaper"),
        params={
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Name them only; end nothing.",
            )
        },
        tags=["lumos", "hourly", "cost"],
        doc_md=__doc__,
    ):
        jobs.reaper()
