"""Tasks that die in ways of their own, for the alerts of a real Airflow.

One whose process is killed, one whose supervisor is lost with it, and one that a retry helps.
"""

import os
import signal

from airflow.sdk import DAG, task
from lumos_airflow import form
from lumos_airflow.deadlines import watched


@task(retries=0)
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(retries=0)
def lost() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@task(retries=1)
def flaky(ti=None) -> None:
    if ti.try_number == 1:
        raise OSError("once only")


for name, what in (("dies", killed), ("vanishes", lost), ("recovers", flaky)):
    with DAG(
        dag_id=name,
        schedule=None,
        start_date=form.START,
        default_args=form.defaults(),
        params=form.form(),
        **watched(name),
    ):
        what()
