"""Run a verb as a subprocess of this interpreter: what ``LUMOS_PLATFORM=local`` means."""

import datetime as dt
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lumos.host.process import Command, Ended, child_environment, die_with_supervisor

_BAD_INPUT, _REFUSED = 2, 3


class LocalVerbOperator(BaseOperator):
    """``python -m lumos VERB``: its log live, its report as XCom, nothing of it left behind.

    ``options`` and ``switches`` are templates by flag name; an option that renders to nothing
    is left out, a switch is given when it renders to ``True``. ``overrides`` renders to a JSON
    list of ``KEY.PATH=VALUE``. Exit codes 1 and 75 are retried; 2 (bad input) and 3 (a gate
    refused) fail the task at once, with the verb's own sentence.
    """

    template_fields: Sequence[str] = ("date", "recipe", "options", "switches", "overrides", "env")
    ui_color = "#e4ecf7"

    def __init__(
        self,
        *,
        verb: str,
        options: Mapping[str, str] | None = None,
        switches: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        date: str = "{{ business_date() }}",
        recipe: str = "{{ params.recipe }}",
        overrides: str = "{{ params.settings | tojson }}",
        **kwargs: Any,  # noqa: ANN401 - BaseOperator's own
    ) -> None:
        super().__init__(**kwargs)
        self.verb = verb
        self.options = dict(options or {})
        self.switches = dict(switches or {})
        self.env = dict(env or {})
        self.date = date
        self.recipe = recipe
        self.overrides = overrides
        self._command: Command | None = None

    @property
    def arguments(self) -> list[str]:
        """What follows ``lumos`` on the command line; only valid once templates are rendered."""
        arguments = [self.verb, f"--recipe={self.recipe}", f"--date={self.date}"]
        arguments += [f"--{name}={value}" for name, value in self.options.items() if value]
        arguments += [f"--{name}" for name, value in self.switches.items() if value == "True"]
        arguments += [f"--set={change}" for change in json.loads(self.overrides) or ()]
        return arguments

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
        self._command = Command(argv, environment=child_environment(os.environ, self.env))
        started = time.monotonic()
        with die_with_supervisor():
            ended = self._command.run(self.log.log)
        context["ti"].xcom_push("process_seconds", round(time.monotonic() - started, 2))
        report = self._report(ended)
        self._note_assets(context, report)
        return report

    def on_kill(self) -> None:
        """Marked failed, timed out or terminated: end every process of the verb."""
        if self._command is not None:
            self.log.warning("killed: ending lumos %s and everything it started", self.verb)
            self._command.stop()

    def _report(self, ended: Ended) -> dict[str, Any]:
        said = f": {ended.last_error}" if ended.last_error else ""
        if ended.code == _BAD_INPUT:
            msg = f"lumos {self.verb} was given bad input, which a retry cannot mend{said}"
            raise AirflowFailException(msg)
        if ended.code == _REFUSED:
            msg = f"the gate of lumos {self.verb} refused{said}"
            raise AirflowFailException(msg)
        if ended.code:
            how = f"signal {ended.code - 128}" if ended.code > 128 else f"exit code {ended.code}"
            msg = f"lumos {self.verb} ended with {how}{said}"
            raise AirflowException(msg)
        try:
            return ended.report
        except ValueError as error:
            raise AirflowFailException(str(error)) from error

    def _note_assets(self, context: Context, report: Mapping[str, Any]) -> None:
        """Say in each outlet's event which date, version and rows it stands for."""
        written = {item["table"]: item for item in report.get("tables", ())}
        for asset in self.outlets:
            item = written.get(asset.name)
            if item is not None:
                context["outlet_events"][asset].extra.update(
                    {"business_date": self.date, "recipe": self.recipe, **item}
                )


class LocalTrainOperator(LocalVerbOperator):
    """``torchrun -m lumos train`` on this machine, as many ranks as the recipe asks for."""

    def launcher(self) -> list[str]:
        """Torchrun instead of plain python."""
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(self._processes()), "-m", "lumos"),
        ]

    def _processes(self) -> int:
        # Not at parse: recipes import numpy.
        from lumos.cli import parser, request_from
        from lumos.verbs import BadInput

        try:
            request = request_from(
                parser().parse_args(self.arguments), dt.datetime.now(dt.UTC).date()
            )
        except BadInput as error:
            raise AirflowFailException(str(error)) from error
        return request.recipe.training.processes
