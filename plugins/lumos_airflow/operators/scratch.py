"""The machine that trains when the platform is local: this one, with a scratch folder per run."""

import hashlib
import shutil
from pathlib import Path

from airflow.sdk import BaseOperator, Context

from lumos.settings import Settings


def scratch_folder(run_id: str) -> Path:
    """The folder of one DAG run; its ranks have it as TMPDIR."""
    # Not the run id itself: it may hold any character, and torch's sockets need a short path.
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:12]
    return Settings.from_environment().home / "scratch" / digest


class PrepareScratchOperator(BaseOperator):
    """Make the folder; its path is the XCom."""

    def execute(self, context: Context) -> str:
        """Also where a killed attempt left one."""
        folder = scratch_folder(context["run_id"])
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)


class ReleaseScratchOperator(BaseOperator):
    """Remove the folder and whatever a finished, failed or killed training left in it."""

    def execute(self, context: Context) -> None:
        """A folder that is gone already is no fault: the task may be cleared and run again."""
        folder = scratch_folder(context["run_id"])
        if folder.exists():
            shutil.rmtree(folder)
            self.log.info("removed %s", folder)
