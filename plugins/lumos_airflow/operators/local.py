"""Run a verb as a subprocess of this interpreter: what ``LUMOS_PLATFORM=local`` means."""

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from lumos.allowed import allowed
from lumos.host.process import Command, child_environment, die_with_supervisor
from lumos.settings import Settings
from lumos_airflow.links.experiment import ExperimentPageLink
from lumos_airflow.links.monitor import MonitorPageLink
from lumos_airflow.operators.verb import VerbOperator


class LocalVerbOperator(VerbOperator):
    """``python -m lumos VERB``: its log live, its report as XCom, nothing of it left behind."""

    template_fields: Sequence[str] = (*VerbOperator.template_fields, "env")

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        **kwargs: Any,  # noqa: ANN401 - VerbOperator's own
    ) -> None:
        super().__init__(**kwargs)
        self.env = dict(env or {})
        self._command: Command | None = None

    def launcher(self) -> list[str]:
        """The interpreter's own arguments, before those of the verb."""
        return [sys.executable, "-m", "lumos"]

    def execute(self, context: Context) -> dict[str, Any]:
        """Run it to its end and return its report.

        Raises:
            AirflowFailException: Bad input, a refusing gate, or no report: no retry.
            AirflowException: A fault worth a retry.
        """
        self.log.info("business date %s, recipe %s", self.date, self.recipe)
        argv = [*self.launcher(), *self.arguments]
        self.log.info("running %s", shlex.join(argv))
        settings = Settings.from_environment()
        own = {
            "LUMOS_ACTOR": self.actor,
            "LUMOS_ALLOWED_RECIPES": ",".join(allowed(settings)),
        }
        environment = child_environment(os.environ, {**self.env, **own})
        self._command = Command(argv, environment=environment, warm=settings.warm_verbs)
        started = time.monotonic()
        with die_with_supervisor():
            ended = self._command.run(self.log.log)
        context["ti"].xcom_push("process_seconds", round(time.monotonic() - started, 2))
        return self.conclude(context, ended)

    def on_kill(self) -> None:
        """Marked failed, timed out or terminated: end every process of the verb.

        Called by a signal's handler at any moment of the task. So it logs nothing: a handler that
        interrupts a log line would wait for that line's lock for ever.
        """
        if self._command is not None:
            self._command.stop()


class LocalRanksOperator(LocalVerbOperator):
    """A verb on this machine under torchrun, where the recipe asks for several ranks."""

    def launcher(self) -> list[str]:
        """Torchrun instead of plain python, if there is more than one rank."""
        processes = self.recipe_processes()
        return _torchrun(processes) if processes > 1 else super().launcher()


class LocalReviewOperator(LocalVerbOperator):
    """``lumos review`` where Airflow is, whose server shows the page."""

    operator_extra_links = (ExperimentPageLink(),)


class LocalMonitorOperator(LocalVerbOperator):
    """``lumos monitor`` where Airflow is, whose server shows the page."""

    operator_extra_links = (MonitorPageLink(),)


def _torchrun(processes: int) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "-m", "lumos"),
    ]
